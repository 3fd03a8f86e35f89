"""The engine's process as the worker sees it: start it, send it requests, read its events, kill it.

No torch in here.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import structlog

from stt.codes import CodedError, ErrorCode, Parameters
from stt.process.child import Child
from stt.settings import PREFIX, Settings
from workers import machine
from workers.engine import output
from workers.engine.life import UNWANTED, Life
from workers.engine.protocol import Event, TranscribeRequest

log = structlog.stdlib.get_logger(__name__)

PROGRAM = "workers.engine"  # the module that runs in the process
# What the engine needs of the settings. The rest, with the servers' passwords, is not for a process that
# parses other people's files.
_SETTINGS = (
    "data_dir", "model", "device", "compute_type", "threads", "replicas", "batch_size", "beam_size",
    "model_memory", "span_seconds", "vad", "align", "hf_token", "log_level", "workers",
    "max_duration_seconds", "sentry_dsn",
)  # fmt: skip
_LONGEST_EVENT = 256 * 2**20  # bytes of one line
_CLOSE_SECONDS = 5.0
# An engine that works sends an event every two seconds, but not while it loads its libraries.
_SILENT_SECONDS, _STARTING_SECONDS = 60.0, 300.0
# An engine that still sends "alive" may yet make no progress. It is stuck if no other event comes for
# `_STUCK_SECONDS`, or if that is longer, for `_SLOWEST_FACTOR` times the length of a span.
_SLOWEST_FACTOR, _STUCK_SECONDS = 20, 1800.0
_CHECK_SECONDS = 1.0
# After these errors the process gets no other request: it ends itself, or it keeps memory that is needed.
_LAST_ERRORS = (ErrorCode.ENGINE_FAILED, ErrorCode.OUT_OF_MEMORY)
# Without these, glibc hands memory back after each window and faults it in again, which takes nearly half
# of the encoder's time. The price: memory returns only when the process ends (docs/engine.md).
_MALLOC = (
    "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=16777216"
)


class EngineDied(CodedError):
    """The engine's process ended before the end of its answer."""

    def __init__(self, returncode: int | None, stderr_tail: str, *, killed: bool = False) -> None:
        super().__init__(ErrorCode.ENGINE_DIED, **({"reason": "stopped"} if killed else _cause(returncode)))
        lines = stderr_tail.splitlines()
        self.returncode, self.stderr_tail = returncode, output.readable(lines)
        last = "" if killed or returncode == -signal.SIGKILL else output.last_error(lines)
        if last:
            self.parameters["last"] = last
            self.args = (f"{str(self).removesuffix('.')}: {last}",)


class EngineHung(CodedError):
    """The engine's process gave no sign of life or made no progress, and was killed."""

    def __init__(self, seconds: float, stderr_tail: str) -> None:
        super().__init__(ErrorCode.ENGINE_HUNG, seconds=round(seconds, 1))
        self.stderr_tail = output.readable(stderr_tail.splitlines())


