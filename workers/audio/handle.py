"""The decoder process, the parent's side: starts it, sends requests, reads the samples, and ends it.

`workers.audio.__main__` is the child's side, `workers.audio.protocol` defines the messages.

`SandboxedRecording` is used like `workers.audio.decode.Recording`. The sound is decoded in another process,
because the engine cannot limit its own address space: it may hold a GPU's memory. A file that takes too much
memory, or makes libav crash, ends only the decoder process.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stt import logs
from stt.codes import CodedError, ErrorCode
from stt.media import errors
from stt.process import launch
from workers.audio.protocol import BlockHeader, DecodeRequest, Facts, Failure, OpenRequest
from workers.audio.sound import Samples

Process = subprocess.Popen[bytes]
# Bytes that the pipe for answers holds: a whole block. With the usual 64 KiB the two processes would wake
# each other ten times for a block.
_PIPE_BYTES = 2**20


class DecoderDied(CodedError):
    """The decoder process ended before it had sent the whole recording; the text says how it ended."""

    def __init__(self, reason: str, **parameters: Any) -> None:
        super().__init__(ErrorCode.DECODER_DIED, reason=reason, **parameters)


class SandboxedRecording:
    """One pass over a file's sound, which another process decodes.

    It has the public attributes of `workers.audio.decode.Recording` (see `workers.audio.protocol.Facts`).
    They have the values after the last block that was read.
    """

    kept: list[str]
    left_out: list[str]
    unreadable: list[str]
    decoded: int
    damaged: int
    broken_off: float | None
    duration: float | None
    missing: float

    def __init__(self, path: Path, longest: float = 0.0) -> None:
        """Open a file. Call it in the main thread only: see `start_spare`.

        Args:
            path: The file.
            longest: A longer recording, in seconds, is an error; 0: no limit.

        Raises:
            MediaError: it cannot be transcribed, or decoding takes more memory than any recording.
            OSError: the file cannot be read.
            MemoryError: the machine has too little memory.
            DecoderDied: the decoder process ended, perhaps by a crash of libav.
        """
        start_spare()
        self._process = _spares.pop()
        self._facts: Facts | dict[str, Any] = {}
        self._closed = False
        self._finished = False  # all answers were read, so the process can serve another recording
        try:
            self._send({"path": str(path), "longest": longest, "log": logs.job_keys()})
            self._receive()
        except BaseException:
            self.close()
            raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._facts:
            raise AttributeError(name)
        return self._facts[name]  # type: ignore[literal-required]

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Blocks from the sample `start` on, as `workers.audio.decode.Recording.blocks` makes them.

        It can be called once.

        Raises:
            MediaError, OSError, MemoryError, DecoderDied: see `__init__`.
        """
        self._send({"start": start})
        while not (block := self._receive()).get("end"):
            yield self._samples(block["samples"])
        self._finished = True

    def close(self) -> None:
        """Keep the process for the next recording if it has sent all of this one; else kill it."""
        if self._closed:
            return
        self._closed = True
        if self._finished and not _spares:
            _spares.append(self._process)
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # the process had not read a request
                pipe.close()

    def _send(self, request: OpenRequest | DecodeRequest) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self) -> BlockHeader:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise _exception(answer)
        block: BlockHeader = answer
        self._facts = block["facts"]
        return block

    def _samples(self, count: int) -> Samples:
        assert self._process.stdout is not None
        samples = np.empty(count, np.float32)
        if self._process.stdout.readinto(samples.data.cast("B")) < samples.nbytes:  # type: ignore[attr-defined]
            raise self._death()
        return samples

    def _death(self) -> Exception:
        """The exception that says how the process ended."""
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return errors.too_slow()
        if code == -signal.SIGKILL:
            return DecoderDied("killed")
        if code >= 0:
            return DecoderDied("exited", number=code)
        return DecoderDied("signal", signal=signal.Signals(-code).name)


# Processes that wait for the next recording. A start takes about 0.2 s.
_spares: list[Process] = []


def start_spare() -> None:
    """Start a process for the next recording, unless one waits already.

    Call it in the main thread only: the kernel ends the process when the thread that started it ends.
    """
    _spares[:] = [process for process in _spares if process.poll() is None] or [_start()]


def _start() -> Process:
    process = subprocess.Popen(
        launch.command([sys.executable, "-P", "-m", "workers.audio"], death_signal=signal.SIGKILL, user=None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    )
    if sys.platform == "linux" and process.stdout is not None:
        with suppress(OSError):  # the kernel limits the memory of all pipes of a user
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


def _environment() -> dict[str, str]:
    """The environment of the decoder process, with one thread for computing.

    More threads would take address space, which is limited, and CPU time that recognition needs.
    """
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    # The engine's settings of malloc keep freed memory for the next window. Only recognition gains by that.
    env.pop("GLIBC_TUNABLES", None)
    for name in ("STT_SENTRY_DSN", "STT_HF_TOKEN"):  # not for a process that parses other people's files
        env.pop(name, None)
    return env


def _exception(failure: Failure) -> Exception:
    if failure["error"] == "media":
        return errors.MediaError(ErrorCode(failure["code"]), **failure["parameters"])
    if failure["error"] == "memory":
        return MemoryError("the machine has too little memory for decoding")
    return OSError(failure["errno"], failure["strerror"])
