"""Child processes that never outlive this one, with the last lines of their output."""

from __future__ import annotations

import asyncio
import signal
from asyncio import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any

from stt.process import launch

TAIL_LINES = 12
LONGEST_LINE = 64 * 1024
DRAIN_SECONDS = 0.5

Stop = Sequence[tuple[signal.Signals, float]]  # send this, wait so many seconds for the end


class Child:
    """One process in a session of its own, so that a terminal's Ctrl-C does not reach it."""

    def __init__(self, process: subprocess.Process, on_line: Callable[[str], None]) -> None:
        self.process = process
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._on_line = on_line
        # Its lines are logged without the keys of the job during which it was started.
        self._reader = asyncio.create_task(self._read(), context=Context())

    @classmethod
    async def start(
        cls,
        program: list[str],
        *,
        on_line: Callable[[str], None],
        death_signal: signal.Signals = signal.SIGKILL,
        user: tuple[int, int] | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start a program.

        Args:
            program: Absolute path and arguments.
            on_line: Called with each line of its standard output and standard error.
            death_signal: What the kernel sends it when the thread that called this ends.
            user: Its user id and group id; ours if None.
            cwd: Its working folder; ours if None.
            env: Its whole environment; ours if None.
            pass_fds: File descriptors that it inherits.

        Raises:
            OSError: No process could be started.
        """
        process = await asyncio.create_subprocess_exec(
            *launch.command(program, death_signal=death_signal, user=user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
        )
        return cls(process, on_line)

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    async def wait(self) -> int:
        """Wait until it has ended and its output is read. Returns the exit code, negative for a signal."""
        code = await self.process.wait()
        # A grandchild may hold the pipe open: its output is not waited for.
        await asyncio.wait([self._reader], timeout=DRAIN_SECONDS)
        self._reader.cancel()
        return code

    async def stop(self, steps: Stop, hurry: asyncio.Event | None = None) -> int:
        """End it, at last by SIGKILL, and return its exit code.

        Args:
            steps: Signals to send, each with the seconds to wait for the end.
            hurry: Ends the waiting: the next signal is sent at once.
        """
        for number, seconds in steps:
            self._send(number)
            if await self._ended_within(seconds, hurry):
                break
        else:
            self._send(signal.SIGKILL)
        return await self.wait()

    def how_it_ended(self, lines: int = TAIL_LINES) -> str:
        """How it ended, for the log: exit code or signal, and the last `lines` of its output."""
        code = self.process.returncode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return "\n  ".join([how, *list(self.tail)[-lines:]])

    def _send(self, number: signal.Signals) -> None:
        if self.running:
            self.process.send_signal(number)

    async def _ended_within(self, seconds: float, hurry: asyncio.Event | None) -> bool:
        events: list[asyncio.Future[Any]] = [asyncio.ensure_future(self.process.wait())]
        if hurry is not None:
            events.append(asyncio.ensure_future(hurry.wait()))
        await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for event in events:
            event.cancel()
        return not self.running

    async def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        rest = b""
        while chunk := await stream.read(LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take_line(line)
        if rest:
            self._take_line(rest)

    def _take_line(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        self.tail.append(line)
        self._on_line(line)
