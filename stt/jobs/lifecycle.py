"""Jobs and every transition of their status: the only caller of the job queries."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import asyncpg

from stt import codes
from stt.codes import ErrorCode, JobWarning, Parameters, WarningCode
from stt.db import queries
from stt.jobs.lookup import every, only
from stt.jobs.model import LOCAL, Connection, DeletedJob, Job, NewJob
from stt.jobs.options import JobOptions
from stt.transcript.schema import Segment

_RETRY_FIRST, _RETRY_MAX = 5.0, 300.0


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
    return only(row)


def _asked(options: JobOptions) -> dict[str, Any]:
    return {
        "model": options.model,
        "task": options.task,
        "requested_language": options.language,
        "options": options.extras,
        "options_hash": options.hash,
    }


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
    warnings: list[JobWarning],
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


async def complete(
    pool: asyncpg.Pool,
    job: Job,
    *,
    text: str,
    segments: list[Segment],
    file_path: str,
    language: str | None,
    duration_seconds: float | None,
    warnings: list[JobWarning],
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
    parameters: Parameters | None = None,
    log: str | None = None,
    warnings: list[JobWarning] | None = None,
) -> Job | None:
    """Give the job up: `message` is for a person, `log` what the engine said last."""
    row = await queries.fail_job(
        pool,
        id=job.id,
        claim=job.claim,
        code=code,
        message=message.replace("\0", ""),
        parameters=parameters or None,
        log=log and log.replace("\0", ""),
        warnings=job.warnings if warnings is None else warnings,
    )
    return Job.of(row)


async def retry_later(
    pool: Connection, job: Job, *, delay: float, code: str, message: str,
    parameters: Parameters | None = None, log: str | None = None,
    warnings: list[JobWarning] | None = None, given_back: bool = False,
) -> Job | None:  # fmt: skip
    """A failure that may pass: the job waits `delay` seconds for its next try; this one may be given back."""
    row = await queries.retry_later(
        pool,
        id=job.id,
        claim=job.claim,
        delay=delay,
        code=code,
        message=message.replace("\0", ""),
        parameters=parameters or None,
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


# What a person does, to jobs of an `owner`; None means of all owners.


async def request_cancel(pool: Connection, job_id: UUID, *, owner: str | None = LOCAL) -> Job | None:
    """Cancel a waiting job at once, ask a running one to stop; None where the owner has no such job."""
    return Job.of(await queries.request_cancel(pool, id=job_id, owner=owner))


async def restart(
    pool: Connection, job: Job, options: JobOptions, *, owner: str | None = LOCAL
) -> Job | None:
    """Do an ended job again; None where it has not ended.

    What was recognised for the same options is kept. A completed job, whose transcript stays until there is a
    new one, is recognised anew all the same, unless only its speakers are missing, or asked for otherwise.
    """
    row = await queries.restart_job(
        pool,
        id=job.id,
        owner=owner,
        priority=options.priority,
        outdated=[*codes.ABOUT_SPEAKERS, WarningCode.LESS_MEMORY],
        **_asked(options),
    )
    return Job.of(row)


async def delete(pool: Connection, job_id: UUID, *, owner: str | None = LOCAL) -> DeletedJob | None:
    """Remove the row and every row that refers to it; None where the owner has no such job."""
    row = await queries.delete_job(pool, id=job_id, owner=owner)
    return None if row is None else DeletedJob(**row)


# What maintenance and monitors ask.


async def release_expired(pool: asyncpg.Pool, *, max_attempts: int) -> list[Job]:
    """Free the jobs of workers that have gone silent; the crash has spent an attempt."""
    freed = []
    async with pool.acquire() as connection, connection.transaction():
        for job in await every(queries.expired_leases(connection)):
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
            code=ErrorCode.WORKER_LOST,
            message=codes.message(ErrorCode.WORKER_LOST),
        )
    parameters = {"reason": "given_up", "attempts": job.attempt}
    return await fail(
        connection,
        job,
        code=ErrorCode.WORKER_LOST,
        message=codes.message(ErrorCode.WORKER_LOST, **parameters),
        parameters=parameters,
    )


async def fail_waiting(pool: Connection, job_id: UUID, *, code: ErrorCode) -> Job | None:
    """Fail a waiting job that no worker could do, for a reason without parameters; None: it waits no more."""
    return Job.of(await queries.fail_waiting(pool, id=job_id, code=code, message=codes.message(code)))
