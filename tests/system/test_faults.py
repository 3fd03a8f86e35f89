"""What breaks under a job costs it a wait, never its recording: one test for each way of breaking."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psutil
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt import db
from stt.jobs import lifecycle, lookup, options, results, tickets
from stt.jobs.model import Job, NewJob, Status
from stt.ops.embedded.postgres import Postgres
from stt.ops.embedded.server import Server
from stt.ops.embedded.valkey import Valkey
from stt.pubsub import CHANNEL
from stt.settings import Settings, load
from stt.storage import Storage
from stt.transcript import formats, speakers
from tests.support import hostile
from tests.support.jobs import again, claim, expire, new
from tests.support.places import ROOT, SAMPLES
from tests.support.up import private_folder
from tests.support.uploads import form, stored
from workers import maintenance
from workers.attempt import Attempt, Context, transcribe
from workers.engine import models, rates
from workers.engine.handle import EngineProcess
from workers.engine.progress import ENGINE_SHARE
from workers.transcriber import _end_when_idle

pytestmark = [pytest.mark.engine, pytest.mark.process]

[SHORT] = SAMPLES.glob("en*.flac")
LEASE, SPAN = 3, 10  # seconds
SECONDS = 180.0  # for an engine to load and a span to be done on a busy machine
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")

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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the model, joined once for all of these tests."""
    folder = tmp_path_factory.mktemp("model")
    return str(models.find("base", load({"STT_DATA_DIR": str(folder)}, Path("/nonexistent"))))


def started_with(model: str, *, lease: int) -> Environ:
    """What every process of these tests is started with, beside its folder and its servers."""
    return {
        "STT_MODEL": model, "STT_SPAN_SECONDS": str(SPAN), "STT_THREADS": "1", "STT_MAX_ATTEMPTS": "2",
        "STT_LEASE_SECONDS": str(lease), "STT_PORT": "0",
    }  # fmt: skip


@pytest.fixture
def environ(environ: Environ, model: str) -> Environ:
    return environ | started_with(model, lease=LEASE)


