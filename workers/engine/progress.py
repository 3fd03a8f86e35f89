"""Monotonic progress of a job, from 0 to 1, and the time that is left.

The time left is estimated from the seconds of audio that each stage still has to do, times the real-time
factor of the stage. A factor begins with what earlier jobs taught (`workers.engine.rates`); the more this job
has done, the more its own speed counts.

At each report: remaining *= left_after / left_before, and progress = 1 - remaining. So progress is even in
time, and a wrong factor changes its speed but makes no jump.

Stages run at the same time. Each moment is counted for the last stage that is active, as the job waits for
that one: earlier stages have already done more of the recording.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from stt.codes import Stage
from workers.engine.estimate import Estimate
from workers.engine.rates import StageRate
from workers.engine.stage_progress import SPEAKERS_START

T = TypeVar("T")

# The engine's share of the progress. The rest is the worker's, which stores the result.
ENGINE_SHARE = 0.99
INTERVAL = 0.25  # seconds between reports

# Takes the stage, the progress, the duration of the recording and the time left (seconds, None: unknown).
Report = Callable[[Stage, float, float | None, float | None], None]


class ProgressEstimator:
    """Turns events of the stages into reports of progress and time left, four a second at most.

    Threads may share it. Positions and amounts of audio are seconds of the recording. The time left is
    seconds of the clock.
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
        self._estimate = Estimate(
            rates, start=start, decoder_threads=decoder_threads, diarized_beside=diarized_beside, clock=clock
        )
        self._batch = 0
        self._active = {"decode": False, "align": False}
        # Time is not counted for decoding while a resumed job skips to `start` and libraries load.
        self._skipping = True
        self._since = clock()

    @property
    def duration(self) -> float | None:
        """Seconds of the recording, as far as they are known."""
        return self._estimate.duration

    @duration.setter
    def duration(self, seconds: float | None) -> None:
        self._estimate.duration = seconds

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
            stage = self._estimate.stages["decode"]
            stage.advance(max(0.0, until - stage.done))
            self._report(Stage.TRANSCRIBE if self._estimate.recognised else Stage.DECODE)

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
            self._estimate.running.batches[self._batch] = self._clock(), seconds
            return self._batch

    def end(self, number: int, *, succeeded: bool = True) -> None:
        """A batch has ended."""
        with self._lock:
            self._account()
            seconds = self._estimate.running.end(number, self._clock(), succeeded=succeeded)
            self._estimate.stages["recognise"].advance(seconds)
            self._report(Stage.TRANSCRIBE)

    def silent(self, seconds: float) -> None:
        """So many seconds of audio hold no speech and need no recognition."""
        with self._lock:
            self._account()
            self._estimate.stages["recognise"].advance(seconds, measures=False)
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
            if "align" in self._estimate.stages:
                self._estimate.stages["align"].advance(seconds)
            self._report(Stage.ALIGN)

    def finished(self, until: float) -> None:
        """Everything before `until` is recognised, and its words are timed."""
        with self._lock:
            self.set_active("align", False)
            if "align" in self._estimate.stages:
                stage = self._estimate.stages["align"]
                stage.advance(until - stage.done, measures=stage.all_wall > 0)

    def speakers(self, share: float) -> None:
        """All spans are done, and `share` (0 to 1) of diarization."""
        with self._lock:
            self._account()
            if self._estimate.speakers is not None:
                expected = self._estimate.expected_diarization()
                self._estimate.speakers.update(
                    share, self._clock(), expected, beside=self._diarized_beside is not None
                )
            self._report(Stage.SPEAKERS)

    def finish(self) -> None:
        """The engine is done with the job."""
        with self._lock:
            self._account()
            self._estimate.remaining = 0.0
            self._send(Stage.FINISH, 0.0)

    # What the job teaches

    def measured(self) -> dict[str, tuple[float, float]]:
        """For each stage of the job, the seconds that the job waited for it, and the seconds of audio."""
        with self._lock:
            stages, speakers = self._estimate.stages, self._estimate.speakers
            found = {name: (stage.all_wall, stage.all_audio) for name, stage in stages.items()}
            if speakers is not None and speakers.begun is not None and speakers.share == 1:
                start = 0.0 if self._diarized_beside else SPEAKERS_START
                waited = self._since - speakers.begun - start
                found["speakers"] = max(0.0, waited), self._estimate.length()
            return found

    # Arithmetic; the caller holds the lock

    def _account(self) -> None:
        """Count the time since the last event for a stage, or for none: a model was loaded."""
        now = self._clock()
        passed, self._since = now - self._since, now
        if self._active["align"] and "align" in self._estimate.stages:
            self._estimate.stages["align"].waited(passed)
        elif self._estimate.running.batches:
            self._estimate.stages["recognise"].waited(passed)
        elif self._active["decode"] and not self._skipping:
            self._estimate.stages["decode"].waited(passed)

    def _report(self, stage: Stage) -> None:
        self._send(stage, self._estimate.update())

    def _send(self, stage: Stage, left: float | None) -> None:
        now = self._clock()
        if stage != Stage.FINISH and now - self._reported_at < INTERVAL:
            return
        self._reported_at = now
        progress = ENGINE_SHARE * (1 - self._estimate.remaining)
        self._report_to(stage, round(progress, 4), self.duration, None if left is None else round(left, 1))
