"""`stt transcribe`: uploads files to a service and fetches their text."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from stt.client.http import Client, ServiceError
from stt.client.service import service
from stt.folders import FolderError
from stt.settings import Settings

# After Ctrl-C, for the answer to an upload that was sent whole: it names the job that is to be cancelled.
ANSWER_SECONDS = 5.0


@dataclass
class Target:
    """Where results go: into files of `folder`, or without `formats` to standard output."""

    formats: tuple[str, ...]
    folder: Path
    taken: set[Path] = field(default_factory=set)

    def reserve(self, source: Path) -> dict[str, Path]:
        """The file for each format: named after `source`, and not the name of an input or another result."""
        stems = [source.stem, source.name]
        number = 1
        while True:
            stem = stems.pop(0) if stems else f"{source.name}-{(number := number + 1)}"
            paths = {name: self.folder / f"{stem}.{name}" for name in self.formats}
            real = {path.resolve() for path in paths.values()}
            if not real & self.taken:
                self.taken |= real
                return paths


class Eta(ProgressColumn):
    """Time left: as the service estimates it; during an upload, from its speed so far."""

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("eta")
        if seconds is None:
            seconds = task.time_remaining
        if seconds is None or task.finished:
            return Text("")
        minutes, rest = divmod(round(seconds), 60)
        return Text(f"{minutes}:{rest:02d} left")


def run(
    settings: Settings,
    server: str,
    files: Sequence[Path],
    fields: Mapping[str, str],
    target: Target,
) -> int:
    """Transcribe files.

    Args:
        settings: Whose data folder is searched for a running service.
        server: The URL of a service; empty to find or start one.
        files: The recordings.
        fields: Option fields, such as `model` and `language`.
        target: Where the results go.

    Returns:
        The exit code: 0, 1 when a file failed, 130 after Ctrl-C.
    """
    try:
        return asyncio.run(_run(settings, server, files, fields, target))
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)  # noqa: T201
        return 130


async def _run(
    settings: Settings,
    server: str,
    files: Sequence[Path],
    fields: Mapping[str, str],
    target: Target,
) -> int:
    console = Console(stderr=True)
    try:
        async with service(settings, server, console) as url, _session(url) as session:
            return await _transcribe_all(Client(session), console, files, fields, target)
    except (ServiceError, FolderError) as error:
        console.print(f"stt: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1


def _session(url: str) -> aiohttp.ClientSession:
    # The service sends pings in a stream of events, so that 90 s without a byte mean a lost connection.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
    base = url if url.endswith("/") else url + "/"
    return aiohttp.ClientSession(base, timeout=timeout, read_bufsize=2**20)


async def _transcribe_all(
    client: Client,
    console: Console,
    files: Sequence[Path],
    fields: Mapping[str, str],
    target: Target,
) -> int:
    target.taken |= {path.resolve() for path in files}
    uploading = asyncio.Lock()  # one upload at a time: work on the first file begins while the next is sent
    with Progress(*_columns(), console=console) as bars:
        runs = [
            asyncio.create_task(FileRun(client, bars, path, target.reserve(path)).run(fields, uploading))
            for path in files
        ]
        try:
            results = await asyncio.gather(*runs, return_exceptions=True)
        finally:
            for task in runs:
                task.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
    return _report(console, files, results)


def _columns() -> tuple[ProgressColumn, ...]:
    name = TextColumn("{task.description}", markup=False)
    return name, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[stage]}"), Eta()


def _report(console: Console, files: Sequence[Path], results: Sequence[str | BaseException]) -> int:
    failed = 0
    for path, result in zip(files, results, strict=True):
        if isinstance(result, ServiceError | OSError | aiohttp.ClientError):
            failed = 1
            line = f"{path}: {result or type(result).__name__}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif isinstance(result, BaseException):
            raise result
        elif result:
            head = f"==> {path} <==\n" if len(files) > 1 else ""
            sys.stdout.write(f"{head}{result.rstrip()}\n")
    return failed


class FileRun:
    """One file: uploads it, waits for its job, fetches the results."""

    def __init__(self, client: Client, bars: Progress, path: Path, outputs: Mapping[str, Path]) -> None:
        self.client, self.bars, self.path, self.outputs = client, bars, path, outputs
        self.bar: TaskID = bars.add_task(path.name, total=None, stage="", eta=None)

    async def run(self, fields: Mapping[str, str], uploading: asyncio.Lock) -> str:
        """The text, or empty if results go to files. Cancelling this task cancels the job."""
        async with uploading:
            job = await self._accepted(fields)
        try:
            job = await self.client.follow(job["id"], self._show)
        except asyncio.CancelledError:
            await self._cancel(job["id"])
            raise
        self._check(job)
        return await self._fetch(job["id"])

    async def _accepted(self, fields: Mapping[str, str]) -> dict[str, Any]:
        """The job. Cancelling this task cancels it too, also when the upload is complete but not answered."""
        upload = asyncio.create_task(self._upload(fields))
        try:
            return await asyncio.shield(upload)
        except asyncio.CancelledError:
            if self.bars.tasks[self.bar].completed < self.path.stat().st_size:
                upload.cancel()
            with contextlib.suppress(aiohttp.ClientError, ServiceError, TimeoutError, asyncio.CancelledError):
                job = await asyncio.wait_for(upload, ANSWER_SECONDS)
                await self._cancel(job["id"])
            raise

    async def _upload(self, fields: Mapping[str, str]) -> dict[str, Any]:
        size = self.path.stat().st_size
        self.bars.reset(self.bar, total=size, stage="upload", eta=None)
        with self.path.open("rb") as file, self.bars.wrap_file(file, task_id=self.bar) as counted:
            job = await self.client.upload(self.path.name, counted, fields)
        self.bars.reset(self.bar, total=1.0, stage="waiting", eta=None)
        return job

    def _show(self, job: dict[str, Any]) -> None:
        stage = job["stage"] if job["status"] == "processing" else job["status"]
        self.bars.update(self.bar, completed=job["progress"] or 0, stage=stage or "", eta=job["eta_seconds"])

    async def _cancel(self, job_id: str) -> None:
        try:
            await self.client.cancel(job_id)
        except (aiohttp.ClientError, ServiceError) as error:
            line = f"{self.path}: the job {job_id} could not be cancelled: {error}"
            self.bars.console.print(line, markup=False, highlight=False)

    def _check(self, job: dict[str, Any]) -> None:
        if job["status"] == "failed":
            raise ServiceError(job["error_message"])
        if job["status"] == "cancelled":
            raise ServiceError("the job was cancelled")
        self.bars.update(self.bar, completed=1.0, stage="completed", eta=None)
        for warning in job["warnings"]:
            text = warning["message"] if isinstance(warning, dict) else str(warning)
            self.bars.console.print(f"{self.path}: {text}", markup=False, highlight=False)

    async def _fetch(self, job_id: str) -> str:
        if not self.outputs:
            return (await self.client.download(job_id, "txt")).decode()
        for name, path in self.outputs.items():
            content = await self.client.download(job_id, name)
            await asyncio.to_thread(_write, path, content)
        return ""


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
