"""Runs arq workers: the loop continues after an outage of Redis, and a signal stops it in order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import structlog
from arq import ArqRedis
from arq.worker import Worker
from redis.exceptions import RedisError

from stt import db
from stt.jobs import tickets
from stt.settings import Settings
from stt.telemetry.health import Unhealthy

log = structlog.stdlib.get_logger(__name__)

_HEALTH_SECONDS = 10
# Longer than an outage of Redis that is over may take to be noticed: a restart does not help then.
_SILENT_SECONDS = 120.0
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)


@asynccontextmanager
async def connections(settings: Settings) -> Any:
    """The pools of a worker: `(PostgreSQL, Redis)`."""
    async with AsyncExitStack() as stack:
        pool: asyncpg.Pool = await db.open_pool(settings.database_url, max_size=4)
        stack.push_async_callback(pool.close)
        redis: ArqRedis = await tickets.open_connections(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        yield pool, redis


class TicketWorker(Worker):
    """An arq worker that notes when it last looked for tickets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.looked_at = time.monotonic()

    async def heart_beat(self) -> None:
        """What arq calls in each turn of its loop, ten times a second."""
        self.looked_at = time.monotonic()
        await super().heart_beat()

    async def check_looks_for_tickets(self) -> None:
        """Whether the loop runs; while Redis is away, whether it tries again.

        Raises:
            Unhealthy: It does not.
        """
        silent = time.monotonic() - self.looked_at
        if silent > _SILENT_SECONDS:
            raise Unhealthy(f"no ticket was looked for in the last {silent:.0f} s")


def arq_worker(redis: ArqRedis, **kwargs: Any) -> TicketWorker:
    """An arq worker without retries, results and signal handlers of its own: the rows of jobs hold these."""
    return TicketWorker(
        redis_pool=redis,
        handle_signals=False,
        poll_delay=0.1,
        keep_result=0,
        max_tries=2**31,
        job_serializer=tickets.serialize,
        job_deserializer=tickets.deserialize,
        expires_extra_ms=tickets.TICKET_SECONDS * 1000,
        log_results=False,
        job_timeout=tickets.TICKET_SECONDS,
        health_check_interval=_HEALTH_SECONDS,  # the key of a dead worker expires a second later
        **kwargs,
    )


async def serve(worker: TicketWorker, shut_down: Callable[[], Awaitable[None]]) -> None:
    """Take tickets until SIGTERM or SIGINT, then `shut_down`, then end."""

    async def orderly() -> None:
        try:
            await _loop(worker)
        finally:
            worker.allow_pick_jobs = False
            await shut_down()
            tasks = list(worker.tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    await until_stopped(orderly())


def end_by_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, until `until_stopped` handles both.

    The first process of a container ignores SIGTERM otherwise, also while it waits for PostgreSQL.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


async def until_stopped(*forever: Coroutine[Any, Any, None]) -> None:
    """Run coroutines that do not end by themselves until SIGTERM or SIGINT.

    Raises:
        Exception: the exception of a coroutine that ended.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(coroutine) for coroutine in forever]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, stopping):
        task.cancel()
    results = await asyncio.gather(*tasks, stopping, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _loop(worker: TicketWorker) -> None:
    """Run arq's loop, which ends when Redis is away: wait, then start it again. Running tasks go on."""
    failures = 0
    while True:
        try:
            await worker.async_run()
        except (RedisError, OSError) as error:
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            failures += 1
            worker.looked_at = time.monotonic()
            log.warning("Redis is away", error=str(error), retry_seconds=pause)
            await asyncio.sleep(pause)
            await _count_slots(worker)


async def _count_slots(worker: Worker) -> None:
    """Count the running tasks anew: arq may have reserved a slot for a ticket when Redis went away.

    arq never frees that slot, so a worker with one slot would take no ticket any more.
    """
    running = [task for task in worker.tasks.values() if not task.done()]
    worker.job_counter = len(running)
    worker.sem = asyncio.BoundedSemaphore(worker.max_jobs + 1)
    for _ in running:
        await worker.sem.acquire()
