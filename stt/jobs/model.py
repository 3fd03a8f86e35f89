"""The job as a row of the table jobs, and as programs see it."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from stt.codes import JobWarning
from stt.jobs.options import JobOptions

# The owner of every job until users sign in.
LOCAL = "local"

# Every query accepts any of these.
Connection = asyncpg.Pool | asyncpg.Connection | PoolConnectionProxy


class Status(StrEnum):
    """The status of a job."""

    PENDING = "pending"  # waits for a worker, or for its next attempt
    PROCESSING = "processing"  # a worker holds a lease on it
    COMPLETED = "completed"  # its transcript is stored
    FAILED = "failed"  # given up, with a reason
    CANCELLED = "cancelled"  # stopped on request

    @property
    def ended(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of `jobs`. Times carry a zone; durations are seconds, sizes bytes."""

    id: UUID
    owner: str
    original_filename: str
    file_path: str
    file_type: str
    file_size: int
    duration_seconds: float | None
    status: Status
    priority: str
    model: str
    task: str
    requested_language: str | None
    language: str | None
    options: dict[str, Any]
    options_hash: str
    transcription_text: str | None
    transcription_file_path: str | None
    stage: str | None
    progress: float
    eta_seconds: float | None
    attempt: int
    claim: int
    worker: str | None
    claimed_at: dt.datetime | None
    lease_expires_at: dt.datetime | None
    not_before: dt.datetime
    cancel_requested: bool
    warnings: list[JobWarning]
    error_code: str | None
    error_message: str | None
    error_parameters: dict[str, Any] | None  # what the message was made of (stt.codes); None in old rows
    created_at: dt.datetime
    updated_at: dt.datetime
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    error_log: str | None
    request_id: str | None  # of the upload or the retry that started it, for the log
    queue_position: int | None = None
    estimated_start_at: dt.datetime | None = None

    @classmethod
    def of(cls, row: asyncpg.Record | None) -> Self | None:
        """The job of a row; columns that only a newer version knows are left out."""
        if row is None:
            return None
        known = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        return cls(**{**known, "status": Status(row["status"])})

    @property
    def ended(self) -> bool:
        return self.status.ended

    @property
    def log_keys(self) -> dict[str, Any]:
        """The keys of every line of the log about this job."""
        keys = {"job_id": str(self.id), "owner": self.owner, "attempt": self.attempt}
        return keys | ({"request_id": self.request_id} if self.request_id else {})

    @property
    def has_transcript(self) -> bool:
        """Whether it was ever completed."""
        return self.transcription_file_path is not None

    @property
    def retry_at(self) -> dt.datetime | None:
        """When a job that failed for a passing reason is tried again."""
        waiting = self.status is Status.PENDING and self.error_code is not None
        return self.not_before if waiting else None

    def public(self, *, text: bool = True) -> dict[str, Any]:
        """The job as interface.md shows it; without its text in lists and events."""
        row = asdict(self)
        row.update(retry_at=self.retry_at, warnings=[_public_warning(one) for one in self.warnings])
        shown = PUBLIC if text else PUBLIC - {"transcription_text"}
        return {name: _plain(value) for name, value in row.items() if name in shown}


PUBLIC = {field.name for field in fields(Job)} - {
    "file_path", "transcription_file_path", "requested_language", "options_hash", "claim", "worker",
    "claimed_at", "lease_expires_at", "not_before", "cancel_requested", "error_log", "error_parameters",
    "request_id",
} | {"retry_at"}  # fmt: skip


def _public_warning(warning: JobWarning) -> dict[str, Any]:
    """A warning without the parameters of its sentence."""
    return {name: value for name, value in warning.items() if name != "parameters"}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A recording whose bytes are stored and which waits for its row."""

    id: UUID
    original_filename: str
    file_path: str
    file_type: str
    file_size: int
    duration_seconds: float | None
    options: JobOptions
    owner: str = LOCAL
    request_id: str | None = None  # of what started it, for the log


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedJob:
    """What is still needed of a job whose row is gone."""

    file_path: str  # the storage key of its recording
    owner: str
    claim: int
