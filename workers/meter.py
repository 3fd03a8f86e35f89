"""An honest fraction of a job, from 0 to 1, that never goes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# What each stage costs of the time: an estimate.
DECODE = 0.08
HEAR = 1 - DECODE
# The rest is for storing the result, which is not the engine's to report.
ENGINE_SHARE = 0.99
INTERVAL = 0.25  # seconds between reports
_NO_LENGTH = 600.0  # seconds taken to be left where nothing tells a recording's length


class Meter:
    """Turns "so much is decoded, so much is heard" into the job's progress, told four times a second.

    Both are seconds of the recording, and both go on at once: spans are decoded while others are heard.
    """

    def __init__(self, tell: Callable[[str, float, float | None], None], start: float = 0.0) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._told_at = 0.0
        self._fraction = 0.0
        self._decoded = self._heard = self._start = start
        self.duration: float | None = None
        self.speakers_cost = 0.0  # share of the job's time in which speakers are told apart after all spans

    def decoded(self, until: float) -> None:
        """The recording is decoded up to here."""
        with self._lock:
            self._decoded = max(self._decoded, until)
            self._report("decode" if self._heard <= self._start else "transcribe")

    def heard(self, seconds: float) -> None:
        """So much more of it is recognised."""
        with self._lock:
            self._heard += seconds
            self._report("transcribe")

    def aligning(self) -> None:
        """Words of a span are being timed."""
        with self._lock:
            self._report("align")

    def speakers(self, share: float) -> None:
        """All spans are done, and `share` of telling the speakers apart."""
        with self._lock:
            self._set("speakers", ENGINE_SHARE * (1 - self.speakers_cost * (1 - min(1.0, share))))

    def finish(self) -> None:
        """All spans are done."""
        with self._lock:
            self._set("finish", ENGINE_SHARE, at_once=True)

    def _report(self, stage: str) -> None:
        length = max(self.duration or self._decoded + _NO_LENGTH, self._decoded, 1e-3)
        share = min(1.0, (DECODE * self._decoded + HEAR * self._heard) / length)
        self._set(stage, ENGINE_SHARE * (1 - self.speakers_cost) * share)

    def _set(self, stage: str, fraction: float, *, at_once: bool = False) -> None:
        self._fraction = max(self._fraction, min(fraction, ENGINE_SHARE))
        now = time.monotonic()
        if not at_once and now - self._told_at < INTERVAL:
            return
        self._told_at = now
        self._tell(stage, round(self._fraction, 4), self.duration)
