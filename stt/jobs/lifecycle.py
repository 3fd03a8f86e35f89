"""Jobs and every transition of their status: the only caller of the job queries."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from stt.db import queries
from stt.jobs.options import JobOptions
from stt.transcript import speakers
from stt.web.problems import Problem

# Every query takes either.
Connection = asyncpg.Pool | asyncpg.Connection | PoolConnectionProxy

_RETRY_FIRST, _RETRY_MAX = 5.0, 300.0
_PAGE = 500

# The warning in the row by which a later try knows that memory did not suffice.
LESS_MEMORY = "less_memory"
FILE_GONE = "file_gone"
FILE_GONE_MESSAGE = "The recording is no longer in the storage: somebody removed it, or a disk lost it."


class Status(StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"  # waits for a worker, or for its next try
    PROCESSING = "processing"  # a worker holds a lease on it
    COMPLETED = "completed"  # its transcript is stored
    FAILED = "failed"  # given up, with a reason
    CANCELLED = "cancelled"  # stopped as asked

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
    warnings: list[dict[str, Any]]
    error_code: str | None
    error_message: str | None
    created_at: dt.datetime
    updated_at: dt.datetime
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    error_log: str | None
    queue_position: int | None = None
    estimated_start_at: dt.datetime | None = None

    @classmethod
    def of(cls, row: asyncpg.Record | None) -> Self | None:
        if row is None:
            return None
        return cls(**{**row, "status": Status(row["status"])})

    @property
    def ended(self) -> bool:
        return self.status.ended

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
        row.update(retry_at=self.retry_at)
        shown = PUBLIC if text else PUBLIC - {"transcription_text"}
        return {name: _plain(value) for name, value in row.items() if name in shown}


PUBLIC = {field.name for field in fields(Job)} - {
    "file_path", "transcription_file_path", "requested_language", "options_hash", "claim", "worker",
    "claimed_at", "lease_expires_at", "not_before", "cancel_requested", "error_log",
} | {"retry_at"}  # fmt: skip


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
    owner: str = "local"


async def create(pool: Connection, new: NewJob) -> Job:
    """Insert the row: from now on the recording is never forgotten."""
    row = await queries.insert_job(
        pool,
        id=new.id,
        owner=new.owner,
        original_filename=new.original_filename,
        file_path=new.file_path,
        file_type=new.file_type,
        file_size=new.file_size,
        duration_seconds=new.duration_seconds,
        priority=new.options.priority,
        **_asked(new.options),
    )
    return _some(row)


def _asked(options: JobOptions) -> dict[str, Any]:
    return {
        "model": options.model,
        "task": options.task,
        "requested_language": options.language,
        "options": options.extras,
        "options_hash": options.hash,
    }


async def get(pool: Connection, job_id: UUID) -> Job | None:
    return Job.of(await queries.get_job(pool, id=job_id))


async def with_place(pool: Connection, job: Job) -> Job:
    """The job with its place in the queue, 1 being next, and when it will start, where that can be told."""
    if job.status is not Status.PENDING:
        return job
    position = await queries.queue_position(pool, id=job.id)
    start = position and await queries.estimated_start(pool, position=position)
    return replace(job, queue_position=position, estimated_start_at=start)


async def list_page(
    pool: Connection,
    *,
    status: Status | None = None,
    q: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Job], str | None]:
    """A page of jobs, newest first, and the cursor of the next page if there is one.

    Raises:
        Problem: 422, the cursor is none of ours.
    """
    before_created, before_id = _read_cursor(cursor)
    found = await _all(
        queries.list_jobs(
            pool,
            status=status,
            q=q,
            limit=limit + 1,
            before_created=before_created,
            before_id=before_id,
        )
    )
    page = found[:limit]
    return page, _cursor(page[-1]) if len(found) > limit else None


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at.isoformat()}|{job.id}".encode()).decode()


def _read_cursor(cursor: str | None) -> tuple[dt.datetime | None, UUID | None]:
    if not cursor:
        return None, None
    try:
        created, _, job_id = base64.urlsafe_b64decode(cursor).decode().partition("|")
        # asyncpg takes years from 1 to 9999 in UTC, whatever the zone: no real cursor comes near.
        when = dt.datetime.fromisoformat(created).astimezone(dt.UTC)
        return when, UUID(job_id)
    except (binascii.Error, ValueError, OverflowError):
        raise Problem(
            422, "bad_cursor", "Bad cursor", "cursor: take it from next_cursor of the page before"
        ) from None


async def changed_since(pool: Connection, since: dt.datetime) -> AsyncGenerator[Job, None]:
    """Every job that has changed since then, oldest change first."""
    after = UUID(int=0)
    while page := await _all(queries.jobs_changed_since(pool, since=since, after=after, limit=_PAGE)):
        for job in page:
            yield job
        since, after = page[-1].updated_at, page[-1].id


async def active(pool: Connection) -> list[Job]:
    """Jobs that wait or run, oldest first."""
    return await _all(queries.active_jobs(pool))


async def segments(pool: Connection, job: Job) -> list[dict[str, Any]]:
    """What is known of the text so far: the transcript of a finished job, else its spans in order.

    A job that was done before and came to nothing this time has the text that it had.

    Returns:
        WhisperX segments, each with its number in the recording as ``id``.
    """
    if not (job.ended and job.has_transcript):
        return await recognised(pool, job)
    row = await latest_transcript(pool, job)
    return _numbered(row["segments"] if row else [])


async def recognised(pool: Connection, job: Job) -> list[dict[str, Any]]:
    """The segments as they were told while they were recognised: speakers may since have parted some."""
    return _numbered([segment for span in await spans(pool, job) for segment in span["segments"]])


def _numbered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, **segment} for number, segment in enumerate(found)]


async def latest_transcript(pool: Connection, job: Job) -> asyncpg.Record | None:
    """The newest version of the finished transcript: `version, language, model, segments, author`.

    A job that is done again keeps its old one until there is a new one.
    """
    row: asyncpg.Record | None = await queries.latest_transcript(pool, id=job.id)
    return row


async def spans(pool: Connection, job: Job) -> list[asyncpg.Record]:
    """The spans already recognised for these options, in order.

    Each has `number, start, end, segments, last, unsure`; with one that is the last, they are all there.
    """
    rows = [row async for row in queries.get_spans(pool, id=job.id, options_hash=job.options_hash)]
    return _unbroken(rows)


async def peaks(pool: Connection, job: Job) -> list[tuple[float, bytes]]:
    """The wave form of what was decoded, in pieces: the second each begins at, and its peaks.

    Of all spans, for whatever options they were made: the recording is the same.
    """
    return [(row["start"], row["peaks"]) async for row in queries.get_peaks(pool, id=job.id)]


def _unbroken(rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    return [row for number, row in enumerate(rows) if row["number"] == number]


async def server_time(pool: Connection) -> dt.datetime:
    """Now, by PostgreSQL's clock."""
    now: dt.datetime = await queries.server_time(pool)
    return now


