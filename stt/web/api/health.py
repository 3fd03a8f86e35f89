"""Health of the web app on its main port: the same answers as on the port of its metrics."""

from __future__ import annotations

from aiohttp import web

from stt.telemetry.server import answer
from stt.web.context import HEALTH


async def live(request: web.Request) -> web.Response:
    """`GET /health/live`: this process answers."""
    return await answer(request.app[HEALTH].live)


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: an upload can be accepted; otherwise 503 with what failed."""
    return await answer(request.app[HEALTH].ready)