class EngineProcess:
    """One process that holds models, for one GPU (`gpu`, as CUDA names it) or the CPU."""

    def __init__(self, settings: Settings, *, gpu: str | None = None) -> None:
        self._settings, self._gpu = settings, gpu
        self._child: Child | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._starting = asyncio.Lock()
        self._killed = False
        self.silent_seconds = _SILENT_SECONDS
        self.stuck_seconds = max(_STUCK_SECONDS, _SLOWEST_FACTOR * settings.span_seconds)
        self._last_event = self._last_progress = time.monotonic()
        self._has_answered = False
        self._life: Life | None = None
        self.failures = 0  # processes in a row that ended by themselves or hung, and did no request
        self._job_keys: dict[str, Any] = {}  # for the log: those of the request that is served

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._child.process.pid if self._child is not None and self.running else None

    @property
    def tail(self) -> str:
        """The last lines that the process wrote to its standard error."""
        return output.readable(self._child.tail) if self._child else ""

    async def start(self) -> None:
        """Start a process if none runs. One that was killed but has not ended yet counts as none."""
        async with self._starting:
            if not self.running or self._killed:
                await self._forget()
                await self._spawn()

    async def transcribe(self, request: TranscribeRequest) -> AsyncGenerator[Event, None]:
        """Send a request and yield its events, the last one "done" or "error".

        If the caller leaves the generator before its last event, the process is killed. Otherwise it would go
        on working, and the next request would get events of this one.

        Raises:
            EngineDied: The process ended before the last event.
            EngineHung: The process gave no sign of life or made no progress, and was killed.
        """
        await self.start()
        ended, self._job_keys = False, dict(request.get("log", {}))
        try:
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    self._note_end(event)
                    ended = event["type"] == "done" or (
                        event["type"] == "error" and event["code"] not in _LAST_ERRORS
                    )
                    yield event
                    if event["type"] in ("done", "error"):
                        return
        finally:
            if not ended:
                await self.kill()
            self._job_keys = {}

    async def kill(self, cause: str = "stopped") -> None:
        """End the process at once, whatever it does; the cause is counted (`workers.engine.life`)."""
        if self._child is not None and self._life is not None:
            if self.running:
                self._killed = True
                self._life.expect(cause)
                with suppress(ProcessLookupError):
                    os.killpg(self._child.process.pid, signal.SIGKILL)
            await self._child.wait()
            await self._life.over()

    async def close(self) -> None:
        """End the process when it has nothing to do; one that does not end by itself is killed."""
        async with self._starting:  # a request that comes meanwhile starts a new process
            if self._life is not None and self.running:
                self._life.expect("idle")
            if self._writer is not None:
                self._writer.close()
            if self._child is not None and self.running:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._child.process.wait(), _CLOSE_SECONDS)
            await self.kill()
            await self._forget()

    async def _events(self, request: TranscribeRequest) -> AsyncGenerator[Event, None]:
        reader, writer, child = self._reader, self._writer, self._child
        assert reader is not None and writer is not None and child is not None
        line = b""
        with suppress(ConnectionError):
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            self._last_event = self._last_progress = time.monotonic()
            while (line := await self._line(reader, child)).endswith(b"\n"):
                event: Event = json.loads(line)
                self._record(event)
                yield event
        # The process has closed its end of the socket, so it should end by itself. If not, it is killed.
        with suppress(TimeoutError):
            await asyncio.wait_for(child.process.wait(), _CLOSE_SECONDS)
        if child.running:
            await self.kill("hung")
        code = await child.wait()
        raise EngineDied(code, "\n".join(child.tail), killed=self._killed)

    async def _line(self, reader: asyncio.StreamReader, child: Child) -> bytes:
        """The next line; a process that is silent or stuck for too long is killed.

        Raises:
            EngineHung: The process was killed.
        """
        waiting = asyncio.ensure_future(reader.readline())
        try:
            # Lines in the buffer are read before the check: this process may have been slow, not the engine.
            while not (await asyncio.wait([waiting], timeout=_CHECK_SECONDS))[0]:
                if (hung := self._hung()) is not None:
                    log.error("the engine makes no progress: killing it", seconds=round(hung, 1))
                    await self.kill("hung")
                    raise EngineHung(hung, "\n".join(child.tail))
            return await waiting
        finally:
            waiting.cancel()

    def _hung(self) -> float | None:
        """Seconds without an event or without progress, if that is too long; else None."""
        now = time.monotonic()
        silent = self.silent_seconds if self._has_answered else _STARTING_SECONDS
        if now - self._last_event > silent:
            return now - self._last_event
        return now - self._last_progress if now - self._last_progress > self.stuck_seconds else None

    def _record(self, event: Event) -> None:
        self._has_answered = True
        self._last_event = time.monotonic()
        if event["type"] != "alive":
            self._last_progress = self._last_event

    def _note_end(self, event: Event) -> None:
        if event["type"] == "error" and event["code"] in _LAST_ERRORS and self._life is not None:
            self._life.expect("error")
        elif event["type"] in ("done", "error"):
            self.failures = 0

    def _on_end(self, cause: str) -> None:
        self.failures += cause in UNWANTED

    def _log_line(self, line: str) -> None:
        self._last_progress = time.monotonic()  # a download writes its progress there
        output.relay(line, self._job_keys)

    async def _spawn(self) -> None:
        self._killed = self._has_answered = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = await Child.start(
                [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno())],
                on_line=self._log_line,
                env=_environment(self._settings, self._gpu),
                pass_fds=[theirs.fileno()],
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_EVENT)
        self._life = Life(self._child, self._on_end)
        log.info("engine started", pid=self._child.process.pid)

    async def _forget(self) -> None:
        if self._child is not None:
            await self._child.wait()
        if self._writer is not None:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()
        self._child = self._reader = self._writer = None


def _environment(settings: Settings, gpu: str | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {PREFIX + name.upper(): str(getattr(settings, name)) for name in _SETTINGS}
    env[PREFIX + "THREADS"] = env["OMP_NUM_THREADS"] = str(_threads(settings))
    env["TOKENIZERS_PARALLELISM"] = "false"
    env["HF_HUB_DISABLE_TELEMETRY"] = env["DO_NOT_TRACK"] = env["ORT_DISABLE_TELEMETRY"] = "1"
    env["PYANNOTE_METRICS_ENABLED"] = "false"
    # Threads that wait for another one sleep instead of spinning. On a busy machine spinning threads take the
    # core that the other one needs: a clip of 50 s took 58 s instead of 3 s on two busy cores.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    env.setdefault("GOMP_SPINCOUNT", "30000")
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    if platform.libc_ver()[0] == "glibc" and settings.device != "cuda":
        env["GLIBC_TUNABLES"] = ":".join(filter(None, [env.get("GLIBC_TUNABLES"), _MALLOC]))
    return env


def _threads(settings: Settings) -> int:
    if isinstance(settings.threads, int):
        return settings.threads
    workers = settings.workers if isinstance(settings.workers, int) else 1
    return max(1, machine.cores() // workers)


def _cause(returncode: int | None) -> Parameters:
    """The parameters of the sentence that says how the process ended."""
    if returncode is None:
        return {"reason": "unknown"}
    if returncode >= 0:
        return {"reason": "exited", "number": returncode}
    if returncode == -signal.SIGKILL:
        return {"reason": "killed"}
    return {"reason": "signal", "signal": signal.Signals(-returncode).name}
