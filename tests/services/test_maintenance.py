"""What crashes leave behind is mended, also by two at once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
from arq import ArqRedis

from stt.jobs import lifecycle, tickets
from stt.jobs.model import Status
from stt.settings import Settings
from stt.storage import Storage
from tests.support.jobs import again, claim, expire, new
from workers import maintenance


async def test_losing_all_of_redis_loses_no_ticket(pool: asyncpg.Pool, redis: ArqRedis) -> None:
    for _ in range(3):
        await new(pool)
    await redis.flushall()
    await maintenance.balance_tickets(pool, redis)
    assert len(await tickets.waiting(redis)) == 3
    await maintenance.balance_tickets(pool, redis)
    assert len(await tickets.waiting(redis)) == 3


async def test_a_ticket_that_a_dead_worker_took_is_made_up_for(pool: asyncpg.Pool, redis: ArqRedis) -> None:
    await new(pool)
    await tickets.enqueue(redis)
    [ticket] = await tickets.waiting(redis)
    await redis.set(f"arq:in-progress:{ticket}", b"1")
    await maintenance.balance_tickets(pool, redis)
    assert len(await tickets.waiting(redis)) == 1


async def test_tickets_do_not_pile_up(pool: asyncpg.Pool, redis: ArqRedis) -> None:
    await new(pool)
    for _ in range(200):
        await tickets.enqueue(redis)
    await maintenance.balance_tickets(pool, redis)
    assert 1 <= len(await tickets.waiting(redis)) <= 30


async def test_two_at_once_free_a_silent_workers_job_once(
    pool: asyncpg.Pool, redis: ArqRedis, settings: Settings
) -> None:
    job = await new(pool)
    held = await claim(pool)
    assert held
    await expire(pool, held)
    await asyncio.gather(*(maintenance.free_expired(pool, redis, settings) for _ in range(4)))
    freed = await again(pool, job)
    assert (freed.status, freed.attempt, freed.error_code) == (Status.PENDING, 1, "worker_lost")


async def test_a_silent_workers_job_that_should_stop_is_cancelled(
    pool: asyncpg.Pool, redis: ArqRedis, settings: Settings
) -> None:
    job = await new(pool)
    held = await claim(pool)
    assert held
    await lifecycle.request_cancel(pool, job.id)
    await expire(pool, held)
    await maintenance.free_expired(pool, redis, settings)
    assert (await again(pool, job)).status is Status.CANCELLED


async def test_files_that_no_row_names_are_swept_once_they_are_old(
    pool: asyncpg.Pool, storage: Storage
) -> None:
    job = await new(pool)
    lost = storage.upload_key(uuid4())
    half = storage.result_key(uuid4(), 7)
    for key in (job.file_path, lost, half):
        await storage.write(key, b"x")
    abandoned = storage.root / "incoming" / "abandoned"
    abandoned.touch()
    await maintenance.Sweeper(storage).sweep(pool)
    assert all((storage.root / key).exists() for key in (job.file_path, lost, half))  # too young to judge
    sweeper = maintenance.Sweeper(storage, seconds=0)
    await sweeper.sweep(pool)
    assert [path for path in storage.root.rglob("*") if path.is_file()] == [storage.root / job.file_path]
    assert not (storage.root / half).parent.exists()
