"""The web app: shared objects, middlewares, and THE route table."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator

import aiohttp_jinja2
import jinja2
from aiohttp import web
from setproctitle import setproctitle

from stt import db, folders
from stt.jobs import tickets
from stt.paths import TEMPLATES
from stt.pubsub import Hub
from stt.settings import Settings
from stt.storage import Storage
from stt.web import guard, problems, upload
from stt.web.api import download, events, jobs
from stt.web.connections import Runner
from stt.web.context import HUB, POOL, REDIS, RUNNING, SETTINGS, STORAGE
from stt.web.pages import home

log = logging.getLogger(__name__)

# What running requests get to finish once the app is asked to stop; `stt up` waits less long for it.
_SHUTDOWN_SECONDS = 25
_CLOSE_SECONDS = 0.5


def create_app(settings: Settings) -> web.Application:
    """The whole app; nothing is shared but through its keys."""
    app = web.Application(
        middlewares=[_note_running, problems.middleware(home.render_error), guard.middleware(settings)]
    )
    app[RUNNING] = set()
    app[SETTINGS] = settings
    app[STORAGE] = Storage(settings.storage_dir)
    app.cleanup_ctx.extend((_database, _redis, _hub))
    app.on_response_prepare.append(guard.add_headers)
    app.on_shutdown.append(_end_streams)
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
        web.get("/jobs/{id}", home.job),
        web.get("/jobs/{id}/stream", home.job_stream),
        web.post("/jobs/{id}/cancel", home.cancel),
        web.post("/jobs/{id}/delete", home.delete),
        web.post("/jobs/{id}/retry", home.retry),
        web.post("/api/jobs/upload", upload.upload),
        web.get("/api/jobs", jobs.list_jobs),
        web.get("/api/jobs/{id}", jobs.get_job),
        web.delete("/api/jobs/{id}", jobs.delete_job),
        web.get("/api/jobs/{id}/download", download.download),
        web.get("/api/jobs/{id}/peaks", jobs.get_peaks),
        web.post("/api/jobs/{id}/cancel", jobs.cancel_job),
        web.post("/api/jobs/{id}/retry", jobs.retry_job),
        web.get("/api/jobs/{id}/events", events.of_job),
        web.get("/api/events", events.of_all),
        web.get("/health/live", jobs.live),
        web.get("/health/ready", jobs.ready),
        web.get("/static/{name:.+}", home.static),
    ]


def _set_up_templates(app: web.Application) -> None:
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(home.FILTERS)
    environment.globals.update(home.GLOBALS, max_attempts=app[SETTINGS].max_attempts)


async def _database(app: web.Application) -> AsyncIterator[None]:
    app[POOL] = await db.open_pool(app[SETTINGS].database_url)
    yield
    await app[POOL].close()


async def _redis(app: web.Application) -> AsyncIterator[None]:
    app[REDIS] = await tickets.connect(app[SETTINGS].redis_url)
    yield
    await app[REDIS].aclose()


async def _hub(app: web.Application) -> AsyncIterator[None]:
    app[HUB] = Hub(app[REDIS])
    await app[HUB].start()
    yield
    await app[HUB].close()


async def _end_streams(app: web.Application) -> None:
    app[HUB].end_listeners()


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


async def _finish_requests(app: web.Application) -> None:
    """Let running requests end. aiohttp would, too, but not hear the rest of an upload any more."""
    await _end_streams(app)
    if app[RUNNING]:
        await asyncio.wait([*app[RUNNING]], timeout=_SHUTDOWN_SECONDS)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FolderError: the folder of the recordings cannot be used.
    """
    setproctitle("stt web")
    folders.prepare_storage(settings)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = create_app(settings)
    runner = Runner(app, settings, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        await site.start()
        _announce(_url(settings, runner))
        await stop.wait()
        await site.stop()
        await _finish_requests(app)
    finally:
        await runner.cleanup()


def _url(settings: Settings, runner: web.AppRunner) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{runner.addresses[0][1]}"


def _announce(url: str) -> None:
    """Tell whoever started us, on the pipe it handed down, that we listen."""
    log.info("listening on %s", url)
    if descriptor := os.environ.pop("STT_READY_FD", ""):
        with os.fdopen(int(descriptor), "w") as pipe:
            pipe.write(url + "\n")
