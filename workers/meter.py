"""An honest fraction of a job, from 0 to 1, that never goes back."""

from __future__ import annotations

import time
from collections.abc import Callable

# What each stage costs of a span's time.
COSTS = {"decode": 0.05, "transcribe": 0.8, "align": 0.15}
# The rest is for storing the result, which is not the engine's to report.
ENGINE_SHARE = 0.99
INTERVAL = 0.25  # seconds between reports
_NO_LENGTH = 600.0  # seconds taken to be left where nothing tells a recording's length


class Meter:
    """Turns "so far into this stage of this span" into the job's progress, told four times a second."""

    def __init__(self, tell: Callable[[str, float, float | None], None]) -> None:
        self._tell = tell
        self._told_at = 0.0
        self._stage = ""
        self._fraction = 0.0
        self.duration: float | None = None
        self.speakers_cost = 0.0  # share of the job's time in which speakers are told apart after all spans

    def report(self, stage: str, start: float, end: float, share: float) -> None:
        """`share` of `stage` is done of the span from `start` to `end`, in seconds of the recording."""
        done = sum(COSTS[earlier] for earlier in _before(stage)) + COSTS[stage] * min(1.0, share)
        length = max(self.duration or end + _NO_LENGTH, end, 1e-3)
        share = (start + done * (end - start)) / length
        self._set(stage, ENGINE_SHARE * (1 - self.speakers_cost) * min(1.0, share))

    def speakers(self, share: float) -> None:
        """All spans are done, and `share` of telling the speakers apart."""
        self._set("speakers", ENGINE_SHARE * (1 - self.speakers_cost * (1 - min(1.0, share))))

    def finish(self) -> None:
        """All spans are done."""
        self._set("finish", ENGINE_SHARE, at_once=True)

    def _set(self, stage: str, fraction: float, *, at_once: bool = False) -> None:
        self._fraction = max(self._fraction, min(fraction, ENGINE_SHARE))
        now = time.monotonic()
        if not at_once and now - self._told_at < INTERVAL:
            return
        self._told_at = now
        self._tell(stage, round(self._fraction, 4), self.duration)


def _before(stage: str) -> list[str]:
    stages = list(COSTS)
    return stages[: stages.index(stage)]
