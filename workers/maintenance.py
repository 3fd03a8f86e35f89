"""A small worker of its own queue that mends what crashes leave behind. ``python -m workers.maintenance``

Two of them at once do no harm: every step is a conditional statement, or is the same when done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import asyncpg
from arq import ArqRedis
from arq.cron import cron
from setproctitle import setproctitle

from stt import jobs, logs, queue
from stt.progress import current, publish
from stt.settings import Settings, load
from stt.storage import Storage
from workers import service

log = logging.getLogger(__name__)

# An upload that nothing was written to for so long is given up; a file may wait so long for its row.
_ABANDONED_SECONDS = 3600
# More tickets than due rows do no harm until they pile up.
_SPARE_TICKETS = 20
_STEP_SECONDS = 300


async def reconcile(ctx: dict[str, Any]) -> None:
    """Every few seconds: jobs of silent workers are freed, those without their recording are failed, and
    every due row has a ticket."""
    pool, redis, settings = ctx["pool"], ctx["redis"], ctx["settings"]
    await free_expired(pool, redis, settings)
    await fail_lost(pool, redis, ctx["storage"])
    await balance_tickets(pool, redis)


async def free_expired(pool: asyncpg.Pool, redis: ArqRedis, settings: Settings) -> None:
    for job in await jobs.release_expired(pool, max_attempts=settings.max_attempts):
        log.warning("its worker is gone: now %s", job.status, extra={"job": str(job.id)})
        await publish(redis, current(job))


async def fail_lost(pool: asyncpg.Pool, redis: ArqRedis, storage: Storage) -> None:
    """Jobs whose recording is gone will never be done: say so now, not after tries."""
    files = await jobs.waiting_files(pool)
    lost = set(await asyncio.to_thread(storage.lost, files.values()))
    for job_id in [job_id for job_id, key in files.items() if key in lost]:
        job = await jobs.fail_waiting(pool, job_id, code=jobs.FILE_GONE, message=jobs.FILE_GONE_MESSAGE)
        if job:
            log.error("its recording is gone", extra={"job": str(job_id)})
            await publish(redis, current(job))


async def balance_tickets(pool: asyncpg.Pool, redis: ArqRedis) -> None:
    """At least as many tickets as due rows, so that losing all of Redis loses no job; and no heaps."""
    due = await jobs.count_due(pool)
    tickets = await queue.waiting(redis)
    for _ in range(due - len(tickets)):
        await queue.enqueue(redis)
    if due > len(tickets):
        log.info("made up for %d missing tickets", due - len(tickets))
    dead = await queue.taken_long_ago(redis)
    if useless := tickets[due + _SPARE_TICKETS :] + dead:
        await queue.discard(redis, useless)


async def sweep(ctx: dict[str, Any]) -> None:
    """Now and then: unfinished uploads and files that no row names are removed."""
    storage: Storage = ctx["storage"]
    named = await jobs.stored_keys(ctx["pool"])
    removed = await asyncio.to_thread(_remove_unnamed, storage, named)
    for path in removed:
        log.info("removed %s, which no job names", path)


def _remove_unnamed(storage: Storage, named: set[str]) -> list[Path]:
    paths = [
        *storage.abandoned(_ABANDONED_SECONDS),
        *storage.orphans(named, _ABANDONED_SECONDS),
    ]
    for path in paths:
        path.unlink(missing_ok=True)
    storage.remove_empty(_ABANDONED_SECONDS)
    return paths


async def run(settings: Settings) -> None:
    """Reconcile and sweep until asked to stop."""
    async with service.connections(settings) as (pool, redis):
        every_five = set(range(0, 60, 5))
        worker = service.arq_worker(
            redis,
            cron_jobs=[
                cron(reconcile, second=every_five, run_at_startup=True),
                cron(sweep, minute={0, 15, 30, 45}, run_at_startup=True),
            ],
            queue_name=queue.MAINTENANCE_QUEUE,
            job_timeout=_STEP_SECONDS,
            ctx={"pool": pool, "settings": settings, "storage": Storage(settings.storage_dir)},
            health_check_key="stt:maintenance",
        )
        await service.serve(worker, _nothing)


async def _nothing() -> None:
    """Every step is short: there is nothing to hand back."""


def main() -> None:
    settings = load()
    logs.setup(settings)
    setproctitle("stt maintenance")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings))


if __name__ == "__main__":
    main()
