"""Every transition of a job's status. Each is one conditional statement in sql/queries.sql."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import asyncpg

from stt import codes
from stt.codes import ErrorCode, JobWarning, Parameters, WarningCode
from stt.db import queries
from stt.jobs.lookup import job_of, jobs_of
from stt.jobs.model import LOCAL, Connection, DeletedJob, Job, NewJob
from stt.jobs.options import JobOptions
from stt.transcript.schema import Segment

# Seconds before the second attempt, and the longest wait; both without jitter.
_RETRY_FIRST, _RETRY_MAX = 5.0, 300.0


async def create(pool: Connection, new: NewJob) -> Job:
    """Insert the row of a stored recording."""
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
        request_id=new.request_id,
        **_columns(new.options),
    )
    return job_of(row)


def _columns(options: JobOptions) -> dict[str, Any]:
    return {
        "model": options.model,
        "task": options.task,
        "requested_language": options.language,
        "options": options.extras,
        "options_hash": options.hash,
    }


# Transitions by a worker. None: the worker no longer has the claim, and nothing was written.


async def claim_next(pool: asyncpg.Pool, *, worker: str, lease: float) -> Job | None:
    """Claim the first job of the queue; None if no job is due.

    Args:
        pool: The database.
        worker: The worker's name, for people.
        lease: Seconds after which the job is released unless a heartbeat comes.
    """
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
    """Renew the lease and store the progress, which never decreases.

    Args:
        pool: The database.
        job: The job, with the claim of the worker.
        lease: Seconds from now until the lease expires.
        stage: What the worker does at the moment.
        progress: The fraction that is done, 0 to 1.
        eta_seconds: Seconds left; None while unknown.
        duration_seconds: The length of the recording; None keeps what the row has.
        language: The spoken language; None keeps what the row has.
        warnings: The warnings so far.
    """
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
    """Commit a transcription: the row and the next version of the transcript, or neither.

    Args:
        pool: The database.
        job: The job, with the claim of the worker.
        text: The whole text.
        segments: WhisperX segments, without numbers.
        file_path: The storage key of the published result.
        language: The spoken language, as an ISO 639-1 code; None if nobody speaks.
        duration_seconds: The length of the recording; None keeps what the row has.
        warnings: The warnings of the attempt.
    """
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
    """Fail the job for good.

    Args:
        pool: The database.
        job: The job, with the claim of the worker.
        code: The reason, for programs.
        message: The reason, for a person.
        parameters: What the sentence was made of, for translations.
        log: The engine's last lines.
        warnings: The warnings of the attempt; None keeps those of `job`.
    """
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
    """Let a job wait for its next attempt after a failure that may pass.

    Args:
        pool: The database.
        job: The job, with the claim of the worker.
        delay: Seconds until the next attempt.
        code: The reason, for programs.
        message: The reason, for a person.
        parameters: What the sentence was made of, for translations.
        log: The engine's last lines.
        warnings: The warnings of the attempt; None keeps those of `job`.
        given_back: True if this attempt does not count.
    """
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
    """Return a job whose worker stops for another reason; the attempt does not count."""
    return Job.of(await queries.hand_back(pool, id=job.id, claim=job.claim))


async def finish_cancel(pool: Connection, job: Job) -> Job | None:
    """End a job whose cancellation was requested, after its worker has stopped."""
    return Job.of(await queries.finish_cancel(pool, id=job.id, claim=job.claim))


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt: doubling, with jitter.

    Without the jitter, jobs that failed together would start together again.
    """
    return _with_jitter(min(_RETRY_MAX, _RETRY_FIRST * 2.0 ** (attempt - 1)))


def outage_backoff(job: Job) -> float:
    """Seconds to wait after an attempt that does not count: the time since the first one, with jitter.

    So the wait doubles as in `backoff`, though the row does not count these attempts.
    """
    tried = (job.updated_at - (job.started_at or job.updated_at)).total_seconds()
    return _with_jitter(min(_RETRY_MAX, max(_RETRY_FIRST, tried)))


def _with_jitter(seconds: float) -> float:
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311  it spreads load, it keeps no secret


# Transitions by a person, of jobs of an `owner`; None means all owners.


async def request_cancel(pool: Connection, job_id: UUID, *, owner: str | None = LOCAL) -> Job | None:
    """Cancel a waiting job at once, ask a running one to stop; None if it has ended or does not exist.

    Args:
        pool: The database.
        job_id: The job.
        owner: Whose job; None for anyone's.
    """
    return Job.of(await queries.request_cancel(pool, id=job_id, owner=owner))


async def restart(
    pool: Connection,
    job: Job,
    options: JobOptions,
    *,
    owner: str | None = LOCAL,
    request_id: str | None = None,
) -> Job | None:
    """Restart an ended job; None where it has not ended, or the owner has no such job.

    Spans are reused if the recognition options are unchanged. A completed job is recognised again unless only
    diarization options differ or diarization failed; its transcript stays until there is a new one.

    Args:
        pool: The database.
        job: The job.
        options: All its options from now on.
        owner: Whose job; None for anyone's.
        request_id: Of what restarts it, for the log.
    """
    row = await queries.restart_job(
        pool,
        id=job.id,
        owner=owner,
        priority=options.priority,
        request_id=request_id,
        outdated=[*codes.ABOUT_SPEAKERS, WarningCode.LESS_MEMORY],
        **_columns(options),
    )
    return Job.of(row)


async def delete(pool: Connection, job_id: UUID, *, owner: str | None = LOCAL) -> DeletedJob | None:
    """Remove the row and every row that refers to it; None where the owner has no such job.

    Args:
        pool: The database.
        job_id: The job.
        owner: Whose job; None for anyone's.
    """
    row = await queries.delete_job(pool, id=job_id, owner=owner)
    return None if row is None else DeletedJob(**row)


# Transitions by maintenance, of all owners' jobs. `returning *` gives the text of a restarted job too.


async def release_expired(pool: asyncpg.Pool, *, max_attempts: int) -> list[Job]:
    """Release the jobs whose lease has expired; the attempt counts."""
    freed = []
    async with pool.acquire() as connection, connection.transaction():
        for job in await jobs_of(queries.expired_leases(connection)):
            freed.append(await _release(connection, job, max_attempts))
    return [job for job in freed if job is not None]


async def _release(connection: Connection, job: Job, max_attempts: int) -> Job | None:
    if job.cancel_requested:
        return await finish_cancel(connection, job)
    if job.attempt < max_attempts:
        return await retry_later(
            connection,
            job,
            delay=0,  # the job has waited since the last heartbeat
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
    """Fail a waiting job that no worker could do; None if it no longer waits. `code` has no parameters."""
    return Job.of(await queries.fail_waiting(pool, id=job_id, code=code, message=codes.message(code)))
