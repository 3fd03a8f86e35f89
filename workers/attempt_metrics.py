"""Counts one attempt for Prometheus: how it ended, how long it took, and how much sound it did."""

from __future__ import annotations

import time

from stt.codes import ErrorCode, Stage
from stt.jobs.model import Job, Status
from stt.settings import Settings
from stt.telemetry import metrics
from workers.attempt_state import AttemptState

OUTCOMES = ("completed", "failed", "retried", "cancelled", "handed_back", "lost")
HANDED_BACK = "handed_back"
_OUTCOME = {
    Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "cancelled",
    Status.PENDING: "retried",
}  # fmt: skip


class AttemptMetrics:
    """The numbers of one attempt. Until a row says how it ended, it counts as lost."""

    def __init__(self, state: AttemptState, settings: Settings) -> None:
        self._state, self._begun = state, time.monotonic()
        self._model = metrics.model_label(state.job.model, settings.allowed_models)
        self._outcome = "lost"
        self._job: Job | None = None
        metrics.JOBS_ENDED.labels("completed", self._model, "")
        metrics.JOBS_ENDED.labels("cancelled", self._model, "")
        for code in ErrorCode:  # `rate()` misses the first step of a new series
            metrics.JOBS_ENDED.labels("failed", self._model, code)

    def model_loaded(self, seconds: float) -> None:
        """The engine has loaded the model of the job."""
        metrics.MODEL_LOADS.labels(self._model).inc()
        metrics.MODEL_LOAD_SECONDS.labels(self._model).observe(seconds)

    def ended(self, job: Job, outcome: str | None = None) -> None:
        """The row of the job was written at the end of the attempt.

        Args:
            job: The row.
            outcome: One of `OUTCOMES`; by default what the status of the row means.
        """
        self._job, self._outcome = job, outcome or _OUTCOME[job.status]

    def count(self) -> None:
        """Count the attempt; call it once, at its very end."""
        metrics.ATTEMPTS.labels(self._outcome).inc()
        if self._outcome == "lost":
            metrics.LEASES_LOST.inc()
        if self._job is None or not self._job.ended:
            return
        failed = self._job.status is Status.FAILED
        code = self._job.error_code if failed else None
        metrics.JOBS_ENDED.labels(self._job.status, self._model, code or "").inc()
        if self._job.status is Status.COMPLETED:
            self._count_completed(time.monotonic() - self._begun, self._job.duration_seconds)

    def _count_completed(self, seconds: float, sound: float | None) -> None:
        state = self._state
        metrics.JOB_SECONDS.labels(self._model).observe(seconds)
        for stage, waited in state.stage_seconds.items():
            if stage in set(Stage):
                metrics.STAGE_SECONDS.labels(stage).observe(waited)
        if sound:
            metrics.AUDIO_SECONDS.labels(self._model).inc(sound)
            if not state.resumed:  # else an earlier attempt has done a part of the work
                metrics.REAL_TIME_FACTOR.labels(self._model).observe(seconds / sound)
