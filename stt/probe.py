"""Is this file media, and of which kind? Asked of a child process with limits, since a file may be hostile.

``python -m stt.probe PATH`` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from stt import launch
from stt.errors import Problem
from stt.settings import PREFIX

log = logging.getLogger(__name__)

# Opening and decoding the first frames of the largest real file takes a fraction of these.
_CPU_SECONDS, _WALL_SECONDS, _MEMORY = 20, 60, 4 * 2**30
# Enough packets to get past a damaged start, few enough to answer at once.
_PACKETS = 500

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
    program = [sys.executable, "-m", "stt.probe", str(path)]
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


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    if sys.platform == "linux":  # macOS refuses a limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _main(path: Path) -> None:
    from stt import media  # noqa: PLC0415  libav is loaded in the child only

    _limit()
    try:
        kind, duration = media.inspect(path, packets=_PACKETS)
    except media.MediaError as error:
        status = 422 if error.code == "empty_audio" else 415
        answer: dict[str, object] = {"status": status, "code": error.code, "message": str(error)}
    else:
        answer = asdict(Media(kind, duration))
    print(json.dumps(answer))  # noqa: T201  this is the answer


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
