"""Is this file media, and of which kind? Asked of a child with limits, since a file may be hostile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from stt import launch
from stt.errors import Problem
from stt.settings import PREFIX

log = logging.getLogger(__name__)

_WALL_SECONDS = 60  # looking into the largest real file takes a fraction
# As many at once as there are cores to run them.
_slots = asyncio.Semaphore(os.cpu_count() or 1)

_TITLES = {415: "Not a recording we can read", 422: "Nothing to transcribe"}


@dataclass(frozen=True, slots=True)
class Media:
    """What a file holds: `audio` or `video`, and its length in seconds where the container says so."""

    file_type: str
    duration_seconds: float | None


async def probe(path: Path) -> Media:
    """Look into a file in a child process.

    Raises:
        Problem: 415 not media or no audio track, 422 media without any sound in it.
    """
    async with _slots:
        return await _ask_child(path)


async def _ask_child(path: Path) -> Media:
    program = [sys.executable, "-m", "stt.probe_child", str(path)]
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
        log.warning("the probe of %s took too long", path.name)
        raise _problem(415, "not_media", "Looking into the file took too long.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = err.decode(errors="replace")
        log.warning("the probe of %s ended with %s: %s", path.name, process.returncode, words)
        raise _problem(415, "not_media", "Looking into the file failed: it is damaged or hostile.")
    answer = json.loads(out)
    if "code" in answer:
        raise _problem(answer["status"], answer["code"], answer["message"])
    return Media(**answer)


def _problem(status: int, code: str, message: str) -> Problem:
    return Problem(status, code, _TITLES[status], message)
