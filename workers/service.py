"""What every arq worker of ours needs: a loop that outlives Redis, and a stop that is orderly."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
from arq import ArqRedis
from arq.worker import Worker
from redis.exceptions import RedisError

from stt import db, queue
from stt.settings import Settings

log = logging.getLogger(__name__)

_HEALTH_SECONDS = 10
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)


@asynccontextmanager
async def connections(settings: Settings) -> Any:
    """The pools of a worker: `(PostgreSQL, Redis)`."""
    async with AsyncExitStack() as stack:
        pool: asyncpg.Pool = await db.create_pool(settings.database_url, max_size=4)
        stack.push_async_callback(pool.close)
        redis: ArqRedis = await queue.connect(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        yield pool, redis


def arq_worker(redis: ArqRedis, *, job_timeout: int = queue.TICKET_SECONDS, **kwargs: Any) -> Worker:
    """An arq worker that leaves attempts, results and signals to us."""
    return Worker(
        redis_pool=redis,
        handle_signals=False,
        poll_delay=0.1,
        keep_result=0,
        max_tries=2**31,
        job_serializer=queue.serialize,
        job_deserializer=queue.deserialize,
        expires_extra_ms=queue.TICKET_SECONDS * 1000,
        log_results=False,
        job_timeout=job_timeout,
        health_check_interval=_HEALTH_SECONDS,  # the key of a dead one is gone a second later
        **kwargs,
    )


async def serve(worker: Worker, shut_down: Callable[[], Awaitable[None]]) -> None:
    """Run until SIGTERM or SIGINT, then `shut_down`, then end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    looping = asyncio.create_task(_loop(worker), name="arq")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((looping, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        worker.allow_pick_jobs = False
        await shut_down()
        for task in (looping, stopping, *worker.tasks.values()):
            task.cancel()
        await asyncio.gather(looping, stopping, *worker.tasks.values(), return_exceptions=True)


async def _loop(worker: Worker) -> None:
    """arq's own loop ends when Redis goes away: wait, connect again, go on. Running tasks are not touched."""
    failures = 0
    while True:
        try:
            await worker.async_run()
        except (RedisError, OSError) as error:
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            failures += 1
            log.warning("Redis is away (%s); trying again in %.1f s", error, pause)
            await asyncio.sleep(pause)
            await _count_slots(worker)


async def _count_slots(worker: Worker) -> None:
    """Give a slot back that arq had taken for a ticket when Redis went away.

    It would be counted for ever, and a worker of one slot would never take a ticket again.
    """
    running = [task for task in worker.tasks.values() if not task.done()]
    worker.job_counter = len(running)
    worker.sem = asyncio.BoundedSemaphore(worker.max_jobs + 1)
    for _ in running:
        await worker.sem.acquire()