@pytest.fixture(scope="session")
def recording(long_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough speech for four spans."""
    path = tmp_path_factory.mktemp("recording") / "recording.wav"
    with wave.open(str(long_recording)) as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(40 * source.getframerate()))
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
    """A worker's inside, with the real engine."""
    engine = EngineProcess(settings)
    try:
        yield Context(
            settings=settings, pool=pool, redis=redis, storage=storage, engine=engine, name="inside"
        )
    finally:
        await engine.kill()
        await engine.close()


@pytest.fixture
async def context(
    settings: Settings, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> AsyncIterator[Context]:
    async with inside(settings, pool, redis, storage) as context:
        yield context


def attempt(context: Context) -> asyncio.Task[None]:
    return asyncio.create_task(transcribe({"context": context, "job_id": uuid4().hex}))


def pid(context: Context) -> int:
    assert context.engine.pid
    return context.engine.pid


# Leases


async def test_a_frozen_workers_job_goes_on_elsewhere_and_the_thawed_one_writes_nothing(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, recording: Path
) -> None:
    async with role(environ, "workers.transcriber") as one, role(environ, "workers.transcriber") as other:
        job = await begun(pool, redis, storage, recording, model)
        first, second = await in_order(pool, job, one, other)
        first.process.send_signal(signal.SIGSTOP)
        await until(lambda: released(pool, job))
        saved = await spans(pool, job)
        kept = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
        await tickets.enqueue(redis)
        await until(lambda: in_status(pool, job, Status.PROCESSING))
        await until(lambda: spans_beyond(pool, job, saved))
        first.process.send_signal(signal.SIGCONT)
        await until(lambda: first.logged("the claim is gone"))
        done = await completed(pool, job)
        assert second.logged(str(job.id))
    assert done.attempt == 2
    rows = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
    assert rows[:saved] == kept  # none of them was done again


async def in_order(pool: asyncpg.Pool, job: Job, one: Process, other: Process) -> tuple[Process, Process]:
    """The worker that has the job, and the other one."""
    has_it = str((await again(pool, job)).worker).endswith(f":{one.process.pid}")
    return (one, other) if has_it else (other, one)


async def test_a_long_recording_whose_worker_is_killed_runs_elsewhere_in_time_and_does_one_span_again(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, long_recording: Path
) -> None:
    """One span at most; and in time is within the lease and five seconds, by PostgreSQL's clock."""
    async with (
        role(environ, "workers.transcriber") as one,
        role(environ, "workers.transcriber") as other,
        role(environ, "workers.maintenance"),
    ):
        job = await begun(pool, redis, storage, long_recording, model)
        first, second = await in_order(pool, job, one, other)
        await until(lambda: is_at(pool, job, 0.8))
        killed_at = await lookup.server_time(pool)
        first.process.kill()
        assert await first.ended() == -signal.SIGKILL
        left = await again(pool, job)
        kept = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
        taken = await until(lambda: claimed_after(pool, left))
        await completed(pool, job)
        assert second.logged(str(job.id))
    assert left.status is Status.PROCESSING
    assert taken.claimed_at - killed_at <= dt.timedelta(seconds=LEASE + 5)
    rows = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
    assert rows[: len(kept)] == kept  # not one that was saved was done again
    assert rows[-1]["last"]
    # What is decoded ahead, by two spans at most, counts a little in the progress.
    guesses = rates.FIRST_GUESSES["cpu"]
    decoding = guesses["decode"] / (guesses["decode"] + guesses["recognise"])
    heard = left.progress / ENGINE_SHARE * rows[-1]["end"] - decoding * 2 * SPAN
    assert heard - kept[-1]["end"] <= SPAN


async def test_an_engine_that_goes_on_is_told_how_sure_the_one_before_it_was(
    context: Context, pool: asyncpg.Pool, storage: Storage, recording: Path, model: str
) -> None:
    await waiting(pool, storage, recording, model)
    job = await lifecycle.claim_next(pool, worker="one", lease=60)
    assert job
    for number, unsure in enumerate((True, None, False, True)):
        where = {"number": number, "start": number, "end": number + 1}
        assert await results.save_span(pool, job, **where, segments=[], unsure=unsure)
    request = await Attempt(context, job)._request()
    assert request["resume"]["unsure"] == [False, True]


async def is_at(pool: asyncpg.Pool, job: Job, progress: float) -> bool:
    return (await again(pool, job)).progress >= progress


async def claimed_after(pool: asyncpg.Pool, before: Job) -> Job | None:
    found = await again(pool, before)
    return found if found.claim > before.claim else None


async def spans_beyond(pool: asyncpg.Pool, job: Job, count: int) -> bool:
    return await spans(pool, job) > count


class Proxy:
    """Stands between a worker and PostgreSQL, and can fall silent: neither answers nor refuses."""

    def __init__(self, database_url: str, folder: Path) -> None:
        [host] = parse_qs(urlsplit(database_url).query)["host"]
        self._real = f"{host}/.s.PGSQL.5432"
        self._folder = folder
        self.url = database_url.replace(f"host={host}", f"host={folder}")
        self.open = asyncio.Event()
        self.open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_unix_server(self._connect, self._folder / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._real)
        for pair in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass_on(*pair))
            self._tasks.add(task)

    async def _pass_on(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                await self.open.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def test_a_worker_cut_off_from_postgresql_ends_its_engine_before_its_lease(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path
) -> None:
    job = await waiting(pool, storage, recording, model)
    with private_folder() as folder:
        async with Proxy(context.settings.database_url, folder) as proxy:
            context.pool = await db.create_pool(proxy.url)
            running = attempt(context)
            await until(lambda: spans(pool, job))
            proxy.open.clear()
            await until(lambda: not context.engine.running, 10)
            assert await pool.fetchval(
                "select clock_timestamp() < lease_expires_at from jobs where id = $1", job.id
            )
            await until(lambda: released(pool, job))
            proxy.open.set()
            await asyncio.wait_for(running, 30)
            context.pool.terminate()
    waits = await again(pool, job)
    assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 1, "worker_lost")


async def test_a_process_frozen_in_the_middle_of_a_claim_keeps_nobody_from_claiming(
    pool: asyncpg.Pool,
) -> None:
    setting = await pool.fetchval("show idle_in_transaction_session_timeout")
    assert setting == "10s"
    await new(pool)
    async with pool.acquire() as frozen:
        await frozen.execute("set idle_in_transaction_session_timeout = '200ms'")
        transaction = frozen.transaction()
        await transaction.start()
        await db.queries.lock_claims(frozen)
        assert await asyncio.wait_for(claim(pool), 10)


async def test_a_commit_whose_answer_was_lost_keeps_its_result(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    commit = lifecycle.complete

    async def lose_the_answer(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(lifecycle, "complete", commit)
        await commit(*args, **kwargs)
        raise ConnectionResetError

    monkeypatch.setattr(lifecycle, "complete", lose_the_answer)
    await attempt(context)
    done = await completed(pool, job)
    assert (storage.root / str(done.transcription_file_path)).exists()


# Servers that go and come back


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[tuple[Postgres, Valkey, Path]]:
    """A PostgreSQL and a Valkey that a test may kill."""
    with private_folder() as folder:
        postgres, valkey = Postgres(folder / "postgres"), Valkey(folder / "valkey")
        await asyncio.gather(postgres.start(), valkey.start())
        await db.migrate(postgres.url)
        yield postgres, valkey, folder
        await asyncio.gather(postgres.stop(), valkey.stop())


async def away(server: Server, number: signal.Signals) -> None:
    assert server.child
    server.child.process.send_signal(number)
    await server.child.wait()


@pytest.fixture(scope="module")
def own_environ(own: tuple[Postgres, Valkey, Path], model: str) -> Environ:
    postgres, valkey, folder = own
    environ = {
        "STT_DATA_DIR": str(folder / "data"), "STT_DATABASE_URL": postgres.url, "STT_REDIS_URL": valkey.url,
    }  # fmt: skip
    return environ | started_with(model, lease=15)


@pytest.fixture(scope="module")
async def worker(own_environ: Environ) -> AsyncIterator[Process]:
    async with role(own_environ, "workers.transcriber") as running:
        yield running


@contextlib.asynccontextmanager
async def connected(own: tuple[Postgres, Valkey, Path]) -> AsyncIterator[tuple[asyncpg.Pool, ArqRedis]]:
    postgres, valkey, _ = own
    async with await db.create_pool(postgres.url) as pool:
        redis = await tickets.connect(valkey.url)
        yield pool, redis
        await redis.aclose()


async def test_a_job_runs_on_and_commits_while_redis_is_away_and_tickets_are_taken_again(
    own: tuple[Postgres, Valkey, Path], worker: Process, model: str, recording: Path
) -> None:
    storage = Storage(own[2] / "data")
    async with connected(own) as (pool, redis):
        job = await begun(pool, redis, storage, recording, model)
        await away(own[1], signal.SIGKILL)
        assert (await completed(pool, job)).attempt == 1
        following = await waiting(pool, storage, SHORT, model)
        await own[1].start()
        await tickets.enqueue(redis)
        assert (await completed(pool, following)).attempt == 1
    assert worker.process.returncode is None


async def test_a_job_survives_that_redis_is_emptied_and_so_do_those_that_wait(
    own: tuple[Postgres, Valkey, Path], worker: Process, model: str, recording: Path
) -> None:
    storage = Storage(own[2] / "data")
    async with connected(own) as (pool, redis):
        job = await begun(pool, redis, storage, recording, model)
        following = await waiting(pool, storage, SHORT, model)
        await tickets.enqueue(redis)
        await redis.flushall()
        await maintenance.balance_tickets(pool, redis)
        assert (await completed(pool, job)).attempt == 1
        assert (await completed(pool, following)).attempt == 1


async def test_a_job_runs_on_and_commits_when_postgresql_crashes_and_comes_back(
    own: tuple[Postgres, Valkey, Path], worker: Process, model: str, recording: Path
) -> None:
    storage = Storage(own[2] / "data")
    async with connected(own) as (pool, redis):
        job = await begun(pool, redis, storage, recording, model)
        await away(own[0], signal.SIGQUIT)  # as pg_ctl's `-m immediate`
        await own[0].start()
        assert (await completed(pool, job)).attempt == 1
    assert worker.process.returncode is None


async def test_the_web_app_and_maintenance_outlive_their_servers(
    own: tuple[Postgres, Valkey, Path], own_environ: Environ, worker: Process, model: str
) -> None:
    async with (
        role(own_environ, "workers.maintenance") as mending,
        web(own_environ) as (serving, url),
        aiohttp.ClientSession(url) as session,
        connected(own) as (pool, _),
    ):
        # Maintenance makes a ticket for it, the worker takes that: both are there.
        await completed(pool, await waiting(pool, Storage(own[2] / "data"), SHORT, model))
        assert (await answer(session, "/api/jobs"))[0] == 200
        await away(own[0], signal.SIGQUIT)
        status, headers = await answer(session, "/api/jobs")
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        await own[0].start()
        await until(lambda: is_ready(session))
        await away(own[1], signal.SIGKILL)
        assert (await answer(session, "/health/ready"))[0] == 503
        async with session.post("/api/jobs/upload", data=form(SHORT, language="en")) as response:
            assert response.status == 201  # the row is what counts; maintenance makes a ticket for it
            made = await lookup.get(pool, UUID((await response.json())["id"]))
        await own[1].start()
        await until(lambda: is_ready(session))
        assert made
        await completed(pool, made)
        for process in (worker, mending, serving):
            assert process.process.returncode is None


async def answer(session: aiohttp.ClientSession, path: str) -> tuple[int, Mapping[str, str]]:
    async with session.get(path) as response:
        return response.status, response.headers


async def is_ready(session: aiohttp.ClientSession) -> bool:
    return (await answer(session, "/health/ready"))[0] == 200


# The engine dies


async def test_a_file_that_kills_its_engine_each_time_is_failed_and_the_next_one_goes_on(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path
) -> None:
    job = await waiting(pool, storage, recording, model)
    for number in (1, 2):
        await due(pool, job)
        running = attempt(context)
        await until(lambda before=number: spans_beyond(pool, job, before - 1))
        os.kill(pid(context), signal.SIGKILL)
        await running
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 2, "engine_died")
    assert failed.error_message
    assert "killed" in failed.error_message
    assert "2 attempts" in failed.error_message
    following = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    await completed(pool, following)


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGSEGV, "engine_died", "SIGSEGV"),
        (signal.SIGABRT, "engine_died", "SIGABRT"),  # how a fatal error of Python ends
        (signal.SIGSTOP, "engine_hung", "got no further"),
    ],
)
async def test_an_engine_that_crashes_or_hangs_is_told_in_a_sentence_and_replaced(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path,
    number: signal.Signals, code: str, sentence: str,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model)
    context.engine.silent_seconds = 6  # three beats
    running = attempt(context)
    await until(lambda: spans(pool, job))
    old = pid(context)
    os.kill(old, number)
    await asyncio.wait_for(running, 30)
    waits = await again(pool, job)
    assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 1, code)
    assert sentence in str(waits.error_message)
    assert "model" in str(waits.error_log)  # its last lines: it had loaded one
    assert not psutil.pid_exists(old)
    await due(pool, job)
    await attempt(context)
    assert (await completed(pool, job)).attempt == 2


