"""Our own programs as child processes: started, shown, restarted with a growing delay when they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from stt.ops.embedded.server import ServersError
from stt.process.child import Child, Stop

log = structlog.stdlib.get_logger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0  # seconds before a child that ended is started again
OUTPUT_LINES = 1  # of a role that ended, in the log: the lines before are already there
HEALTHY_SECONDS = 60.0  # uptime that resets the restart backoff
ROLE_STOP = ((signal.SIGTERM, 5.5),)  # under `stt up`: with the steps of the servers less than 10 s


class Service(Protocol):
    """A process that is restarted when it ends: an embedded server, or a role."""

    name: str

    async def start(self) -> None: ...
    async def wait(self) -> str: ...
    async def stop(self, hurry: asyncio.Event | None = None) -> object: ...


class Role:
    """One of our own programs, `python -m …`. Its output goes to our standard error."""

    def __init__(
        self, name: str, module: list[str], env: dict[str, str], stop_steps: Stop = ROLE_STOP
    ) -> None:
        self.name = name
        self.env = env
        self._stop_steps = stop_steps
        self._program = [sys.executable, "-P", "-m", *module]  # -P: import nothing from the working folder
        self._child: Child | None = None

    async def start(self) -> None:
        await self._spawn()

    async def wait(self) -> str:
        assert self._child is not None
        await self._child.wait()
        return self._child.how_it_ended(OUTPUT_LINES)

    async def stop(self, hurry: asyncio.Event | None = None) -> int:
        """End it. Returns its exit code, negative for a signal; 0 if it was never started."""
        return await self._child.stop(self._stop_steps, hurry) if self._child is not None else 0

    async def _spawn(self, **env: str) -> None:
        fds = [int(number) for number in env.values()]
        self._child = await Child.start(
            self._program, on_line=show, env={**os.environ, **self.env, **env}, pass_fds=fds
        )


class Web(Role):
    """The web app. It writes the URL that it serves into a pipe."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__("web", ["stt", "web"], env)
        self.url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        ours, theirs = os.pipe()
        try:
            await self._spawn(STT_READY_FD=str(theirs))
        finally:
            os.close(theirs)
        self._url_reader = asyncio.create_task(self._read_url(ours))

    async def _read_url(self, fd: int) -> None:
        """Read the URL from the pipe. If the pipe ends without one, the web app has ended: see `wait`."""
        reader = asyncio.StreamReader()
        with os.fdopen(fd, "rb", 0) as pipe:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            url = (await reader.readline()).decode().strip()
            transport.close()
        if url and not self.url.done():
            self.url.set_result(url)
            # A restarted web app keeps its port, also if the first one was any free port.
            self.env["STT_PORT"] = str(urlsplit(url).port or 80)


async def keep(service: Service, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Restart `service` whenever it ends, with exponential backoff from `FIRST_DELAY` to `LONGEST_DELAY`."""
    delay = FIRST_DELAY
    while True:
        started = time.monotonic()
        reason = await service.wait()
        if time.monotonic() - started >= HEALTHY_SECONDS:
            delay = FIRST_DELAY
        log.error("a process ended", process=service.name, restart_seconds=delay, reason=reason)
        delay = await _start_again(service, delay, sleep)


async def _start_again(service: Service, delay: float, sleep: Callable[[float], Awaitable[None]]) -> float:
    """Wait `delay` seconds and start it, until that works. Returns the delay for the next restart."""
    while True:
        await sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY)
        try:
            await service.start()
        except (OSError, ServersError) as error:
            log.error(
                "a process did not start", process=service.name, restart_seconds=delay, error=str(error)
            )
        else:
            return delay


def show(line: str) -> None:
    """Print a line of a child to standard error."""
    with contextlib.suppress(OSError):  # the terminal was closed: the service goes on
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