# What a worker does. None or False: the claim is no longer ours, and nothing was written.


async def claim_next(pool: asyncpg.Pool, *, worker: str, lease: float) -> Job | None:
    """Take the best job that is due, for `lease` seconds; None where none is."""
    async with pool.acquire() as connection, connection.transaction():
        await queries.lock_claims(connection)
        return Job.of(await queries.claim_next(connection, worker=worker, lease=lease))


async def heartbeat(
    pool: Connection,
    job: Job,
    *,
    lease: float,
    stage: str,
    progress: float,
    eta_seconds: float | None,
    duration_seconds: float | None,
    language: str | None,
    warnings: list[dict[str, Any]],
) -> Job | None:
    """Renew the lease and keep the progress. Progress never goes back."""
    row = await queries.heartbeat(
        pool,
        id=job.id,
        claim=job.claim,
        lease=lease,
        stage=stage,
        progress=progress,
        eta_seconds=eta_seconds,
        duration_seconds=duration_seconds,
        language=language,
        warnings=warnings,
    )
    return Job.of(row)


async def save_span(
    pool: Connection,
    job: Job,
    *,
    number: int,
    start: float,
    end: float,
    segments: list[dict[str, Any]],
    last: bool = False,
    peaks: bytes | None = None,
    unsure: bool | None = None,
) -> bool:
    """Keep a finished span; `last` is the one that the recording ends with.

    `unsure`: whether its engine was unsure of most of it, for that of a later try; None where nobody spoke.
    """
    row = await queries.save_span(
        pool,
        id=job.id,
        claim=job.claim,
        number=number,
        start=start,
        end=end,
        segments=segments,
        last=last,
        peaks=peaks,
        unsure=unsure,
    )
    return row is not None


async def complete(
    pool: asyncpg.Pool,
    job: Job,
    *,
    text: str,
    segments: list[dict[str, Any]],
    file_path: str,
    language: str | None,
    duration_seconds: float | None,
    warnings: list[dict[str, Any]],
) -> Job | None:
    """Commit a transcription: the row and the next version of the transcript, or neither."""
    async with pool.acquire() as connection, connection.transaction():
        row = await queries.complete_job(
            connection,
            id=job.id,
            claim=job.claim,
            text=text,
            file_path=file_path,
            language=language,
            duration_seconds=duration_seconds,
            warnings=warnings,
        )
        if row is None:
            return None
        await queries.insert_transcript(
            connection,
            id=job.id,
            language=language,
            model=job.model,
            segments=segments,
            author="whisperx",
        )
        return Job.of(row)


