"""What one attempt knows of its job between two writes to the database."""

from __future__ import annotations

import time
from dataclasses import replace

import structlog

from stt import codes
from stt.codes import JobWarning, WarningCode
from stt.jobs.model import Job
from stt.transcript import passages
from stt.transcript.schema import Turn
from workers.engine.protocol import StageEvent
from workers.failures import Stop

log = structlog.stdlib.get_logger(__name__)


class AttemptState:
    """The job with its progress, its warnings, and what has been recognised. No input or output."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.warnings = list(job.warnings)
        self.warnings_saved = True  # whether the row has all of them
        self.spans = self.segments = 0  # how many are saved, by this attempt and by earlier ones
        self.turns: list[Turn] = []
        self.resumed = False  # whether an earlier attempt had saved spans
        self.stage_seconds: dict[str, float] = {}  # as `DoneEvent` tells
        self.stop_reason: Stop | None = None  # the first one counts
        self._left: tuple[float, float] | None = None  # seconds to the end, and when the engine sent them

    @property
    def has_lost_claim(self) -> bool:
        return self.stop_reason is Stop.LOST

    @property
    def eta(self) -> float | None:
        """Seconds left, counted down from the engine's last estimate; None without one."""
        if self._left is None:
            return None
        left, received_at = self._left
        return round(max(0.0, left - (time.monotonic() - received_at)), 1)

    def on_stage(self, event: StageEvent) -> None:
        """Progress never goes back, and reaches 1 only when the transcript is stored."""
        if event["left"] is not None:
            self._left = event["left"], time.monotonic()
        self.job = replace(
            self.job,
            stage=event["stage"],
            progress=min(max(self.job.progress, event["progress"]), 0.999),
            eta_seconds=self.eta,
            duration_seconds=event.get("duration") or self.job.duration_seconds,
        )

    def warn(self, code: WarningCode) -> None:
        """Add a warning without parameters."""
        self.add_warning(codes.warning(code))

    def add_warning(self, warning: JobWarning) -> None:
        """Add a warning, unless the job has the same one; those about passages are merged."""
        log.warning("the job has a warning", code=warning["code"])  # its sentence may quote the recording
        if "times" in warning:
            self.warnings = passages.add(self.warnings, warning)
        elif any(_is_same(warning, known) for known in self.warnings):
            return
        else:
            self.warnings.append(warning)
        self.warnings_saved = False


def _is_same(one: JobWarning, other: JobWarning) -> bool:
    return (one["code"], one["message"]) == (other["code"], other["message"])
