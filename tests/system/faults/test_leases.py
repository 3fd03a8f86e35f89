"""What happens to a job whose worker is frozen, killed or cut off."""

from __future__ import annotations

import asyncio
import signal
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from arq import ArqRedis

from stt import db
from stt.jobs import lifecycle, results, tickets
from stt.jobs.model import Status
from stt.storage import Storage
from tests.support.faults import (
    SHORT,
    Environ,
    attempt,
    begun,
    completed,
    in_order,
    in_status,
    released,
    role,
    spans,
    spans_beyond,
    until,
    waiting,
)
from tests.support.jobs import again, claim, expire, new
from tests.support.up import private_folder
from workers.attempt import Attempt, Context

pytestmark = pytest.mark.process


async def test_a_frozen_workers_job_goes_on_elsewhere_and_the_thawed_one_writes_nothing(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, recording: Path
) -> None:
    async with (
        role(environ, "tests.support.fake_worker") as one,
        role(environ, "tests.support.fake_worker") as other,
    ):
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


async def test_an_engine_that_goes_on_is_told_how_sure_the_one_before_it_was(
    context: Context, pool: asyncpg.Pool, storage: Storage, recording: Path, model: str
) -> None:
    await waiting(pool, storage, recording, model)
    job = await lifecycle.claim_next(pool, worker="one", lease=60)
    assert job
    for number, unsure in enumerate((True, None, False, True)):
        where = {"number": number, "start": number, "end": number + 1}
        assert await results.save_span(pool, job, **where, segments=[], unsure=unsure)
    request = await Attempt(context, job).recognition.request(recording)
    assert request["resume"]["unsure"] == [False, True]


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


async def test_an_expired_lease_is_not_renewed_by_the_worker_that_let_it_expire(pool: asyncpg.Pool) -> None:
    job = await new(pool)
    held = await claim(pool)
    assert held
    await expire(pool, held)
    assert await released(pool, job)
    assert not await released(pool, job)
