"""A worker's inside and its processes, broken on purpose, and how to wait for what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
from arq import ArqRedis

from stt.jobs import lifecycle, options, tickets
from stt.jobs.model import Job, NewJob, Status
from stt.pubsub import CHANNEL
from stt.settings import Settings, load
from stt.storage import Storage
from tests.support.jobs import again
from tests.support.places import ROOT, SAMPLES
from workers.attempt import Context, transcribe
from workers.engine.handle import EngineProcess

[SHORT] = SAMPLES.glob("en*.flac")
LEASE, SPAN = 3, 10  # seconds
SECONDS = 180.0  # for an engine to load and a span to be done on a busy machine
Environ = dict[str, str]


async def until(true: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait for an effect that has no event of its own; what it came to."""
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


def started_with(model: str, *, lease: int) -> Environ:
    """What every process of these tests is started with, beside its folder and its servers."""
    return {
        "STT_MODEL": model, "STT_SPAN_SECONDS": str(SPAN), "STT_THREADS": "1", "STT_MAX_ATTEMPTS": "2",
        "STT_LEASE_SECONDS": str(lease), "STT_PORT": "0",
    }  # fmt: skip


def script(folder: Path, **given: Any) -> Path:
    """A recording that tells the fake engine what to do (tests/support/fake_engine.py)."""
    path = folder / "recording.json"
    path.write_text(json.dumps(given))
    return path


async def waiting(pool: asyncpg.Pool, storage: Storage, path: Path, model: str, **options_: Any) -> Job:
    """A job for a real recording, as an upload leaves it."""
    job_id = uuid4()
    key = storage.upload_key(job_id)
    shutil.copyfile(path, storage.root / key)
    fields = {"language": "en", "model": model, **options_}
    asked = options.parse(fields, load({"STT_MODEL": model}, Path("/nonexistent")))
    made = NewJob(
        id=job_id, original_filename=path.name, file_path=key, file_type="audio",
        file_size=path.stat().st_size, duration_seconds=None, options=asked,
    )  # fmt: skip
    return await lifecycle.create(pool, made)


async def begun(
    pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, path: Path, model: str, **asked: Any
) -> Job:
    """A job of which some worker has done the first span."""
    job = await waiting(pool, storage, path, model, **asked)
    await tickets.enqueue(redis)
    await until(lambda: spans(pool, job))
    return job


async def spans(pool: asyncpg.Pool, job: Job) -> int:
    count: int = await pool.fetchval("select count(*) from spans where job_id = $1", job.id)
    return count


async def released(pool: asyncpg.Pool, job: Job) -> bool:
    """Maintenance has found its lease expired."""
    freed = await lifecycle.release_expired(pool, max_attempts=3)
    return job.id in [one.id for one in freed]


async def due(pool: asyncpg.Pool, job: Job) -> None:
    """The wait before its next try is over."""
    await pool.execute("update jobs set not_before = clock_timestamp() where id = $1", job.id)


async def in_status(pool: asyncpg.Pool, job: Job, status: Status) -> Job | None:
    found = await again(pool, job)
    return found if found.status is status else None


async def completed(pool: asyncpg.Pool, job: Job) -> Job:
    done: Job = await until(lambda: in_status(pool, job, Status.COMPLETED))
    assert done.transcription_text
    assert await pool.fetchval("select count(*) from transcripts where job_id = $1", job.id) == 1
    return done


class Process:
    """One role of the service in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(line.decode().rstrip())

    def logged(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def engine(self) -> psutil.Process:
        [engine] = psutil.Process(self.process.pid).children()
        return engine

    async def ended(self, seconds: float = 10) -> int:
        async with asyncio.timeout(seconds):
            code = await self.process.wait()
        await self._reader
        return code


@contextlib.asynccontextmanager
async def role(environ: Environ, *module: str, **more: Any) -> AsyncIterator[Process]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
    running = Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", *module, env=inherited | environ, cwd=ROOT,
            stderr=asyncio.subprocess.PIPE, **more,
        )
    )  # fmt: skip
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.process.kill()
        await running.ended()


@contextlib.asynccontextmanager
async def web(environ: Environ) -> AsyncIterator[tuple[Process, str]]:
    """A web app that listens, and where."""
    reading, writing = os.pipe()
    more = {"STT_READY_FD": str(writing)}
    async with role(environ | more, "stt", "web", pass_fds=[writing]) as running:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            yield running, (await asyncio.to_thread(pipe.readline)).strip()


@contextlib.asynccontextmanager
async def inside(
    settings: Settings, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> AsyncIterator[Context]:
    """A worker's inside."""
    engine = EngineProcess(settings)
    try:
        yield Context(
            settings=settings, pool=pool, redis=redis, storage=storage, engine=engine, name="inside"
        )
    finally:
        await engine.kill()
        await engine.close()


def attempt(context: Context) -> asyncio.Task[None]:
    return asyncio.create_task(transcribe({"context": context, "job_id": uuid4().hex}))


def pid(context: Context) -> int:
    assert context.engine.pid
    return context.engine.pid


async def spans_beyond(pool: asyncpg.Pool, job: Job, count: int) -> bool:
    return await spans(pool, job) > count


async def in_order(pool: asyncpg.Pool, job: Job, one: Process, other: Process) -> tuple[Process, Process]:
    """The worker that has the job, and the other one."""
    has_it = str((await again(pool, job)).worker).endswith(f":{one.process.pid}")
    return (one, other) if has_it else (other, one)


@contextlib.asynccontextmanager
async def told(redis: ArqRedis) -> AsyncIterator[list[tuple[str, str]]]:
    """Every event of every job from now on: whose, and which."""
    events: list[tuple[str, str]] = []
    async with redis.pubsub() as subscription:
        await subscription.subscribe(CHANNEL)
        assert (await subscription.get_message(timeout=10))["type"] == "subscribe"

        async def listen() -> None:
            async for raw in subscription.listen():
                message = json.loads(raw["data"])
                events.append((message["job"], message["event"]))

        listening = asyncio.create_task(listen())
        yield events
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def following_is_done(context: Context, events: list[tuple[str, str]], model: str) -> None:
    """The worker takes the next job, and all that was told before its end is heard."""
    following = await waiting(context.pool, context.storage, SHORT, model)
    await attempt(context)
    await completed(context.pool, following)
    await until(lambda: (str(following.id), "completed") in events)