async def test_an_engine_that_lives_but_gets_no_further_is_replaced(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str
) -> None:
    """It reads from a pipe into which nobody writes."""
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)  # its libraries are loaded now
    await completed(pool, job)
    stuck = await waiting(pool, storage, SHORT, model)
    (storage.root / stuck.file_path).unlink()
    os.mkfifo(storage.root / stuck.file_path)
    context.engine.stuck_seconds = 5  # two beats
    old = pid(context)
    await asyncio.wait_for(attempt(context), 30)
    waits = await again(pool, stuck)
    assert (waits.status, waits.error_code) == (Status.PENDING, "engine_hung")
    assert not psutil.pid_exists(old)


async def test_what_could_never_be_transcribed_is_failed_at_once(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    (storage.root / job.file_path).write_text("no recording at all\n" * 50)
    await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 1, "not_media")
    assert "attempts" not in str(failed.error_message)


async def test_a_recording_that_turns_out_too_long_is_failed_at_once(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, tmp_path: Path
) -> None:
    """No probe has seen it, or its header did not tell."""
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000 * 40))
    job = await waiting(pool, storage, path, model)
    limited = load(environ | {"STT_MAX_DURATION_SECONDS": "20"}, Path("/nonexistent"))
    async with inside(limited, pool, redis, storage) as context:
        await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 1, "too_long")
    assert "at most 20 s" in str(failed.error_message)
    assert "STT_MAX_DURATION_SECONDS" in str(failed.error_message)


