"""The web app: shared objects, middlewares, and the route table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aiohttp_jinja2
import jinja2
from aiohttp import web
from structlog.contextvars import bound_contextvars

from stt import db
from stt.jobs import tickets
from stt.jobs.actions import Services
from stt.paths import TEMPLATES
from stt.pubsub import Hub
from stt.settings import Settings
from stt.storage import Storage
from stt.telemetry import metrics
from stt.telemetry.health import Health
from stt.web import guard, problems, request_ids, upload
from stt.web.api import download, events, health, jobs, media
from stt.web.context import HEALTH, RUNNING, SERVICES, SETTINGS
from stt.web.pages import home, recording, render


def create_app(settings: Settings) -> web.Application:
    """The whole app. Objects are shared under the keys of `stt.web.context`."""
    app = web.Application(
        middlewares=[
            _with_log_keys,
            _note_running,
            problems.middleware(render.render_error),
            guard.middleware(settings),
        ]
    )
    app[RUNNING] = set()
    app[SETTINGS] = settings
    app[HEALTH] = Health()
    app.cleanup_ctx.append(_services(Storage(settings.storage_dir)))
    app.on_response_prepare.append(guard.add_headers)
    app.on_response_prepare.append(request_ids.add_header)
    app.on_shutdown.append(end_streams)
    _set_up_templates(app)
    app.add_routes(routes())
    return app


def routes() -> list[web.AbstractRouteDef]:
    """Every address of the app."""
    return [
        web.get("/", home.index),
        web.get("/stream", home.list_stream),
        web.post("/upload", upload.upload_form),
        web.get("/jobs", home.job_list),
        web.get("/jobs/{id}", recording.job),
        web.get("/jobs/{id}/stream", recording.job_stream),
        web.post("/jobs/{id}/cancel", recording.cancel),
        web.post("/jobs/{id}/delete", recording.delete),
        web.post("/jobs/{id}/retry", recording.retry),
        web.post("/api/jobs/upload", upload.upload),
        web.get("/api/jobs", jobs.list_jobs),
        web.get("/api/jobs/{id}", jobs.get_job),
        web.delete("/api/jobs/{id}", jobs.delete_job),
        web.get("/api/jobs/{id}/download", download.download),
        web.get("/api/jobs/{id}/peaks", media.get_peaks),
        web.post("/api/jobs/{id}/cancel", jobs.cancel_job),
        web.post("/api/jobs/{id}/retry", jobs.retry_job),
        web.get("/api/jobs/{id}/events", events.of_job),
        web.get("/api/events", events.of_all),
        web.get("/health/live", health.live),
        web.get("/health/ready", health.ready),
        web.get("/static/{name:.+}", render.static),
    ]


def _set_up_templates(app: web.Application) -> None:
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(render.FILTERS)
    environment.globals.update(render.GLOBALS, max_attempts=app[SETTINGS].max_attempts)


def _services(storage: Storage) -> Callable[[web.Application], AsyncIterator[None]]:
    """What opens the connections of an app when it starts, and closes them when it ends."""

    async def connected(app: web.Application) -> AsyncIterator[None]:
        settings = app[SETTINGS]
        async with AsyncExitStack() as stack:
            pool = await db.open_pool(settings.database_url)
            stack.push_async_callback(pool.close)
            redis = await tickets.open_connections(settings.redis_url)
            stack.push_async_callback(redis.aclose)
            hub = Hub(redis, metrics.EVENT_RESYNCS.inc)
            stack.push_async_callback(hub.close)
            await hub.start()
            app[SERVICES] = Services(pool, redis, storage, settings, hub)
            app[HEALTH].connected(pool, redis, storage)
            metrics.begin_at_zero(metrics.UPLOADS, ("accepted", "refused", "failed"))
            metrics.begin_at_zero(metrics.TICKETS, ("enqueued", "failed"))
            yield

    return connected


async def end_streams(app: web.Application) -> None:
    """End every stream of events: a running one would keep the app from ending."""
    app[SERVICES].hub.end_listeners()


@web.middleware
async def _with_log_keys(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
    """Give every line of the log about this request its id, and that of the job that its address names."""
    with bound_contextvars(**problems.log_keys(request)):
        return await handler(request)


@web.middleware
async def _note_running(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
    running = request.app[RUNNING]
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    running.add(ended)
    try:
        return await handler(request)
    finally:
        running.discard(ended)
        ended.set_result(None)
