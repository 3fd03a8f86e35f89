"""A database server from a wheel as a child process of ours."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from stt.process.child import Child, Stop

log = structlog.stdlib.get_logger(__name__)


START_SECONDS = 60.0  # crash recovery may take a while
LEFTOVER_SECONDS = 15.0
POLL_SECONDS = 0.01


class ServersError(Exception):
    """An embedded server cannot be started; the text is a sentence that says what to do."""


class Server:
    """What PostgreSQL and Valkey have in common: one process on one data folder.

    `stop_steps` are the signals that end it, each with the seconds to wait afterwards.
    """

    name: str
    command_name: str  # in /proc/PID/comm
    death_signal: signal.Signals
    stop_steps: Stop

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets = folder  # the folder of its socket
        self.child: Child | None = None

    async def start(self) -> None:
        """Start it, and return when it answers.

        Raises:
            ServersError: It did not start, or did not answer within `START_SECONDS`.
        """
        await self._stop_leftovers()
        await self._prepare()
        self.child = await Child.start(
            self._program(),
            on_line=lambda line: log.debug("server output", server=self.name, line=line),
            death_signal=self.death_signal,
            user=self._user(),
            cwd=Path("/"),
        )
        await self._until(self._answers, START_SECONDS, "does not answer")

    async def wait(self) -> str:
        """Wait until it ends. Returns how it ended."""
        assert self.child is not None
        await self.child.wait()
        return self.child.how_it_ended()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Stop it, and remove the folder of its socket. `hurry` ends the waiting between signals."""
        if self.child is not None:
            await self.child.stop(self.stop_steps, hurry)
        if self.sockets != self.folder and self.sockets.exists():
            shutil.rmtree(self.sockets)

    async def _prepare(self) -> None:
        raise NotImplementedError

    async def _answers(self) -> bool:
        raise NotImplementedError

    def _program(self) -> list[str]:
        raise NotImplementedError

    def _user(self) -> tuple[int, int] | None:
        return None

    async def _until(self, true: Callable[[], Awaitable[bool]], seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not await true():
            if self.child is not None and not self.child.running:
                raise ServersError(f"{self.name} did not start: {await self.wait()}")
            if time.monotonic() > end:
                raise ServersError(f"{self.name} {otherwise} after {seconds:.0f} s ({self.folder})")
            await asyncio.sleep(POLL_SECONDS)

    async def _stop_leftovers(self) -> None:
        """End the processes of an earlier start on this data: first as `stop` does, at last with SIGKILL."""
        self.child = None
        for number in (*(step for step, _ in self.stop_steps), signal.SIGKILL):
            pids = processes_in(self.folder, self.command_name)
            if not pids:
                return
            log.warning(
                "a server of an earlier start still runs", server=self.name, signal=number.name, pids=pids
            )
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(ServersError):
                await self._until(self._left, LEFTOVER_SECONDS, "goes on")

    async def _left(self) -> bool:
        return not processes_in(self.folder, self.command_name)


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        ServersError: The package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServersError(
            f"The package {name} is not installed: set STT_DATABASE_URL and STT_REDIS_URL, or "
            f"install stt with its `embedded` extra."
        )
    return Path(spec.submodule_search_locations[0])


def error_lines(output: str) -> str:
    """The error messages in the output of a program of PostgreSQL, as one line."""
    if "No space left on device" in output:
        return "No space left on device. Make room on this disk, or set STT_DATA_DIR to a folder on another."
    lines = [line for line in output.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
    return " ".join(" ".join(lines or output.splitlines()[-3:]).split())


def can_see_processes() -> bool:
    return Path("/proc/self/cwd").exists()


def processes_in(folder: Path, command_name: str) -> list[int]:
    """Process ids by command name and working folder: both servers change into their data folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*") if can_see_processes() else ():
        with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
            same = process.joinpath("comm").read_text().strip() == command_name
            if same and (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
    return found
