"""Runs the web app until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal

import structlog
from aiohttp import web
from setproctitle import setproctitle

from stt import folders
from stt.settings import Settings
from stt.telemetry.server import serving
from stt.web.app import create_app, end_streams
from stt.web.connections import Runner
from stt.web.context import HEALTH, RUNNING, SETTINGS

log = structlog.stdlib.get_logger(__name__)


_CLOSE_SECONDS = 0.5


async def _finish_requests(app: web.Application) -> None:
    """Let running requests end. aiohttp does so too, but no longer reads the rest of an upload."""
    await end_streams(app)
    if app[RUNNING]:
        await asyncio.wait([*app[RUNNING]], timeout=app[SETTINGS].shutdown_seconds)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FolderError: the folder of the recordings cannot be used.
        PortError: the port of the metrics or the health is taken.
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
    async with serving(settings, "web", app[HEALTH]):
        await _serve_app(app, settings, stop)


async def _serve_app(app: web.Application, settings: Settings, stop: asyncio.Event) -> None:
    runner = Runner(app, settings, shutdown_timeout=_CLOSE_SECONDS)
    if not await _is_set_up(runner, stop):
        return
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        await site.start()
        _announce(_url(settings, runner))
        await stop.wait()
        await site.stop()
        await _finish_requests(app)
    finally:
        await runner.cleanup()


async def _is_set_up(runner: Runner, stop: asyncio.Event) -> bool:
    """Open the app's connections, which may wait for PostgreSQL or migrations; False if `stop` came first."""
    setup, stopping = asyncio.create_task(runner.setup()), asyncio.create_task(stop.wait())
    await asyncio.wait((setup, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not setup.done():
        setup.cancel()
        await asyncio.wait([setup])
        return False
    setup.result()
    return True


def _url(settings: Settings, runner: web.AppRunner) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{runner.addresses[0][1]}"


def _announce(url: str) -> None:
    """Write the address to the pipe that the starting process handed down, to say that we listen."""
    log.info("listening", url=url)
    if descriptor := os.environ.pop("STT_READY_FD", ""):
        with os.fdopen(int(descriptor), "w") as pipe:
            pipe.write(url + "\n")
