"""A real `stt up` in a process of its own, for tests of whole journeys."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import sys
import tempfile
from asyncio import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from subprocess import run

import psutil

from tests.support.places import ROOT

STARTS_WITHIN = 60
ENDS_WITHIN = 10  # what the interface promises


@contextmanager
def private_folder() -> Iterator[Path]:
    """As pytest's tmp_path, but not below a folder that another run of pytest closes to other users
    (as root, PostgreSQL is one)."""
    with tempfile.TemporaryDirectory(prefix="stt-test-") as folder:
        yield Path(folder)


_FIRST_START = """
import asyncio
from stt import db, logs, settings
from stt.ops.embedded.servers import servers

async def main():
    logs.configure()
    async with servers(settings.load()) as (database_url, _):
        await db.migrate(database_url)

asyncio.run(main())
"""


@cache
def _template() -> Path:
    """A data folder after its first start, made once a session."""
    folder = Path(tempfile.mkdtemp(prefix="stt-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run([sys.executable, "-c", _FIRST_START], env=environment(folder), cwd=ROOT, check=True, timeout=120)
    return folder


def prepared(data_dir: Path) -> Path:
    """The folder with a database in it, as an earlier start leaves it: initdb takes seconds."""
    template = _template()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(["cp", "-a", template / "postgres", data_dir], check=True)
    return data_dir


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """Our environment without its settings, and these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
    given = {"DATA_DIR": str(data_dir), "PORT": "0", **settings}
    return inherited | {f"STT_{name}": value for name, value in given.items()}


async def stt(*arguments: str, data_dir: Path, **settings: str) -> tuple[int, str, str]:
    """Run `stt …` to its end: exit code, standard output, standard error."""
    process = await subprocess.create_subprocess_exec(
        sys.executable, "-m", "stt", *arguments,
        env=environment(data_dir, **settings), cwd=data_dir.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Up:
    """A running `stt up`."""

    def __init__(self, process: subprocess.Process, data_dir: Path) -> None:
        self.process, self.data_dir = process, data_dir
        self.url = ""
        self.log: list[str] = []
        self._heard = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def until_ready(self) -> None:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), STARTS_WITHIN)
        assert line.startswith(b"ready: http"), "\n".join(self.log)
        self.url = line.decode().removeprefix("ready: ").strip()

    async def until_logged(self, text: str) -> str:
        """The first line, also of those logged already, that holds `text`."""

        def found() -> str | None:
            return next((line for line in self.log if text in line), None)

        async with self._heard:
            async with asyncio.timeout(STARTS_WITHIN):
                await self._heard.wait_for(lambda: found() is not None)
        return str(found())

    async def ended(self) -> int:
        async with asyncio.timeout(ENDS_WITHIN):
            code = await self.process.wait()
        await self._reader
        return code

    def child(self, name: str) -> psutil.Process:
        """The child of that name, or whose title begins with it."""
        found = self.titles()
        for process, title in found.items():
            if title.startswith(name) or process.name() == name:
                return process
        raise LookupError(f"no child {name} among {list(found.values())}")

    async def until_child(self, name: str) -> psutil.Process:
        """The same, as soon as there is one: it has its title only when its libraries are loaded."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STARTS_WITHIN):
                while True:
                    with suppress(LookupError, psutil.NoSuchProcess):
                        return self.child(name)
                    await asyncio.sleep(0.02)
        return self.child(name)  # which says what there is instead

    def titles(self) -> dict[psutil.Process, str]:
        """What each child is called in `ps`; one that ends meanwhile is left out."""
        found = {}
        for process in self.children():
            with suppress(psutil.NoSuchProcess):
                found[process] = " ".join(process.cmdline()).strip()
        return found

    def children(self) -> list[psutil.Process]:
        """Everything it has started, and what that has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            async with self._heard:
                self.log.append(line.decode().rstrip())
                self._heard.notify_all()


@asynccontextmanager
async def up(data_dir: Path, python: str = sys.executable, **settings: str) -> AsyncIterator[Up]:
    """`stt up` on any free port, ready; killed at the end, if it still runs."""
    process = await subprocess.create_subprocess_exec(
        python, "-m", "stt", "up",
        env=environment(data_dir, **settings), cwd=data_dir.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, limit=2**20,
    )  # fmt: skip
    running = Up(process, data_dir)
    try:
        await running.until_ready()
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await running.ended()


async def gone(processes: list[psutil.Process], within: float = ENDS_WITHIN) -> None:
    """Wait until all have ended, and fail for those that have not."""
    _, waited_for = await asyncio.to_thread(psutil.wait_procs, processes, within)
    alive = [process for process in waited_for if not _is_zombie(process)]
    assert not alive, alive


def _is_zombie(process: psutil.Process) -> bool:
    """It has ended, and its new parent has not asked yet how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
