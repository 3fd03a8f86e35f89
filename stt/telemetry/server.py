"""The small HTTP server of each role: `/metrics` for Prometheus, `/health/live` and `/health/ready`."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from stt import __version__
from stt.settings import Settings
from stt.telemetry import metrics, ports
from stt.telemetry.health import Check, Health, report

log = structlog.stdlib.get_logger(__name__)

_SCRAPE_SECONDS = 10.0  # Prometheus itself waits for so long, by default
_CLOSE_SECONDS = 0.5


@asynccontextmanager
async def serving(settings: Settings, role: str, health: Health) -> AsyncIterator[None]:
    """Answer about this process inside the block; the settings say where (:mod:`stt.telemetry.ports`).

    Args:
        settings: The settings of the role.
        role: `web`, `maintenance` or `worker`.
        health: The checks of the role.

    Raises:
        PortError: The port is taken, or the host is none of this machine.
    """
    metrics.BUILD.labels(__version__, role, platform.python_version()).set(1)
    place = ports.place(settings)
    app = make_app(health, with_metrics=place.setting == ports.METRICS)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, place.host, place.port).start()
        except OSError as error:
            raise ports.PortError(place, _reason(error)) from error
        log.info("metrics and health", host=place.host, port=runner.addresses[0][1], setting=place.setting)
        yield
    finally:
        await runner.cleanup()


def _reason(error: OSError) -> str:
    """The system's own words; asyncio's text repeats the address."""
    return (error.strerror or str(error)).rpartition(": ")[2].capitalize()


def make_app(health: Health, *, with_metrics: bool) -> web.Application:
    """The app of the server.

    Args:
        health: The checks of the role.
        with_metrics: Whether `/metrics` is there.
    """

    async def live(_: web.Request) -> web.Response:
        return await answer(health.live)

    async def ready(_: web.Request) -> web.Response:
        return await answer(health.ready)

    app = web.Application()
    app.add_routes([web.get("/health/live", live), web.get("/health/ready", ready)])
    if with_metrics:
        app.router.add_get("/metrics", _Metrics().answer)
    return app


async def answer(checks: Mapping[str, Check]) -> web.Response:
    """The answer to a question for health: 200, or 503 with what failed."""
    found = await report(checks)
    headers = {"Cache-Control": "no-store"}
    return web.json_response(found, status=200 if found["status"] == "ok" else 503, headers=headers)


class _Metrics:
    """`GET /metrics`: in the text format of Prometheus, or OpenMetrics if the client accepts that."""

    def __init__(self) -> None:
        # One thread: a disk or a driver that hangs in a scrape must not take the threads of other work.
        self._thread = ThreadPoolExecutor(1, "metrics")

    async def answer(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                body = await loop.run_in_executor(self._thread, encode, REGISTRY)
        except TimeoutError:
            raise web.HTTPServiceUnavailable(text="the metrics took too long to collect\n") from None
        return web.Response(body=body, headers={"Content-Type": content_type})
