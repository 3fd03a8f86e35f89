"""A database server from a wheel as a child process of ours."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from stt.process.child import Child, Stop

log = logging.getLogger(__name__)


START_SECONDS = 60.0  # crash recovery may take a while
LEFTOVER_SECONDS = 15.0
POLL_SECONDS = 0.01


class ServersError(Exception):
    """An embedded server cannot be started; the text is a sentence that says what to do."""


class Server:
    """What PostgreSQL and Valkey have in common: one process on one data folder."""

    name: str
    command_name: str  # as the kernel shows it
    death_signal: signal.Signals
    stop_steps: Stop

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets = folder  # the folder of its socket
        self.child: Child | None = None

    async def start(self) -> None:
        """Start it, and come back when it answers.

        Raises:
            ServersError: it did not.
        """
        await self._stop_leftovers()
        await self._prepare()
        self.child = await Child.start(
            self._program(),
            on_line=lambda line: log.debug("%s: %s", self.name, line),
            death_signal=self.death_signal,
            user=self._user(),
            cwd=Path("/"),
        )
        await self._until(self._answers, START_SECONDS, "does not answer")

    async def wait(self) -> str:
        """Until it ends; how it ended."""
        assert self.child is not None
        await self.child.wait()
        return self.child.last_words()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
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
        """End the processes that an earlier start left on this data, gently first."""
        self.child = None
        for number in (*(step for step, _ in self.stop_steps), signal.SIGKILL):
            pids = _working_in(self.folder, self.command_name)
            if not pids:
                return
            log.warning("%s of an earlier start still runs: %s to %s", self.name, number.name, pids)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(ServersError):
                await self._until(self._left, LEFTOVER_SECONDS, "goes on")

    async def _left(self) -> bool:
        return not _working_in(self.folder, self.command_name)


def _package(name: str) -> Path:
    """Where an installed package lies; it is not imported, its binaries are all we want."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServersError(
            f"The package {name} is not installed: set STT_DATABASE_URL and STT_REDIS_URL, or "
            f"install stt with its `embedded` extra."
        )
    return Path(spec.submodule_search_locations[0])


def _reason(output: str) -> str:
    """Why a program of PostgreSQL failed, in one line: its errors, without what it says of its progress."""
    if "No space left on device" in output:
        return "No space left on device. Make room on this disk, or set STT_DATA_DIR to a folder on another."
    lines = [line for line in output.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
    return " ".join(" ".join(lines or output.splitlines()[-3:]).split())


def _can_see_processes() -> bool:
    return Path("/proc/self/cwd").exists()


def _working_in(folder: Path, command_name: str) -> list[int]:
    """Processes of that name whose working folder is `folder` (both servers change into theirs)."""
    found = []
    for process in Path("/proc").glob("[0-9]*") if _can_see_processes() else ():
        with contextlib.suppress(OSError):  # it has just ended, or is not ours to look at
            same = process.joinpath("comm").read_text().strip() == command_name
            if same and (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
    return found
