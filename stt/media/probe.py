"""Is this file media, and of which kind? Asked of a child with limits, since a file may be hostile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from stt import resources
from stt.codes import ErrorCode
from stt.media.errors import MediaError
from stt.process import launch, sandbox
from stt.settings import PREFIX

log = structlog.stdlib.get_logger(__name__)

_WALL_SECONDS = 60  # looking into the largest real file takes a fraction
_slots = asyncio.Semaphore(resources.probes_at_once())


class NoMemoryForProbe(Exception):
    """The machine has too little memory to inspect a file just now."""


@dataclass(frozen=True, slots=True)
class Media:
    """What a file holds: `audio` or `video`, and its length in seconds where the container says so."""

    file_type: str
    duration_seconds: float | None


async def probe(path: Path, longest: float = 0.0) -> Media:
    """Inspect a file in a child process; `longest`: seconds that a recording may have, 0: no limit.

    Raises:
        MediaError: it is not media, has no audio track or no sound, or is too long.
        NoMemoryForProbe: the machine has too little memory for the child just now.
    """
    async with _slots:
        return _answer(path, await _ask_child(path, longest))


def _answer(path: Path, answer: dict[str, Any]) -> Media:
    _log_missing_limits(frozenset({sandbox.FILES, sandbox.NETWORK} - set(answer.pop("given_up"))))
    if answer.get("no_memory"):
        log.warning("too little memory for the probe")
        raise NoMemoryForProbe
    if "code" in answer:
        raise MediaError(ErrorCode(answer["code"]), **answer["parameters"])
    return Media(**answer)


@cache
def _log_missing_limits(missing: frozenset[str]) -> None:
    """Log once what this kernel cannot refuse to the probe."""
    if missing:
        log.warning("this kernel does not refuse everything to the probe of uploads", allowed=sorted(missing))


async def _ask_child(path: Path, longest: float) -> dict[str, Any]:
    program = [sys.executable, "-m", "stt.media.probe_child", str(path), str(longest)]
    process = await asyncio.create_subprocess_exec(
        *launch.command(program, death_signal=signal.SIGKILL, user=None),
        # Our settings hold passwords, which are not for a process that parses other people's files.
        env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _WALL_SECONDS)
    except TimeoutError:
        log.warning("the probe took too long", seconds=_WALL_SECONDS)
        raise MediaError(ErrorCode.NOT_MEDIA, reason="probe_slow") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return dict(json.loads(out))
    words = err.decode(errors="replace")
    log.warning("the probe failed", returncode=process.returncode, output=words)
    if process.returncode == -signal.SIGKILL:
        raise NoMemoryForProbe
    raise MediaError(ErrorCode.NOT_MEDIA, reason="probe_failed")
