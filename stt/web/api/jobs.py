"""The JSON endpoints of jobs: list, details, cancel, retry, delete."""

from __future__ import annotations

from aiohttp import web

from stt.jobs import actions, lookup
from stt.web import bodies, params, request_ids
from stt.web.context import SERVICES
from stt.web.params import job_or_404


async def list_jobs(request: web.Request) -> web.Response:
    """`GET /api/jobs?status=&q=&limit=&cursor=`: newest first."""
    page, last = await lookup.list_page(
        request.app[SERVICES].pool,
        status=params.status(request),
        q=params.search(request),
        limit=params.limit(request),
        after=params.cursor(request),
    )
    shown = [job.public(text=False) for job in page]
    return web.json_response({"jobs": shown, "next_cursor": params.as_cursor(last)})


async def get_job(request: web.Request) -> web.Response:
    job = await lookup.with_place(request.app[SERVICES].pool, await job_or_404(request, text=True))
    return web.json_response(job.public())


async def cancel_job(request: web.Request) -> web.Response:
    """`POST /api/jobs/{id}/cancel`: 409 where the job has ended."""
    job = await actions.cancel(request.app[SERVICES], params.job_id(request))
    return web.json_response(job.public())


async def retry_job(request: web.Request) -> web.Response:
    """`POST /api/jobs/{id}/retry` with option fields, as JSON or a form; the others stay as they were."""
    fields = await bodies.fields(request)
    job = await actions.retry(
        request.app[SERVICES], params.job_id(request), fields, request_id=request_ids.of(request)
    )
    return web.json_response(job.public())


async def delete_job(request: web.Request) -> web.Response:
    await actions.delete(request.app[SERVICES], params.job_id(request))
    return web.Response(status=204)
