"""Monotonic progress of a job, from 0 to 1, and the time that is left.

The time left is estimated from the seconds of audio that each stage still has to do, times the real-time
factor of the stage. A factor begins with what earlier jobs taught (`workers.engine.rates`); the more this job
has done, the more its own speed counts.

At each report: remaining *= left_after / left_before, and progress = 1 - remaining. So progress is even in
time, and a wrong factor changes its speed but makes no jump.

Stages run at the same time. Each moment is counted for the last stage that is active, as the job waits for
that one: the stages before it are ahead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from stt.codes import Stage
from workers.engine.rates import StageRate

T = TypeVar("T")

# The engine's share of the progress. The rest is the worker's, which stores the result.
ENGINE_SHARE = 0.99
INTERVAL = 0.25  # seconds between reports
_UNKNOWN_LENGTH = 600.0  # seconds of audio that are assumed to be left where the length is unknown
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
# Bounds of how much slower the machine may be taken to be than it was for earlier jobs (below 1: faster).
_LEAST_SLOWDOWN, _MOST_SLOWDOWN = 0.25, 4.0

# Takes the stage, the progress, the duration of the recording and the time left (seconds, None: unknown).
Report = Callable[[Stage, float, float | None, float | None], None]


@dataclass(slots=True)
class StageProgress:
    """How far a stage is, and its real-time factor. All are seconds."""

    known: StageRate  # the factor before this job
    done: float  # position in the recording
    wall: float = 0.0  # time waited for the stage lately,
    audio: float = 0.0  # and the audio that it did in that time
    all_wall: float = 0.0  # the same for the whole job;
    all_audio: float = 0.0  # audio without speech is not counted, as recognition skips it

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
    wall: float = 0.0  # seconds that ended batches took lately,
    audio: float = 0.0  # and their seconds of audio

    def end(self, number: int, now: float, *, succeeded: bool) -> float:
        """Remove a batch; returns its seconds of audio, or 0 if it failed."""
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


class ProgressEstimator:
    """Turns events of the stages into reports of progress and time left, four a second at most.

    Threads may share it. All times are seconds of the recording.
    """

    def __init__(
        self,
        report: Report,
        rates: Mapping[str, StageRate],
        *,
        start: float = 0.0,
        decoder_threads: int = 1,
        diarized_beside: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            report: Takes each report.
            rates: Factors of the stages "decode" and "recognise", and of "align" and "speakers" if the job
                has them.
            start: Where a resumed job goes on, in seconds of the recording.
            decoder_threads: Batches that run at the same time.
            diarized_beside: Returns the share (0 to 1) of diarization that is done, where that runs at the
                same time as recognition.
            clock: Seconds, from any zero.
        """
        self._report_to, self._clock, self._diarized_beside = report, clock, diarized_beside
        self._lock = threading.RLock()
        self._reported_at = -INTERVAL
        self._start = start
        self._stages = {
            name: StageProgress(rate, start) for name, rate in rates.items() if name != "speakers"
        }
        self._speakers = DiarizationProgress(rates["speakers"]) if "speakers" in rates else None
        self._running = RunningBatches(rates["recognise"].factor * decoder_threads)
        self._batch = 0
        self._active = {"decode": False, "align": False}
        # Time is not counted for decoding while a resumed job skips to `start` and libraries load.
        self._skipping = True
        self._begun = self._since = clock()
        self._remaining = 1.0
        # The positions at the last report. The first report counts what an earlier attempt has done.
        self._reported = dict.fromkeys(self._stages, 0.0)
        self.duration: float | None = None

    # Events

    def decoding(self, spans: Iterator[T]) -> Iterator[T]:
        """The same spans; decoding is active while the next one is waited for."""
        while True:
            self.set_active("decode", True)
            try:
                span = next(spans)
            except StopIteration:
                return
            finally:
                self.set_active("decode", False)
            yield span

    def set_active(self, stage: str, active: bool) -> None:
        """The stage "decode" or "align" starts or stops working."""
        with self._lock:
            self._account()
            self._active[stage] = active

    def decoded(self, until: float) -> None:
        """The recording is decoded up to `until`."""
        with self._lock:
            self._account()
            self._skipping = False
            stage = self._stages["decode"]
            stage.advance(max(0.0, until - stage.done))
            recognised = self._stages["recognise"].done > self._start
            self._report(Stage.TRANSCRIBE if recognised else Stage.DECODE)

    def recognising(self, seconds: float, do: Callable[..., T], *args: object) -> T:
        """What `do(*args)` returns; meanwhile a batch with so many seconds of audio counts as running."""
        number = self.begin(seconds)
        succeeded = False
        try:
            result = do(*args)
            succeeded = True
        finally:
            self.end(number, succeeded=succeeded)
        return result

    def begin(self, seconds: float) -> int:
        """A decoder thread begins a batch with so many seconds of audio; returns the batch's number."""
        with self._lock:
            self._account()
            self._batch += 1
            self._running.batches[self._batch] = self._clock(), seconds
            return self._batch

    def end(self, number: int, *, succeeded: bool = True) -> None:
        """A batch has ended."""
        with self._lock:
            self._account()
            seconds = self._running.end(number, self._clock(), succeeded=succeeded)
            self._stages["recognise"].advance(seconds)
            self._report(Stage.TRANSCRIBE)

    def silent(self, seconds: float) -> None:
        """So many seconds of audio hold no speech and need no recognition."""
        with self._lock:
            self._account()
            self._stages["recognise"].advance(seconds, measures=False)
            self._report(Stage.TRANSCRIBE)

    def aligning(self) -> None:
        """Alignment of a window with wav2vec2 begins."""
        with self._lock:
            self.set_active("align", True)
            self._report(Stage.ALIGN)

    def aligned(self, seconds: float) -> None:
        """Alignment of a window has ended; the window takes so many seconds of the recording."""
        with self._lock:
            self.set_active("align", False)
            if "align" in self._stages:
                self._stages["align"].advance(seconds)
            self._report(Stage.ALIGN)

    def finished(self, until: float) -> None:
        """Everything before `until` is recognised, and its words are timed."""
        with self._lock:
            self.set_active("align", False)
            if "align" in self._stages:
                stage = self._stages["align"]
                stage.advance(until - stage.done, measures=stage.all_wall > 0)

    def speakers(self, share: float) -> None:
        """All spans are done, and `share` (0 to 1) of diarization."""
        with self._lock:
            self._account()
            if self._speakers is not None:
                expected = self._expected_diarization()
                self._speakers.update(
                    share, self._clock(), expected, beside=self._diarized_beside is not None
                )
            self._report(Stage.SPEAKERS)

    def finish(self) -> None:
        """The engine is done with the job."""
        with self._lock:
            self._account()
            self._remaining = 0.0
            self._send(Stage.FINISH, 0.0)

    # What the job teaches

    def measured(self) -> dict[str, tuple[float, float]]:
        """For each stage of the job, the seconds that the job waited for it, and the seconds of audio."""
        with self._lock:
            found = {name: (stage.all_wall, stage.all_audio) for name, stage in self._stages.items()}
            if self._speakers is not None and self._speakers.begun is not None and self._speakers.share == 1:
                start = 0.0 if self._diarized_beside else SPEAKERS_START
                waited = self._since - self._speakers.begun - start
                found["speakers"] = max(0.0, waited), self._length()
            return found

    # Arithmetic; the caller holds the lock

    def _account(self) -> None:
        """Count the time since the last event for a stage, or for none: a model was loaded."""
        now = self._clock()
        passed, self._since = now - self._since, now
        if self._active["align"] and "align" in self._stages:
            self._stages["align"].waited(passed)
        elif self._running.batches:
            self._stages["recognise"].waited(passed)
        elif self._active["decode"] and not self._skipping:
            self._stages["decode"].waited(passed)

    def _length(self) -> float:
        decoded = self._stages["decode"].done
        return max(self.duration or decoded + _UNKNOWN_LENGTH, decoded, 1e-3)

    def _positions(self) -> dict[str, float]:
        return {name: stage.done for name, stage in self._stages.items()}

    def _factors(self) -> dict[str, float]:
        """The real-time factor of each stage now."""
        running = self._running.done(self._clock())
        return {
            name: stage.factor(running if name == "recognise" else 0.0)
            for name, stage in self._stages.items()
        }

    def _slowdown(self) -> float:
        """How many times slower the machine is than it was for earlier jobs."""
        learned = [name for name, stage in self._stages.items() if stage.learned]
        before = sum(self._stages[name].known.factor for name in learned)
        if not before:
            return 1.0
        factors = self._factors()
        return min(_MOST_SLOWDOWN, max(_LEAST_SLOWDOWN, sum(factors[name] for name in learned) / before))

    def _expected_diarization(self) -> float:
        """Seconds that diarization is expected to take from when all spans are done; 0 without it."""
        if self._speakers is None:
            return 0.0
        start = 0.0 if self._diarized_beside else SPEAKERS_START
        return self._speakers.known.factor * self._length() * self._slowdown() + start

    def _left_of_spans(self, factors: Mapping[str, float], positions: Mapping[str, float]) -> float:
        length = self._length()
        return sum(factor * max(0.0, length - positions[name]) for name, factor in factors.items())

    def _report(self, stage: Stage) -> None:
        factors, diarization = self._factors(), self._expected_diarization()
        reported, share = (self._speakers.reported, self._speakers.share) if self._speakers else (0.0, 0.0)
        positions = self._positions()
        before = self._left_of_spans(factors, self._reported) + diarization * (1 - reported)
        after = self._left_of_spans(factors, positions) + diarization * (1 - share)
        self._remaining *= min(1.0, after / before) if before > 0 else 1.0
        self._reported = positions
        if self._speakers:
            self._speakers.reported = share
        self._send(stage, self._time_left(factors, diarization))

    def _time_left(self, factors: Mapping[str, float], diarization: float) -> float | None:
        """Seconds that the engine still needs; None while nothing was measured or learned."""
        recognise = self._stages["recognise"]
        if not recognise.learned and recognise.done <= self._start < self._length():
            return None
        positions = self._positions()
        positions["recognise"] += self._running.done(self._clock())
        spans = self._left_of_spans(factors, positions)
        if self._speakers is None:
            return spans
        return spans + self._diarization_left(self._speakers, spans, diarization)

    def _diarization_left(self, speakers: DiarizationProgress, spans: float, expected: float) -> float:
        """Seconds that diarization needs after all spans are done, which takes `spans` more seconds."""
        share = self._diarized_beside() if self._diarized_beside else 0.0
        if share > 0.05:  # it runs beside recognition, and its pace is known
            passed = self._clock() - self._begun
            return max(0.0, passed * (1 - share) / share - spans)
        return speakers.left(self._clock(), expected)

    def _send(self, stage: Stage, left: float | None) -> None:
        now = self._clock()
        if stage != Stage.FINISH and now - self._reported_at < INTERVAL:
            return
        self._reported_at = now
        progress = ENGINE_SHARE * (1 - self._remaining)
        self._report_to(stage, round(progress, 4), self.duration, None if left is None else round(left, 1))


class DiarizationProgress:
    """How far diarization is once all spans are done."""

    def __init__(self, known: StageRate) -> None:
        self.known = known
        self.begun: float | None = None  # when all spans were done
        self.share = self.reported = 0.0  # of what was left of it when all spans were done
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
