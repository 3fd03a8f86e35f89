"""Child processes that never outlive us, and whose last words are kept."""

from __future__ import annotations

import asyncio
import signal
from asyncio import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stt.process import launch

TAIL_LINES = 12
LONGEST_LINE = 64 * 1024
DRAIN_SECONDS = 0.5

Stop = Sequence[tuple[signal.Signals, float]]  # send this, wait so many seconds for the end


class Child:
    """One process in a session of its own (a terminal's Ctrl-C does not reach it)."""

    def __init__(self, process: subprocess.Process, on_line: Callable[[str], None]) -> None:
        self.process = process
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._on_line = on_line
        self._reader = asyncio.create_task(self._read())

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
        """Start `program` (absolute path first); each line of its output goes to `on_line`."""
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
        """The exit code, negative for a signal, once it has ended and its output is read."""
        code = await self.process.wait()
        # A grandchild may hold the pipe open: its words are not worth waiting for.
        await asyncio.wait([self._reader], timeout=DRAIN_SECONDS)
        self._reader.cancel()
        return code

    async def stop(self, steps: Stop, hurry: asyncio.Event | None = None) -> int:
        """End it: each signal with its patience, at last SIGKILL. `hurry` ends the patience."""
        for number, seconds in steps:
            self._send(number)
            if await self._ended_within(seconds, hurry):
                break
        else:
            self._send(signal.SIGKILL)
        return await self.wait()

    def last_words(self, lines: int = TAIL_LINES) -> str:
        """How it ended, for a person: exit code or signal, and the last lines of its output."""
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
                self._heard(line)
        if rest:
            self._heard(rest)

    def _heard(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        self.tail.append(line)
        self._on_line(line)
