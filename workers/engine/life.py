"""Counts the engine's processes for Prometheus: how many were started, and what ended each."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from stt.process.child import Child
from stt.telemetry import metrics

# Why a process ends by our will, and why by its own or somebody else's.
WANTED, UNWANTED = ("idle", "stopped"), ("hung", "killed", "signal", "exited", "error")


class Life:
    """One process, from its start to its end."""

    def __init__(self, child: Child, on_end: Callable[[str], None]) -> None:
        """Watch a process that has just been started.

        Args:
            child: The process.
            on_end: Called once it has ended, with the cause: one of `WANTED` or `UNWANTED`.
        """
        metrics.ENGINE_STARTS.inc()
        self._cause = ""
        self._on_end = on_end
        self._watcher = asyncio.create_task(self._watch(child))

    def expect(self, cause: str) -> None:
        """It is about to end for this reason; the first one counts."""
        self._cause = self._cause or cause

    async def over(self) -> None:
        """Wait until it has ended and is counted."""
        await asyncio.wait([self._watcher])

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        cause = self._cause or _by_code(code)
        metrics.ENGINE_DEATHS.labels(cause).inc()
        self._on_end(cause)


def _by_code(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed"
    return "signal" if code < 0 else "exited"
