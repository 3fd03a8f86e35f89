"""What people do with a running service, at a bounded rate, and what is wrong in its answers.

`bench/soak.py` uses it. Each kind of act has a loop of its own. Jobs are deleted, oldest first, as others are
sent, so that their number stays about the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

KEPT = 40  # jobs that are stored, about
WAITING = 6  # uploads stop while so many jobs wait or run
LISTENERS = 6
FORMATS = ("txt", "srt", "vtt", "json", "tsv", "docx")
LIMIT = 64 * 2**20  # STT_MAX_UPLOAD_BYTES of the service
NAME = "confidential"  # of every file that is sent: the log must not hold it
ENDED = ("completed", "failed", "cancelled")
CHUNK = 2**16


@dataclass(frozen=True)
class Recording:
    """A file to send, and what is said in it."""

    name: str
    path: Path
    language: str
    reference: str


@dataclass
class Sent:
    """A job that was answered with 201."""

    id: str
    recording: str
    status: str = "pending"
    busy: bool = False  # somebody relies on its not being changed
    cancelled: bool = False  # a cancel was answered with 200


@dataclass
class Event:
    """A server-sent event."""

    name: str
    data: str
    id: str


class Load:
    """Everything that is done to the service, until `end`."""

    def __init__(self, url: str, recordings: dict[str, Recording], rng: random.Random) -> None:
        self.url, self.recordings, self.rng = url, recordings, rng
        self.jobs: dict[str, Sent] = {}
        self.texts: dict[str, str] = {}  # of each recording, when it was heard first
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.may_stop_running = False  # whether running jobs are cancelled, which ends the engine
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Act until `end` is called."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            loops = [
                self._repeat(self._look, 1, 1),
                self._repeat(self._send_small, 1.5, 4.5),
                self._repeat(self._send_large, 50, 70),
                self._repeat(self._send_slowly, 35, 55),
                self._repeat(self._send_what_is_refused, 4, 8),
                self._repeat(self._break_off, 8, 15),
                self._repeat(self._read, 0.3, 1.2),
                self._repeat(self._download, 0.5, 2),
                self._repeat(self._follow, 8, 15),
                self._repeat(self._cancel_waiting, 15, 25),
                self._repeat(self._cancel_running, 15, 25),
                self._repeat(self._retry, 10, 20),
                self._repeat(self._delete, 0.5, 1.5),
                *(self._repeat(self._listen, 0, 3) for _ in range(LISTENERS)),
            ]
            await asyncio.gather(*loops)

    def end(self) -> None:
        """Let each loop end what it is doing."""
        self._ending.set()

    async def hear_all(self) -> None:
        """Send each recording alone and keep its text."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(300)) as self._session:
            for recording in self.recordings.values():
                job = await self._send(recording)
                assert job, self.problems
                found = await self.ended(job)
                self.texts[recording.name] = found["transcription_text"] or ""
                if found["status"] != "completed":
                    self._wrong(f"{recording.name}, alone: {found['status']} {found['error_code']}")

    async def ended(self, job: Sent) -> dict[str, Any]:
        """The job's row, as soon as it has ended."""
        while True:
            answer, body = await self._ask("GET", f"/api/jobs/{job.id}", 200)
            if answer != 200 or body["status"] in ENDED:
                job.status = body.get("status", "")
                return body
            await asyncio.sleep(0.2)

    async def _repeat(self, act: Callable[[], Awaitable[None]], least: float, most: float) -> None:
        while not self._ending.is_set():
            try:
                await act()
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                self._wrong(f"{act.__name__}: {type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self.rng.uniform(least, most))

    # Sending

    async def _send_small(self) -> None:
        if self._unended() < WAITING:
            names = [name for name in self.recordings if name != "large"]
            await self._send(self.recordings[self.rng.choice(names)])

    async def _send_large(self) -> None:
        await self._send(self.recordings["large"])

    async def _send_slowly(self) -> None:
        recording = self.recordings[min(self.recordings)]
        await self._send(recording, _slowly(recording.path.read_bytes(), self.rng.uniform(5, 20)))

    async def _send(
        self, recording: Recording, body: AsyncIterator[bytes] | None = None, **options: str
    ) -> Sent | None:
        form = aiohttp.FormData()
        form.add_field("priority", options.get("priority") or self.rng.choice(["low", "normal", "high"]))
        if self.rng.random() < 0.5:
            form.add_field("language", recording.language)
        with recording.path.open("rb") as file:
            form.add_field("file", body or file, filename=f"{NAME}-{recording.name}{recording.path.suffix}")
            answer, job = await self._ask("POST", "/api/jobs/upload", 201, data=form)
        if answer != 201:
            return None
        self.counts["accepted"] += 1
        self.jobs[job["id"]] = Sent(job["id"], recording.name)
        return self.jobs[job["id"]]

    async def _send_what_is_refused(self) -> None:
        name, content, status = self.rng.choice([
            ("not media", b"This is no recording. " * 2000, 415),
            ("empty", b"", 422),
            ("too large", _zeros(LIMIT + 2**20), 413),  # it is refused while it is being received
        ])  # fmt: skip
        form = aiohttp.FormData()
        form.add_field("file", content, filename=f"{NAME}.wav")
        self.counts[f"refused: {name}"] += 1
        try:
            await self._ask("POST", "/api/jobs/upload", status, data=form)
        except aiohttp.ClientConnectionError:
            # The service closes the connection of a client that goes on sending.
            if name != "too large":
                raise

    async def _break_off(self) -> None:
        """An upload whose client goes away in the middle of the file."""
        recording = self.recordings["large" if self.rng.random() < 0.2 else "long"]
        content = recording.path.read_bytes()
        form = aiohttp.FormData()
        form.add_field("file", _broken(content[: len(content) // 2]), filename=f"{NAME}.wav")
        self.counts["broken off"] += 1
        try:
            async with self._session.post(f"{self.url}/api/jobs/upload", data=form) as answer:
                self._wrong(f"an upload that broke off was answered with {answer.status}")
        except (aiohttp.ClientError, _BrokenOff):
            pass

    # Reading

    async def _look(self) -> None:
        """Read the list, and note how the jobs stand."""
        answer, page = await self._ask("GET", "/api/jobs?limit=200", 200)
        for row in page["jobs"] if answer == 200 else []:
            if row["id"] in self.jobs:
                self.jobs[row["id"]].status = row["status"]

    async def _read(self) -> None:
        paths = ["/", "/jobs", "/api/jobs?status=completed&limit=5", "/api/jobs?q=conf", "/health/ready"]
        if job := self._any(*ENDED):
            paths += [f"/jobs/{job.id}", f"/api/jobs/{job.id}"]
        if job and job.status == "completed":
            paths.append(f"/api/jobs/{job.id}/peaks?points=200")
        path = self.rng.choice([*paths, "/api/jobs/none"])
        with _kept(job):
            await self._ask("GET", path, 404 if path.endswith("none") else 200)

    async def _download(self) -> None:
        if not (job := self._any("completed")):
            return
        kind = self.rng.choice(FORMATS)
        with _kept(job):
            answer, body = await self._ask("GET", f"/api/jobs/{job.id}/download?format={kind}", 200)
        text = self.texts[job.recording]
        if answer == 200 and kind == "json" and body["text"] != text:
            self._wrong(f"{job.recording} was downloaded with another text: {body['text']}")
        elif answer == 200 and not body:
            self._wrong(f"the download of {job.recording} as {kind} is empty")

    async def _listen(self) -> None:
        """Open a stream, stay a while, then leave it, or connect again as an `EventSource` does."""
        job = self._any("pending", "processing", *ENDED)
        paths = ["/api/events", "/stream"]
        if job:
            paths += [f"/api/jobs/{job.id}/events", f"/jobs/{job.id}/stream?from=0"]
        path, last = self.rng.choice(paths), ""
        for _ in range(self.rng.randint(1, 3)):
            async for event in self._events(path, last, self.rng.uniform(1, 30)):
                last = event.id or last

    async def _follow(self) -> None:
        """Send a recording and follow its events to the end, leaving and coming back in between."""
        job = await self._send(self.recordings[self.rng.choice(["long", "two"])], priority="high")
        if job is None:
            return
        with _kept(job):
            last, seen, texts = "", [], []
            name = ""
            while name not in ENDED and not (self._ending.is_set() and self._unended() == 0):
                async for event in self._events(f"/api/jobs/{job.id}/events", last, self.rng.uniform(0.5, 3)):
                    last, name = event.id or last, event.name
                    if name == "segment":
                        seen.append(int(event.id))
                        texts.append(json.loads(event.data)["text"].strip())
            self.counts["followed to the end"] += 1
            if name != "completed" or seen != list(range(len(seen))) or not seen:
                self._wrong(f"{job.recording} was followed: {name}, segments {seen}")
            if " ".join(texts) != self.texts[job.recording]:
                self._wrong(f"{job.recording} was followed, and has another text: {texts}")
            headers = {"Last-Event-ID": last}
            await self._ask("GET", f"/api/jobs/{job.id}/events", 204, headers=headers)

    async def _events(self, path: str, last: str, seconds: float) -> AsyncIterator[Event]:
        """The events of a stream, for so long at most; then the client is simply gone."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        self.counts["listeners"] += 1
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(seconds),
                self._session.get(self.url + path, headers=headers) as answer,
            ):
                if answer.status == 200:
                    async for event in _parsed(answer.content):
                        yield event
                elif answer.status not in (204, 404):
                    self._wrong(f"{path.partition('?')[0]}: {answer.status}")

    # Changing

    async def _cancel_waiting(self) -> None:
        """Send three at once, and cancel the last one before its turn."""
        names = [name for name in self.recordings if name != "large"]
        for priority in ("high", "high", "low"):
            job = await self._send(self.recordings[self.rng.choice(names)], priority=priority)
        if job:
            await self._cancel(job)

    async def _cancel_running(self) -> None:
        """Send a long one and cancel it as soon as it runs."""
        if not self.may_stop_running or not (
            job := await self._send(self.recordings["long"], priority="high")
        ):
            return
        with _kept(job):
            while job.status == "pending":
                _, row = await self._ask("GET", f"/api/jobs/{job.id}", 200)
                job.status = row.get("status", "")
                await asyncio.sleep(0.1)
        self.counts["cancelled while running"] += job.status == "processing"
        await self._cancel(job)

    async def _cancel(self, job: Sent) -> None:
        with _kept(job):
            answer, _ = await self._ask("POST", f"/api/jobs/{job.id}/cancel", 200, 409)
            self.counts["cancelled"] += answer == 200
            job.cancelled = answer == 200

    async def _retry(self) -> None:
        job = self._any("completed", "cancelled")
        if job and not job.busy and self._unended() < WAITING:
            with _kept(job):
                answer, _ = await self._ask("POST", f"/api/jobs/{job.id}/retry", 200)
                self.counts["retried"] += answer == 200
                job.status, job.cancelled = "pending", False

    async def _delete(self) -> None:
        """Delete the oldest that have ended, or while it may end the engine, sometimes one that runs."""
        running = self._any("processing") if self.may_stop_running and self.rng.random() < 0.05 else None
        ended = [job for job in self.jobs.values() if job.status in ENDED and not job.busy]
        for job in [job for job in [running] if job and not job.busy] or ended[
            : max(0, len(self.jobs) - KEPT)
        ]:
            await self.delete(job)

    async def delete(self, job: Sent) -> None:
        """Delete a job."""
        job.busy = True
        self.jobs.pop(job.id)
        self.counts["deleted"] += 1
        await self._ask("DELETE", f"/api/jobs/{job.id}", 204)

    async def delete_all(self) -> None:
        """Delete what is left."""
        async with aiohttp.ClientSession() as self._session:
            for job in list(self.jobs.values()):
                await self.delete(job)

    # Parts of these

    def _any(self, *statuses: str) -> Sent | None:
        found = [job for job in self.jobs.values() if job.status in statuses and not job.busy]
        return self.rng.choice(found) if found else None

    def _unended(self) -> int:
        return sum(job.status not in ENDED for job in self.jobs.values())

    async def _ask(self, method: str, path: str, *expected: int, **more: Any) -> tuple[int, Any]:
        async with self._session.request(method, self.url + path, **more) as answer:
            json_body = answer.content_type.endswith("json")
            body = await answer.json(content_type=None) if json_body else await answer.read()
            self.counts["requests"] += 1
            if answer.status not in expected:
                self._wrong(f"{method} {path} was answered with {answer.status}: {body!r:.300}")
            return answer.status, body

    def _wrong(self, what: str) -> None:
        self.problems.append(what)
        print(f"  WRONG after {time.strftime('%X')}: {what}", flush=True)


class _BrokenOff(Exception):
    """The client goes away."""


@contextlib.contextmanager
def _kept(job: Sent | None) -> Any:
    """Nobody changes or deletes the job inside the block."""
    if job is None:
        yield
        return
    before, job.busy = job.busy, True
    try:
        yield
    finally:
        job.busy = before


async def _parsed(lines: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for raw in lines:
        line = raw.decode().rstrip("\r\n")
        if not line and "data" in fields:
            yield Event(fields.get("event", "message"), fields["data"], fields.get("id", ""))
        if not line:
            fields = {}
        else:
            name, _, value = line.partition(": ")
            fields[name] = fields[name] + "\n" + value if name == "data" and name in fields else value


async def _slowly(content: bytes, seconds: float) -> AsyncIterator[bytes]:
    parts = range(0, len(content), CHUNK)
    for start in parts:
        yield content[start : start + CHUNK]
        await asyncio.sleep(seconds / len(parts))


async def _broken(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK]
    raise _BrokenOff


async def _zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, CHUNK):
        yield bytes(CHUNK)
