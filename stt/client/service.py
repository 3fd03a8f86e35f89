"""Finds the running service of a data folder, or starts one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console

from stt.client.http import ServiceError
from stt.ops.lock import holder
from stt.process.child import Child
from stt.settings import Settings

START_SECONDS = 120.0
SERVICE_STOP = ((signal.SIGTERM, 12.0),)


@asynccontextmanager
async def service(settings: Settings, server: str, console: Console) -> AsyncIterator[str]:
    """The URL of a service: the given one, else the one that runs on the data folder, else a new one.

    Args:
        settings: Whose data folder is searched for a running service.
        server: The URL of a service; empty to find or start one.
        console: Where the lines of a service that is started here go.

    Raises:
        ServiceError: the service did not start.
    """
    if server:
        yield server
    elif url := await _running(settings):
        yield url
    else:
        async with _started(console) as url:
            yield url


async def _running(settings: Settings) -> str:
    """The URL of the `stt up` of the data folder, or empty; waits for one that is still starting."""
    end = time.monotonic() + START_SECONDS
    while found := holder(settings.data_dir):
        if found.url:
            return found.url
        if time.monotonic() > end:
            raise ServiceError(f"stt up (process {found.pid}) has not become ready")
        await asyncio.sleep(0.1)
    return ""


@asynccontextmanager
async def _started(console: Console) -> AsyncIterator[str]:
    """`stt up` on a free port; it ends with this block, or with this process."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_line(line: str) -> None:
        if line.startswith("ready: ") and not ready.done():
            ready.set_result(line.removeprefix("ready: "))
        else:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    env = {**os.environ, "STT_HOST": "127.0.0.1", "STT_PORT": "0", "STT_LOG_LEVEL": "WARNING"}
    child = await Child.start(
        [sys.executable, "-P", "-m", "stt", "up"], on_line=on_line, death_signal=signal.SIGTERM, env=env
    )
    try:
        with console.status("starting the service"):
            ended = asyncio.ensure_future(child.process.wait())
            either: list[asyncio.Future[Any]] = [ready, ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            raise ServiceError("the service did not start")
        yield ready.result()
    finally:
        await child.stop(SERVICE_STOP)
