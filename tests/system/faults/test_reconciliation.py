"""Maintenance mends what was left over, once."""

from __future__ import annotations

import asyncpg
import pytest
from arq import ArqRedis

from stt.jobs import tickets
from stt.jobs.model import Status
from stt.storage import Storage
from tests.support.faults import SHORT, Environ, in_status, role, until, waiting
from tests.support.jobs import again, claim, expire, new
from workers import maintenance
from workers.attempt import Context, transcribe

pytestmark = pytest.mark.process


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