async def fail(
    pool: Connection,
    job: Job,
    *,
    code: str,
    message: str,
    log: str | None = None,
    warnings: list[dict[str, Any]] | None = None,
) -> Job | None:
    """Give the job up: `message` is for a person, `log` what the engine said last."""
    row = await queries.fail_job(
        pool,
        id=job.id,
        claim=job.claim,
        code=code,
        message=message.replace("\0", ""),
        log=log and log.replace("\0", ""),
        warnings=job.warnings if warnings is None else warnings,
    )
    return Job.of(row)


async def retry_later(
    pool: Connection, job: Job, *, delay: float, code: str, message: str, log: str | None = None,
    warnings: list[dict[str, Any]] | None = None, given_back: bool = False,
) -> Job | None:  # fmt: skip
    """A failure that may pass: the job waits `delay` seconds for its next try; this one may be given back."""
    row = await queries.retry_later(
        pool,
        id=job.id,
        claim=job.claim,
        delay=delay,
        code=code,
        message=message.replace("\0", ""),
        log=log and log.replace("\0", ""),
        warnings=job.warnings if warnings is None else warnings,
        given_back=int(given_back),
    )
    return Job.of(row)


async def hand_back(pool: Connection, job: Job) -> Job | None:
    """The worker stops through no fault of the job, whose try is given back."""
    return Job.of(await queries.hand_back(pool, id=job.id, claim=job.claim))


async def cancelled_as_asked(pool: Connection, job: Job) -> Job | None:
    """The worker has stopped a job that was asked to stop."""
    return Job.of(await queries.cancelled_as_asked(pool, id=job.id, claim=job.claim))


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt: doubling, with jitter so that a herd of jobs spreads out."""
    return float(min(_RETRY_MAX, _RETRY_FIRST * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25))  # noqa: S311


# What a person does.


async def request_cancel(pool: Connection, job_id: UUID) -> Job | None:
    """Cancel a waiting job at once, ask a running one to stop; None where the job has ended."""
    return Job.of(await queries.request_cancel(pool, id=job_id))


async def restart(pool: Connection, job: Job, options: JobOptions) -> Job | None:
    """Do an ended job again; None where it has not ended.

    What was recognised for the same options is kept. A completed job, whose transcript stays until there is a
    new one, is recognised anew all the same, unless only its speakers are missing, or asked for otherwise.
    """
    row = await queries.restart_job(
        pool,
        id=job.id,
        priority=options.priority,
        outdated=[*speakers.WARNINGS, LESS_MEMORY],
        **_asked(options),
    )
    return Job.of(row)


async def delete(pool: Connection, job_id: UUID) -> str | None:
    """Remove the row and all that hangs on it; the storage key of its recording comes back."""
    row = await queries.delete_job(pool, id=job_id)
    return None if row is None else str(row["file_path"])


# What maintenance and monitors ask.


async def release_expired(pool: asyncpg.Pool, *, max_attempts: int) -> list[Job]:
    """Free the jobs of workers that have gone silent; the crash has spent an attempt."""
    freed = []
    async with pool.acquire() as connection, connection.transaction():
        for job in await _all(queries.expired_leases(connection)):
            freed.append(await _release(connection, job, max_attempts))
    return [job for job in freed if job is not None]


async def _release(connection: Connection, job: Job, max_attempts: int) -> Job | None:
    if job.cancel_requested:
        return await cancelled_as_asked(connection, job)
    if job.attempt < max_attempts:
        return await retry_later(
            connection,
            job,
            delay=0,  # the silence was wait enough
            code="worker_lost",
            message="The worker that had this recording stopped answering; another one goes on.",
        )
    return await fail(
        connection,
        job,
        code="worker_lost",
        message=f"The worker stopped answering in each of {job.attempt} attempts, so this recording was "
        "given up. It is kept: retry it, perhaps with a smaller model.",
    )


async def waiting_files(pool: Connection) -> dict[UUID, str]:
    """The storage keys of the recordings that workers will open."""
    return {row["id"]: row["key"] async for row in queries.waiting_files(pool)}


async def fail_waiting(pool: Connection, job_id: UUID, *, code: str, message: str) -> Job | None:
    """Give a waiting job up that no worker could do; None where it waits no more."""
    return Job.of(await queries.fail_waiting(pool, id=job_id, code=code, message=message))


async def count_due(pool: Connection) -> int:
    return int(await queries.count_due(pool))


async def stored_keys(pool: Connection) -> set[str]:
    return {row["key"] async for row in queries.stored_keys(pool)}


async def _all(rows: Any) -> list[Job]:
    return [_some(row) async for row in rows]


def _some(row: asyncpg.Record) -> Job:
    job = Job.of(row)
    assert job is not None
    return job
