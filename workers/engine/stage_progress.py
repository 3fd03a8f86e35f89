"""How far each stage of a job is, and its real-time factor in this job."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.engine.rates import StageRate

# Weight of a guessed or learned factor beside the factor of this job, in seconds of audio.
_GUESS_WEIGHT, _LEARNED_WEIGHT = 5.0, 60.0
# Seconds of audio over which this job's factor is averaged: the load of the machine changes.
_RECENT_AUDIO = 600.0
# The largest share of a running batch that is assumed to be done, however long it has run.
_MOST_OF_BATCH = 0.95
# Diarization after recognition: seconds until it begins with the audio, and the share of its time that goes
# into the audio. The rest is clustering.
SPEAKERS_START, _AUDIO_SHARE = 5.0, 0.99
# Seconds by which its expected and measured time are both enlarged: so the first measurements count little.
_SMOOTHING_SECONDS = 5.0


@dataclass(slots=True)
class StageProgress:
    """How far a stage is, and its real-time factor. All numbers are in seconds."""

    known: StageRate  # the factor before this job
    done: float  # position in the recording
    wall: float = 0.0  # clock time that the job waited for the stage, for the last `_RECENT_AUDIO` seconds
    audio: float = 0.0  # audio that the stage did in `wall`
    all_wall: float = 0.0  # as `wall`, for the whole job
    all_audio: float = 0.0  # as `audio`, for the whole job, without audio that recognition skipped

    @property
    def learned(self) -> bool:
        """Whether the known factor was learned from earlier jobs, rather than guessed."""
        return self.known.audio > 0

    def factor(self, running: float = 0.0) -> float:
        """The real-time factor now; `running`: seconds of audio that running batches have done already."""
        weight = min(_LEARNED_WEIGHT, self.known.audio) if self.learned else _GUESS_WEIGHT
        return (self.known.factor * weight + self.wall) / (weight + self.audio + running)

    def advance(self, seconds: float, *, measures: bool = True) -> None:
        """So many seconds of audio are done; `measures`: they count for the factor that is learned."""
        self.done += seconds
        self.audio += seconds
        self.all_audio += seconds if measures else 0.0
        if self.audio > _RECENT_AUDIO:
            self.wall *= _RECENT_AUDIO / self.audio
            self.audio = _RECENT_AUDIO

    def waited(self, seconds: float) -> None:
        """The job waited so long for this stage."""
        self.wall += seconds
        self.all_wall += seconds


@dataclass(slots=True)
class RunningBatches:
    """The batches that decoder threads work on, and how much of them is done by the pace of earlier ones."""

    guess: float  # seconds of a decoder thread per second of audio
    batches: dict[int, tuple[float, float]] = field(default_factory=dict)  # started at, seconds of audio
    wall: float = 0.0  # clock time that batches took, for the last `_RECENT_AUDIO` seconds of audio
    audio: float = 0.0  # seconds of audio of those batches

    def end(self, number: int, now: float, *, succeeded: bool) -> float:
        """Remove a batch; returns its seconds of audio, or 0 if it failed.

        Args:
            number: The key of the batch in `batches`.
            now: The time, in seconds of the clock.
            succeeded: Whether it was recognised.
        """
        started, seconds = self.batches.pop(number)
        if not succeeded:
            return 0.0
        keep = min(1.0, _RECENT_AUDIO / (self.audio + seconds))
        self.wall, self.audio = (self.wall + now - started) * keep, (self.audio + seconds) * keep
        return seconds

    def done(self, now: float) -> float:
        """Estimated seconds of audio that are done in the running batches."""
        factor = self.wall / self.audio if self.wall else self.guess
        return sum(
            min(_MOST_OF_BATCH * seconds, (now - started) / factor if factor else 0.0)
            for started, seconds in self.batches.values()
        )


class DiarizationProgress:
    """How far diarization is once all spans are done."""

    def __init__(self, known: StageRate) -> None:
        self.known = known
        self.begun: float | None = None  # when all spans were done
        # Done of the diarization that was left when all spans were done, 0 to 1: now, and at the last report.
        self.share = self.reported = 0.0
        self._first = self._last = 0.0
        self._left: tuple[float, float] | None = None  # seconds, and when that was estimated

    def update(self, share: float, now: float, expected: float, *, beside: bool) -> None:
        """Note how much is done.

        Args:
            share: Of the whole diarization, 0 to 1.
            now: The time, in seconds of the clock.
            expected: Seconds that were expected from when all spans were done.
            beside: Whether it ran at the same time as recognition.
        """
        if self.begun is None:
            self.begun = now
            self._first = min(share, 0.99) if beside else 0.0
            self._left = expected, now
        share = min(1.0, share)
        if share <= self._last:
            return
        self._last = share
        self.share = max(self.share, (share - self._first) / (1 - self._first))
        start = 0.0 if beside else SPEAKERS_START
        planned = start + _AUDIO_SHARE * self.share * (expected - start)
        slowdown = (_SMOOTHING_SECONDS + now - self.begun) / (_SMOOTHING_SECONDS + planned)
        self._left = (expected - planned) * slowdown, now

    def left(self, now: float, expected: float) -> float:
        """Seconds until the turns are known; `expected` before diarization has begun."""
        if self._left is None:
            return expected
        seconds, since = self._left
        return max(0.0, seconds - (now - since))
