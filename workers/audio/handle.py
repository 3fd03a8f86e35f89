"""Decodes a recording in a process of its own, which has a memory limit.

`Recording` is used like that of `workers.audio.decode`. The engine cannot limit its own address space, as it
may hold a GPU's memory. A file that takes too much memory, or makes libav crash, ends only the process that
decodes it.
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

from stt.codes import CodedError, ErrorCode
from stt.media import errors
from stt.process import launch
from workers.audio.sound import Samples

Process = subprocess.Popen[bytes]
# A pipe that holds a block: with the usual 64 KiB both processes would wake each other ten times for it.
_PIPE_BYTES = 2**20


class DecoderDied(CodedError):
    """The process that decodes ended before it had sent the whole recording; the text says how it ended."""

    def __init__(self, reason: str, **parameters: Any) -> None:
        super().__init__(ErrorCode.DECODER_DIED, reason=reason, **parameters)


class SandboxedRecording:
    """One pass over a file's sound, with the public attributes of `workers.audio.decode.Recording`.

    The attributes have the values of the last block that was read.
    """

    def __init__(self, path: Path, longest: float = 0.0) -> None:
        """Open a file; a recording of more seconds than `longest` is an error, 0: no limit.

        Call it in the main thread only: see `prepare`.

        Raises:
            media.MediaError: it cannot be transcribed, or decoding takes more memory than any recording.
            OSError: the file cannot be read.
            MemoryError: the machine has too little memory.
            DecoderDied: the process ended, perhaps by a crash of libav.
        """
        prepare()
        self._process = _spares.pop()
        self._facts: dict[str, Any] = {}
        self._closed = False
        self._read = False  # to its end: then the process can serve another recording
        try:
            self._ask({"path": str(path), "longest": longest})
            self._message()
        except BaseException:
            self.close()
            raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._facts:
            raise AttributeError(name)
        return self._facts[name]

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Blocks from the sample `start` on, as `workers.audio.decode.Recording.blocks` makes them; once.

        Raises:
            media.MediaError, OSError, MemoryError, DecoderDied: see `__init__`.
        """
        self._ask({"start": start})
        while not (message := self._message()).get("end"):
            yield self._samples(message["samples"])
        self._read = True

    def close(self) -> None:
        """Give the process back if it has sent all; else end it, whatever it does."""
        if self._closed:
            return
        self._closed = True
        if self._read and not _spares:
            _spares.append(self._process)
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # of a request that was not read
                pipe.close()

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _message(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise _error(message)
        self._facts = message["facts"]
        return message

    def _samples(self, count: int) -> Samples:
        assert self._process.stdout is not None
        samples = np.empty(count, np.float32)
        if self._process.stdout.readinto(samples.data.cast("B")) < samples.nbytes:  # type: ignore[attr-defined]
            raise self._death()
        return samples

    def _death(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return errors.too_slow()
        if code == -signal.SIGKILL:
            return DecoderDied("killed")
        if code >= 0:
            return DecoderDied("exited", number=code)
        return DecoderDied("signal", signal=signal.Signals(-code).name)


# Processes that were started before they are needed, as a start takes some 0.2 s.
_spares: list[Process] = []


def prepare() -> None:
    """Have a process ready for the next recording.

    Call it in the main thread only: the process ends when the thread that started it ends.
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
        with suppress(OSError):  # the memory of a user's pipes is limited
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


def _environment() -> dict[str, str]:
    """The environment of a decoder, with one thread for computing.

    Another would take address space, which is limited, and processor time that recognition needs.
    """
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    # The engine's allocator settings keep memory for the next window. That helps only recognition.
    env.pop("GLIBC_TUNABLES", None)
    return env


def _error(message: dict[str, Any]) -> Exception:
    if message["error"] == "media":
        return errors.MediaError(ErrorCode(message["code"]), **message["parameters"])
    if message["error"] == "memory":
        return MemoryError("the machine has too little memory for decoding")
    return OSError(message["errno"], message["strerror"])
