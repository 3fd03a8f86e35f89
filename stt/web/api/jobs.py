"""The JSON endpoints beside upload, download and events: list, details, cancel, delete; and health."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

from aiohttp import web

from stt.jobs import lifecycle, lookup, options, tickets
from stt.jobs.errors import JobEnded, JobNotEnded, JobNotFound
from stt.jobs.messages import END_EVENTS, current, deleted
from stt.jobs.model import Job
from stt.pubsub import publish
from stt.web import bodies, params
from stt.web.context import HUB, POOL, REDIS, SETTINGS, STORAGE
from stt.web.params import job_or_404

log = logging.getLogger(__name__)

# A worker hears of a cancel at its next heartbeat, a second away, and then ends its engine.
_STOP_SECONDS = 10


async def list_jobs(request: web.Request) -> web.Response:
    """`GET /api/jobs?status=&q=&limit=&cursor=`: newest first."""
    page, last = await lookup.list_page(
        request.app[POOL],
        status=params.status(request),
        q=params.search(request),
        limit=params.limit(request),
        after=params.cursor(request),
    )
    shown = [job.public(text=False) for job in page]
    return web.json_response({"jobs": shown, "next_cursor": params.as_cursor(last)})


async def get_job(request: web.Request) -> web.Response:
    job = await lookup.with_place(request.app[POOL], await job_or_404(request))
    return web.json_response(job.public())


async def cancel_job(request: web.Request) -> web.Response:
    """`POST /api/jobs/{id}/cancel`: 409 where the job has ended."""
    job = await cancel(request.app, params.job_id(request))
    return web.json_response(job.public())


async def retry_job(request: web.Request) -> web.Response:
    """`POST /api/jobs/{id}/retry` with option fields, as JSON or a form; the others stay as they were."""
    job = await retry(request.app, params.job_id(request), await bodies.fields(request))
    return web.json_response(job.public())


async def delete_job(request: web.Request) -> web.Response:
    await delete(request.app, params.job_id(request))
    return web.Response(status=204)


async def cancel(app: web.Application, job_id: UUID) -> Job:
    """Cancel a job.

    Raises:
        JobNotFound: there is no such job.
        JobEnded: it has ended.
    """
    job = await lifecycle.request_cancel(app[POOL], job_id)
    if job is None:
        found = await lookup.get(app[POOL], job_id)
        if found is None:
            raise JobNotFound
        raise JobEnded(found.status)
    await publish(app[REDIS], current(job))
    return job


async def retry(app: web.Application, job_id: UUID, fields: dict[str, Any]) -> Job:
    """Do an ended job again, with new options where given.

    Raises:
        JobNotFound: there is no such job.
        JobNotEnded: it waits or runs.
        OptionError: a field is unknown or has a bad value.
    """
    job = await lookup.get(app[POOL], job_id)
    if job is None:
        raise JobNotFound
    asked = options.parse({**options.of_job(job), **fields}, app[SETTINGS])
    again = await lifecycle.restart(app[POOL], job, asked)
    if again is None:
        raise JobNotEnded(job.status)
    await tickets.announce(app[REDIS], again)
    await publish(app[REDIS], current(again))
    return again


async def delete(app: web.Application, job_id: UUID) -> None:
    """Stop a job that runs, then remove its row and its files.

    Raises:
        JobNotFound: there is no such job.
    """
    await _stop(app, job_id)
    gone = await lifecycle.delete(app[POOL], job_id)
    if gone is None:
        raise JobNotFound
    try:
        await app[STORAGE].delete_job(job_id, gone.file_path)
    except OSError:  # read-only, away: the job is gone all the same, and maintenance sweeps its files
        log.exception("the files of a deleted job are still there", extra={"job": str(job_id)})
    await publish(app[REDIS], deleted(job_id, gone.owner, gone.claim))


async def _stop(app: web.Application, job_id: UUID) -> None:
    async with app[HUB].listen(str(job_id)) as messages:
        job = await lifecycle.request_cancel(app[POOL], job_id)
        if job is None or job.ended:
            return
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                async for message in messages:
                    if message["event"] in END_EVENTS:
                        return
        except TimeoutError:
            # A dead worker: it will find its row gone, and every write of its needs the row.
            log.warning("deleted while its worker did not answer", extra={"job": str(job_id)})
