"""Servers go and come back, and jobs run on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from arq import ArqRedis

from stt import db
from stt.jobs import lookup, tickets
from stt.ops.embedded.postgres import Postgres
from stt.ops.embedded.server import Server
from stt.ops.embedded.valkey import Valkey
from stt.storage import Storage
from tests.support.faults import (
    SHORT,
    Environ,
    Process,
    begun,
    completed,
    role,
    started_with,
    until,
    waiting,
    web,
)
from tests.support.up import private_folder
from tests.support.uploads import form
from workers import maintenance

pytestmark = pytest.mark.process


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
    async with role(own_environ, "tests.support.fake_worker") as running:
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


async def test_a_process_that_starts_while_postgresql_is_away_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with private_folder() as folder:
        server = Postgres(folder / "postgres")
        opening = asyncio.create_task(db.open_pool(server.url))
        await until(lambda: "waiting for PostgreSQL" in caplog.text)
        await server.start()
        try:
            await db.migrate(server.url)
            pool = await asyncio.wait_for(opening, 30)
            assert await pool.fetchval("select 1") == 1
            await pool.close()
        finally:
            await server.stop()
