"""The estimate of what is left of a job, and of the time it takes. The arithmetic of `progress`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers.engine.rates import StageRate
from workers.engine.stage_progress import (
    SPEAKERS_START,
    DiarizationProgress,
    RunningBatches,
    StageProgress,
)

_UNKNOWN_LENGTH = 600.0  # seconds of audio that are assumed to be left where the length is unknown
# Bounds of how much slower the machine may be taken to be than it was for earlier jobs (below 1: faster).
_LEAST_SLOWDOWN, _MOST_SLOWDOWN = 0.25, 4.0


class Estimate:
    """The stages of a job and what is left of them. Times are in seconds. Not thread-safe."""

    def __init__(
        self,
        rates: Mapping[str, StageRate],
        *,
        start: float,
        decoder_threads: int,
        diarized_beside: Callable[[], float] | None,
        clock: Callable[[], float],
    ) -> None:
        """See `ProgressEstimator`, which has the same arguments."""
        self._start, self._clock, self._diarized_beside = start, clock, diarized_beside
        spans = {name: rate for name, rate in rates.items() if name != "speakers"}
        self.stages = {name: StageProgress(rate, start) for name, rate in spans.items()}
        self.speakers = DiarizationProgress(rates["speakers"]) if "speakers" in rates else None
        self.running = RunningBatches(rates["recognise"].factor * decoder_threads)
        self.duration: float | None = None  # of the recording, as far as it is known
        self.remaining = 1.0  # 1 - progress
        self._begun = clock()
        # The positions at the last report. The first report counts what an earlier attempt has done.
        self._reported = dict.fromkeys(self.stages, 0.0)

    @property
    def recognised(self) -> bool:
        """Whether this attempt has recognised anything."""
        return self.stages["recognise"].done > self._start

    def update(self) -> float | None:
        """Lower `remaining` by what was done since the last call; returns the seconds that are left."""
        factors, diarization = self._factors(), self.expected_diarization()
        reported, share = (self.speakers.reported, self.speakers.share) if self.speakers else (0.0, 0.0)
        positions = self._positions()
        before = self._left_of_spans(factors, self._reported) + diarization * (1 - reported)
        after = self._left_of_spans(factors, positions) + diarization * (1 - share)
        self.remaining *= min(1.0, after / before) if before > 0 else 1.0
        self._reported = positions
        if self.speakers:
            self.speakers.reported = share
        return self._time_left(factors, diarization)

    def length(self) -> float:
        """Seconds of the recording, assumed where they are not known."""
        decoded = self.stages["decode"].done
        return max(self.duration or decoded + _UNKNOWN_LENGTH, decoded, 1e-3)

    def _positions(self) -> dict[str, float]:
        return {name: stage.done for name, stage in self.stages.items()}

    def _factors(self) -> dict[str, float]:
        """The real-time factor of each stage now."""
        running = self.running.done(self._clock())
        return {
            name: stage.factor(running if name == "recognise" else 0.0) for name, stage in self.stages.items()
        }

    def _slowdown(self) -> float:
        """How many times slower the machine is than it was for earlier jobs."""
        learned = [name for name, stage in self.stages.items() if stage.learned]
        before = sum(self.stages[name].known.factor for name in learned)
        if not before:
            return 1.0
        factors = self._factors()
        return min(_MOST_SLOWDOWN, max(_LEAST_SLOWDOWN, sum(factors[name] for name in learned) / before))

    def expected_diarization(self) -> float:
        """Seconds that diarization is expected to take from when all spans are done; 0 without it."""
        if self.speakers is None:
            return 0.0
        start = 0.0 if self._diarized_beside else SPEAKERS_START
        return self.speakers.known.factor * self.length() * self._slowdown() + start

    def _left_of_spans(self, factors: Mapping[str, float], positions: Mapping[str, float]) -> float:
        length = self.length()
        return sum(factor * max(0.0, length - positions[name]) for name, factor in factors.items())

    def _time_left(self, factors: Mapping[str, float], diarization: float) -> float | None:
        """Seconds that the engine still needs; None while nothing was measured or learned."""
        recognise = self.stages["recognise"]
        if not recognise.learned and recognise.done <= self._start < self.length():
            return None
        positions = self._positions()
        positions["recognise"] += self.running.done(self._clock())
        spans = self._left_of_spans(factors, positions)
        if self.speakers is None:
            return spans
        return spans + self._diarization_left(self.speakers, spans, diarization)

    def _diarization_left(self, speakers: DiarizationProgress, spans: float, expected: float) -> float:
        """Seconds that diarization needs after all spans are done, which takes `spans` more seconds."""
        share = self._diarized_beside() if self._diarized_beside else 0.0
        if share > 0.05:  # it runs beside recognition, and its pace is known
            passed = self._clock() - self._begun
            return max(0.0, passed * (1 - share) / share - spans)
        return speakers.left(self._clock(), expected)