async def test_only_a_file_that_takes_too_much_memory_by_itself_is_failed_at_once(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The engine's process is not ended by it: it goes on with the next job."""
    hungry = tmp_path / "hungry.flac"
    hungry.write_bytes(hostile.flac(1_000, 8))
    lines = (
        "from stt import resources\nfrom stt.process import sandbox\n"
        "resources.decoding_ceiling = lambda: 350 * 2**20\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    (tmp_path / "sitecustomize.py").write_text(lines)  # every process begins with it
    job = await waiting(pool, storage, hungry, model)
    await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 1, "too_much_memory")
    assert context.engine.running
    await context.engine.close()
    (tmp_path / "sitecustomize.py").write_text(lines + "sandbox.is_own_limit = lambda ceiling: False\n")
    job = await waiting(pool, storage, hungry, model)
    await attempt(context)
    waits = await again(pool, job)
    assert (waits.status, waits.error_code) == (Status.PENDING, "out_of_memory")


async def test_an_engine_that_cannot_import_its_libraries_says_which(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "ctranslate2.py").write_text("raise ImportError('libcublas.so.12 is missing')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    waits = await again(pool, job)
    assert (waits.status, waits.error_code) == (Status.PENDING, "engine_died")
    assert "ImportError: libcublas.so.12 is missing" in str(waits.error_message)
    assert "\n" not in str(waits.error_message)


async def test_a_try_after_one_without_enough_memory_computes_with_smaller_numbers_and_says_so(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    settings = load(environ | {"STT_COMPUTE_TYPE": "float32"}, Path("/nonexistent"))
    job = await waiting(pool, storage, SHORT, model)
    async with inside(settings, pool, redis, storage) as context:
        await context.engine.start()
        process = psutil.Process(pid(context))
        await until(lambda: process.cmdline()[:1] == ["stt engine"])  # its libraries are loaded
        room = process.memory_info().vms + 2**26
        process.rlimit(psutil.RLIMIT_AS, (room, room))
        await attempt(context)
        waits = await again(pool, job)
        assert (waits.status, waits.error_code) == (Status.PENDING, "out_of_memory")
        assert not process.is_running()  # the memory that it holds is given back
        await due(pool, job)
        await attempt(context)
        done = await completed(pool, job)
    told = {warning["code"]: warning["message"] for warning in done.warnings}
    assert "int8 instead of float32" in told["smaller_compute_type"]


# What is missing is done, and nothing else


async def test_only_the_speakers_are_told_apart_where_only_they_are_missing(
    context: Context, client: TestClient, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model, diarize=True)
    running = attempt(context)
    await until(lambda: context.engine.pid and telling_speakers(context.engine.pid))
    for child in telling_speakers(pid(context)):
        child.kill()
    await running
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["speakers_failed"]
    kept = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
    assert len(kept) > 1
    # First as it was asked for, then for other speakers.
    for version, asked in ((2, {}), (3, {"max_speakers": 1})):
        async with client.post(f"/api/jobs/{job.id}/retry", json=asked) as response:
            assert response.status == 200
        caplog.clear()
        with caplog.at_level(logging.INFO, "workers.engine.handle"):
            await attempt(context)
            await until(lambda: f"job {job.id}: 0.0 s of sound" in caplog.text)  # nothing was decoded
        again_ = await again(pool, job)
        assert (again_.status, again_.warnings) == (Status.COMPLETED, [])
        assert (again_.transcription_text, again_.language) == (done.transcription_text, "en")
        assert again_.duration_seconds == done.duration_seconds
        assert await pool.fetch("select * from spans where job_id = $1 order by number", job.id) == kept
        newest = await results.latest_transcript(pool, again_)
        assert newest
        assert newest["version"] == version
        assert {segment["speaker"] for segment in newest["segments"]} >= {"SPEAKER_00"}


def telling_speakers(engine: int) -> list[psutil.Process]:
    """The engine's children that tell speakers apart; others decode."""
    family = psutil.Process(engine).children()
    return [child for child in family if re.search("diarize|stt speakers", " ".join(child.cmdline()))]


async def test_a_result_that_cannot_be_rendered_is_kept_all_the_same(
    context: Context, client: TestClient, pool: asyncpg.Pool, storage: Storage, model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    job = await waiting(pool, storage, SHORT, model)
    with monkeypatch.context() as broken:
        broken.setattr(formats, "to_json", fail)
        await attempt(context)
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["rendering_failed"]
    assert "demonstration" in str(done.transcription_text).lower()  # processors differ in capitals
    for format_ in ("json", "srt"):
        async with client.get(f"/api/jobs/{job.id}/download?format={format_}") as response:
            assert response.status == 200
            assert "demonstration" in (await response.text()).lower()


async def test_an_engine_without_work_ends_after_a_while(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    settings = load(environ | {"STT_MODEL_IDLE_SECONDS": "1"}, Path("/nonexistent"))
    async with inside(settings, pool, redis, storage) as context:
        await context.engine.start()
        context.idle_since = time.monotonic()
        idle = asyncio.create_task(_end_when_idle(context))
        await until(lambda: not context.engine.running)
        job = await waiting(pool, storage, SHORT, model)
        running = attempt(context)
        await until(lambda: context.attempt and context.engine.running)
        context.idle_since = 0.0  # long ago, but it has work now
        await running
        assert await completed(pool, job)
        await until(lambda: not context.engine.running)
        idle.cancel()


async def test_an_engine_that_cannot_be_started_costs_an_attempt_and_says_so(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(context.engine, "start", fail)
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    waits = await again(pool, job)
    assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 1, "engine_died")
    assert "could not be started" in str(waits.error_message)


async def test_words_that_cannot_be_given_to_speakers_are_kept_without(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(speakers, "assign", fail)
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["speakers_failed"]


# Cancel and delete


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


async def test_a_cancelled_jobs_engine_ends_within_two_seconds_and_nothing_comes_after(
    context: Context, client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str,
    recording: Path,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model)
    async with told(redis) as events:
        running = attempt(context)
        await until(lambda: spans(pool, job))
        async with client.post(f"/api/jobs/{job.id}/cancel") as response:
            assert response.status == 200
        await until(lambda: not context.engine.running, 2)
        await asyncio.wait_for(running, 5)
        cancelled = await again(pool, job)
        await following_is_done(context, events, model)
    assert (cancelled.status, cancelled.transcription_text) == (Status.CANCELLED, None)
    assert await again(pool, job) == cancelled
    own = [event for whose, event in events if whose == str(job.id)]
    assert own.index("cancelled") == len(own) - 1


async def test_a_job_deleted_while_it_runs_leaves_no_file_row_key_or_event(
    context: Context, client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str,
    recording: Path,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model)
    async with told(redis) as events:
        running = attempt(context)
        await until(lambda: spans(pool, job))
        async with client.delete(f"/api/jobs/{job.id}") as response:
            assert response.status == 204
        assert not context.engine.running
        await asyncio.wait_for(running, 5)
        for table, column in (("jobs", "id"), ("spans", "job_id"), ("transcripts", "job_id")):
            assert await pool.fetchval(f"select count(*) from {table} where {column} = $1", job.id) == 0
        assert list(storage.root.rglob(f"*{job.id}*")) == []
        assert stored(storage) == []
        assert await redis.keys("*") == []
        await following_is_done(context, events, model)
    own = [event for whose, event in events if whose == str(job.id)]
    assert own.index("deleted") == len(own) - 1


# Shutdown


async def test_a_worker_asked_to_stop_hands_its_job_back_at_once_with_no_attempt_spent(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, recording: Path
) -> None:
    async with role(environ, "workers.transcriber") as worker:
        job = await begun(pool, redis, storage, recording, model)
        engine = worker.engine()
        worker.process.terminate()
        assert await worker.ended(5) == 0
        waits = await again(pool, job)
        assert (waits.status, waits.attempt, waits.lease_expires_at) == (Status.PENDING, 0, None)
        assert waits.error_code is None
        await until(lambda: not engine.is_running(), 5)
    assert len(await tickets.waiting(redis)) == 1


async def test_a_web_app_asked_to_stop_ends_its_streams_with_a_hint_and_finishes_an_upload(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> None:
    async with web(environ) as (process, url):
        job = await new(pool)
        rest = asyncio.Event()
        async with aiohttp.ClientSession(url) as session, session.get(f"/api/jobs/{job.id}/events") as stream:
            heard = await stream.content.readuntil(b"\r\n\r\n")
            sending = asyncio.create_task(slow_upload(session, rest))
            await until(lambda: list((storage.root / "incoming").iterdir()))  # it has begun
            process.process.terminate()
            assert b"retry: 2000" in heard + await asyncio.wait_for(stream.content.read(), 5)
            async with aiohttp.ClientSession(url) as late:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await late.get("/health/live")
            rest.set()
            assert await sending == 201
        assert await process.ended() == 0


async def slow_upload(session: aiohttp.ClientSession, rest: asyncio.Event) -> int:
    content = SHORT.read_bytes()

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
        yield content[: len(content) // 2]
        await rest.wait()
        yield content[len(content) // 2 :]
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with session.post("/api/jobs/upload", data=body(), headers=headers) as response:
        return response.status


# Storage


@pytest.fixture
def small_disk(environ: Environ, tmp_path: Path) -> Iterator[Path]:
    """A storage with room for 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    environ["STT_STORAGE_URL"] = f"file://{folder}"
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def too_much(path: Path) -> aiohttp.FormData:
    path.write_bytes(SHORT.read_bytes() + bytes(8 * 2**20))
    return form(path, "big.flac")


@root_only
async def test_a_disk_that_fills_up_during_an_upload_is_507_and_the_service_lives(
    small_disk: Path, client: TestClient, tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stt.web.upload._check_size", lambda _: None)  # else it is refused before
    async with client.post("/api/jobs/upload", data=too_much(tmp_path / "big")) as response:
        assert response.status == 507
        assert (await response.json(content_type=None))["code"] == "disk_full"
    assert stored(storage) == []
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 201


@root_only
async def test_an_upload_for_which_there_is_no_room_is_507_at_once(
    small_disk: Path, client: TestClient, storage: Storage
) -> None:
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 507
    assert stored(storage) == []


@root_only
async def test_a_read_only_storage_is_503_with_a_time_to_come_back(
    small_disk: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stt.web.upload._check_size", lambda _: None)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    async with client.get("/health/ready") as response:
        assert response.status == 503
        assert "Read-only" in (await response.json())["checks"]["storage"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 201


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
async def test_a_result_that_finds_no_room_waits_and_spends_no_attempt(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, SHORT, model)
    write = context.storage.write

    async def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(context.storage, "write", full)
    for _ in range(3):  # more than there are attempts
        await due(pool, job)
        await attempt(context)
        waits = await again(pool, job)
        assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 0, "storage_failed")
        assert waits.retry_at
    monkeypatch.setattr(context.storage, "write", write)
    await due(pool, job)
    await attempt(context)
    assert (await completed(pool, job)).attempt == 1


async def test_a_waiting_job_whose_recording_is_gone_is_failed_with_that_reason(
    pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    kept = await waiting(pool, storage, SHORT, model)
    lost = await waiting(pool, storage, SHORT, model)
    (storage.root / lost.file_path).unlink()
    await asyncio.gather(*(maintenance.fail_lost(pool, redis, storage) for _ in range(2)))
    failed = await again(pool, lost)
    assert (failed.status, failed.error_code) == (Status.FAILED, "file_gone")
    assert (await again(pool, kept)).status is Status.PENDING


async def test_no_job_is_failed_while_the_whole_storage_is_away(
    pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    storage.root.rename(storage.root.with_name("unmounted"))
    await maintenance.fail_lost(pool, redis, storage)
    assert (await again(pool, job)).status is Status.PENDING


async def test_no_job_is_failed_where_the_storage_was_not_mounted_at_the_start(
    context: Context, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    waits = [await waiting(pool, storage, SHORT, model) for _ in range(2)]
    storage.root.rename(storage.root.with_name("unmounted"))
    Storage(storage.root)  # a process that starts makes its folders where they are missing
    await maintenance.fail_lost(pool, redis, storage)
    await attempt(context)
    for job in [await again(pool, one) for one in waits]:
        assert (job.status, job.attempt) == (Status.PENDING, 0)
    shutil.rmtree(storage.root)
    storage.root.with_name("unmounted").rename(storage.root)
    for job in waits:
        await due(pool, job)
        await attempt(context)
    for job in waits:
        await completed(pool, job)


async def test_speakers_that_cannot_be_started_beside_cost_no_text(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    threads = {"STT_THREADS": "1", "STT_WORKERS": "1"}
    settings = load(environ | threads, Path("/nonexistent"))
    folder = settings.data_dir / "models" / "speakers"
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")
    job = await waiting(pool, storage, SHORT, model, diarize=True)
    async with inside(settings, pool, redis, storage) as context:
        await attempt(context)
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["speakers_failed"]


async def test_a_process_that_starts_while_postgresql_is_away_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with private_folder() as folder:
        server = Postgres(folder / "postgres")
        opening = asyncio.create_task(db.open_pool(server.url))
        await until(lambda: "waiting for PostgreSQL" in caplog.text)
        await server.start()
        try:
            pool = await asyncio.wait_for(opening, 30)
            assert await pool.fetchval("select 1") == 1
            await pool.close()
        finally:
            await server.stop()


async def test_a_worker_that_finds_no_recording_fails_the_job_at_once(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    (storage.root / job.file_path).unlink()
    await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.error_code) == (Status.FAILED, "file_gone")


# Reconciliation


async def test_two_maintenance_processes_at_once_mend_everything_once(
    environ: Environ, database_url: str, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    silent = await waiting(pool, storage, SHORT, model)
    held = await claim(pool)
    assert held
    await expire(pool, held)
    gone, unannounced = [await waiting(pool, storage, SHORT, model) for _ in range(2)]
    (storage.root / gone.file_path).unlink()
    await pool.execute(CHANGES)
    locker = await asyncpg.connect(database_url)
    async with role(environ, "workers.maintenance") as one, role(environ, "workers.maintenance") as other:
        async with locker.transaction():
            await locker.execute("lock table jobs")
            # Each with its four steps: leases, files, tickets, sweep.
            await until(lambda: blocked(pool, 8))
        await until(lambda: in_status(pool, gone, Status.FAILED))
        await until(lambda: in_status(pool, silent, Status.PENDING))
        await until(lambda: has_tickets(redis, 2))
        assert (one.process.returncode, other.process.returncode) == (None, None)
    await locker.close()
    changes = [tuple(row) for row in await pool.fetch("select id, after from changes")]
    assert sorted(changes) == sorted([(gone.id, "failed"), (silent.id, "pending")])
    assert (await again(pool, silent)).attempt == 1
    assert (await again(pool, unannounced)).status is Status.PENDING
    assert (storage.root / unannounced.file_path).exists()


# Notes every change of a status.
CHANGES = """
create table changes (id uuid, after text);
create function note() returns trigger language plpgsql as $$ begin
    if old.status is distinct from new.status then insert into changes values (new.id, new.status); end if;
    return new;
end $$;
create trigger note after update on jobs for each row execute function note();
"""


async def blocked(pool: asyncpg.Pool, count: int) -> bool:
    """So many wait for a lock in this database."""
    waiting_: int = await pool.fetchval(
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and wait_event_type = 'Lock'"
    )
    return waiting_ >= count


async def has_tickets(redis: ArqRedis, count: int) -> bool:
    return len(await tickets.waiting(redis)) >= count


# Tickets


async def test_a_ticket_is_torn_up_when_it_is_taken(context: Context, redis: ArqRedis) -> None:
    await tickets.enqueue(redis)
    [ticket] = await tickets.waiting(redis)
    await redis.psetex(f"arq:in-progress:{ticket}", tickets.TICKET_SECONDS * 1000, b"1")
    await transcribe({"context": context, "job_id": ticket})
    assert await redis.keys("*") == []


async def test_a_ticket_whose_worker_died_taking_it_is_removed(pool: asyncpg.Pool, redis: ArqRedis) -> None:
    await new(pool)
    await tickets.enqueue(redis)
    [ticket] = await tickets.waiting(redis)
    await redis.psetex(f"arq:in-progress:{ticket}", (tickets.TICKET_SECONDS - 120) * 1000, b"1")
    await maintenance.balance_tickets(pool, redis)
    assert ticket not in [member.decode() for member in await redis.zrange(tickets.TRANSCRIBE_QUEUE, 0, -1)]
    assert len(await tickets.waiting(redis)) == 1


async def test_an_expired_lease_is_not_renewed_by_the_worker_that_let_it_expire(pool: asyncpg.Pool) -> None:
    job = await new(pool)
    held = await claim(pool)
    assert held
    await expire(pool, held)
    assert await released(pool, job)
    assert not await released(pool, job)
