"""Health checks: whether the process answers, and whether it can accept an upload."""

from __future__ import annotations

import asyncio

from aiohttp import web

from stt.jobs import lookup
from stt.web.context import SERVICES


async def live(_: web.Request) -> web.Response:
    """`GET /health/live`: this process answers."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: an upload can be accepted; otherwise 503 with what failed."""
    checks = {
        "database": lookup.server_time(request.app[SERVICES].pool),
        "redis": request.app[SERVICES].redis.ping(),
        "storage": asyncio.to_thread(request.app[SERVICES].storage.check),
    }
    results = await asyncio.gather(
        *(asyncio.wait_for(check, 5) for check in checks.values()), return_exceptions=True
    )
    failed = {
        name: f"{type(result).__name__}: {result}"
        for name, result in zip(checks, results, strict=True)
        if isinstance(result, BaseException)
    }
    status = {name: failed.get(name, "ok") for name in checks}
    return web.json_response(
        {"status": "failed" if failed else "ok", "checks": status}, status=503 if failed else 200
    )
