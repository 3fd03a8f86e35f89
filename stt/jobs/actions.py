"""The use cases: accept a recording, cancel, retry and delete a job.

They know nothing of HTTP: the pages and the JSON API call the same functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import structlog
from structlog.contextvars import bound_contextvars

from stt.codes import ErrorCode
from stt.jobs import lifecycle, lookup, options, tickets
from stt.jobs.errors import JobEnded, JobNotEnded, JobNotFound
from stt.jobs.messages import END_EVENTS, current, deleted, state
from stt.jobs.model import LOCAL, Job, NewJob
from stt.media import telephone
from stt.media.errors import MediaError
from stt.media.probe import Media, probe
from stt.pubsub import Hub, publish
from stt.settings import Settings
from stt.storage import Incoming, Storage

log = structlog.stdlib.get_logger(__name__)

# Seconds that `delete` waits for a worker to stop. It sees the request at its next heartbeat, after a second.
_STOP_SECONDS = 10
# Errors of files that libav can open: they are not raw telephone sound, whatever their name ends with.
_NOT_RAW_SOUND = {ErrorCode.ENCRYPTED, ErrorCode.EMPTY_AUDIO, ErrorCode.TOO_LONG}


@dataclass(frozen=True, slots=True)
class Services:
    """The shared objects that the use cases need; each process has one set."""

    pool: asyncpg.Pool
    redis: tickets.Redis
    storage: Storage
    settings: Settings
    hub: Hub


async def accept(
    services: Services,
    incoming: Incoming,
    *,
    filename: str,
    fields: Mapping[str, Any],
    owner: str = LOCAL,
    request_id: str | None = None,
) -> Job:
    """Make a job of a received file.

    Order: bytes durable under a temporary name, probed, renamed, row, ticket, message. A crash between two
    steps leaves a file without a row, which maintenance removes, or a row without a ticket, for which
    maintenance adds one. It never leaves a row without its file.

    Args:
        services: The shared objects.
        incoming: The file, received whole.
        filename: The name that is shown.
        fields: The option fields, as `options.parse` takes them.
        owner: Whose job it becomes.
        request_id: The id of what is asked for, for the log.

    Raises:
        OptionError: an option is unknown or has a bad value.
        MediaError: the file cannot be transcribed.
        NoMemoryForProbe: the machine has too little memory to inspect the file just now.
        StorageFull: there is no room for the file.
        StorageUnavailable: the storage cannot be written to just now.
    """
    job_options = options.parse(dict(fields), services.settings)
    await incoming.sync()
    async with incoming.local_copy() as path:
        media = await _probe(path, filename, services.settings.max_duration_seconds)
    job_id = uuid4()
    key = services.storage.upload_key(job_id)
    new = NewJob(
        id=job_id,
        original_filename=filename,
        file_path=key,
        file_type=media.file_type,
        file_size=incoming.size,
        duration_seconds=media.duration_seconds,
        options=job_options,
        owner=owner,
        request_id=request_id,
    )
    with bound_contextvars(job_id=str(job_id), owner=owner, attempt=0):
        await services.storage.publish(incoming, key)
        return await _register(services, new)


async def _probe(path: Path, filename: str, longest: float) -> Media:
    """Probe the file.

    libav cannot open raw telephone sound, which has no header. If the name ends as that of such a file, the
    error says how to convert it.
    """
    try:
        return await probe(path, longest)
    except MediaError as error:
        parameters = telephone.advice(filename)
        if error.code in _NOT_RAW_SOUND or parameters is None:
            raise
        raise MediaError(ErrorCode.NOT_MEDIA, **parameters) from None


async def _register(services: Services, new: NewJob) -> Job:
    try:
        job = await lifecycle.create(services.pool, new)
    except Exception:
        # The row may exist all the same (the answer was lost), so the file stays: maintenance removes it
        # if it has no row.
        log.exception("the row could not be inserted")
        raise
    await tickets.announce(services.redis, job)
    await publish(services.redis, state("created", job))
    log.info("recording received", bytes=job.file_size, file_type=job.file_type)
    return job


async def cancel(services: Services, job_id: UUID, *, owner: str | None = LOCAL) -> Job:
    """Cancel a job that waits; ask the worker of one that runs to stop.

    Args:
        services: The shared objects.
        job_id: The job.
        owner: Whose job; None for anyone's.

    Raises:
        JobNotFound: there is no such job.
        JobEnded: it has ended.
    """
    job = await lifecycle.request_cancel(services.pool, job_id, owner=owner)
    if job is None:
        found = await lookup.get(services.pool, job_id, owner=owner)
        if found is None:
            raise JobNotFound
        raise JobEnded(found.status)
    with _about(job):
        log.info("cancellation requested", status=str(job.status))
        await publish(services.redis, current(job))
    return job


async def retry(
    services: Services,
    job_id: UUID,
    fields: Mapping[str, Any],
    *,
    owner: str | None = LOCAL,
    request_id: str | None = None,
) -> Job:
    """Restart an ended job.

    Args:
        services: The shared objects.
        job_id: The job.
        fields: Option fields that change; the others stay as they were.
        owner: Whose job; None for anyone's.
        request_id: The id of what is asked for, for the log.

    Raises:
        JobNotFound: there is no such job.
        JobNotEnded: it waits or runs.
        OptionError: an option is unknown or has a bad value.
    """
    job = await lookup.get(services.pool, job_id, owner=owner)
    if job is None:
        raise JobNotFound
    new_options = options.parse({**options.of_job(job), **fields}, services.settings)
    again = await lifecycle.restart(services.pool, job, new_options, owner=owner, request_id=request_id)
    if again is None:
        raise JobNotEnded(job.status)
    with _about(again):
        log.info("job restarted")
        await tickets.announce(services.redis, again)
        await publish(services.redis, current(again))
    return again


async def delete(services: Services, job_id: UUID, *, owner: str | None = LOCAL) -> None:
    """Stop a job that runs, then remove its row and its files.

    Args:
        services: The shared objects.
        job_id: The job.
        owner: Whose job; None for anyone's.

    Raises:
        JobNotFound: there is no such job.
    """
    await _stop(services, job_id, owner)
    gone = await lifecycle.delete(services.pool, job_id, owner=owner)
    if gone is None:
        raise JobNotFound
    with bound_contextvars(job_id=str(job_id), owner=gone.owner):
        log.info("job deleted")
        try:
            await services.storage.delete_job(job_id, gone.file_path)
        except (
            OSError
        ):  # read-only or not mounted: the job is deleted all the same, maintenance sweeps its files
            log.exception("the files of a deleted job are still there")
        await publish(services.redis, deleted(job_id, gone.owner, gone.claim))


async def _stop(services: Services, job_id: UUID, owner: str | None) -> None:
    async with services.hub.listen(str(job_id), owner) as messages:
        job = await lifecycle.request_cancel(services.pool, job_id, owner=owner)
        if job is None or job.ended:
            return
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                async for message in messages:
                    if message["event"] in END_EVENTS:
                        return
        except TimeoutError:
            # Its worker is dead or hangs. Every write of a worker needs the row, which is about to go.
            with _about(job):
                log.warning("deleted while its worker did not answer")


def _about(job: Job) -> AbstractContextManager[None]:
    """Give the lines of a block the keys of the job; the id of the request stays the one that is bound."""
    return bound_contextvars(job_id=str(job.id), owner=job.owner, attempt=job.attempt)
