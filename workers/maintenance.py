"""Repairs tickets, leases and files after crashes. ``python -m workers.maintenance``

Several may run at the same time: every step is a conditional statement, or idempotent.
"""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg
import structlog
from arq import ArqRedis
from setproctitle import setproctitle
from structlog.contextvars import bound_contextvars

from stt import folders, logs
from stt.codes import ErrorCode
from stt.jobs import lifecycle, lookup, tickets
from stt.jobs.messages import current
from stt.jobs.model import Job, Status
from stt.outages import UNAVAILABLE
from stt.pubsub import publish
from stt.settings import Settings, load
from stt.storage import Storage
from stt.telemetry import metrics, sentry
from stt.telemetry.health import Health
from stt.telemetry.ports import PortError
from stt.telemetry.server import serving
from workers import arq_worker
from workers.queue_metrics import QueueMetrics
from workers.steps import Step

log = structlog.stdlib.get_logger(__name__)

# Seconds after which an upload without a write, or a file without a row, is removed.
_ABANDONED_SECONDS = 3600
# Tickets beyond the number of due rows that are kept. More only fill Redis.
_SPARE_TICKETS = 20
_RECONCILE_SECONDS, _COUNT_SECONDS, _SWEEP_SECONDS = 2.0, 15.0, 600.0


async def free_expired(pool: asyncpg.Pool, redis: ArqRedis, settings: Settings) -> None:
    for job in await lifecycle.release_expired(pool, max_attempts=settings.max_attempts):
        metrics.LEASES_EXPIRED.inc()
        with bound_contextvars(**job.log_keys):
            log.warning("the worker of a job is gone", status=str(job.status))
            _count_failed(job, settings)
            await publish(redis, current(job))
            if not job.ended:  # now, without waiting for `balance_tickets`
                await tickets.announce(redis, job)


def _count_failed(job: Job, settings: Settings) -> None:
    """Count a job that ended here, not with a worker."""
    if job.status is Status.FAILED:
        model = metrics.model_label(job.model, settings.allowed_models)
        metrics.JOBS_ENDED.labels(job.status, model, job.error_code or "").inc()


async def fail_lost(pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, settings: Settings) -> None:
    """Fail waiting jobs whose recording is gone, without spending attempts."""
    files = await lookup.waiting_files(pool)
    lost = set(await asyncio.to_thread(storage.lost, files.values()))
    for job_id in [job_id for job_id, key in files.items() if key in lost]:
        job = await lifecycle.fail_waiting(pool, job_id, code=ErrorCode.FILE_GONE)
        if job:
            with bound_contextvars(**job.log_keys):
                log.error("the recording of a job is gone")
                _count_failed(job, settings)
                await publish(redis, current(job))


async def balance_tickets(pool: asyncpg.Pool, redis: ArqRedis) -> None:
    """Make one ticket for each due row, also after Redis lost all of them; discard superfluous tickets."""
    due = await lookup.count_due(pool)
    waiting = await tickets.waiting(redis)
    for _ in range(due - len(waiting)):
        await tickets.enqueue(redis, action="restored")
    if due > len(waiting):
        log.info("missing tickets were made", tickets=due - len(waiting))
    dead = await tickets.taken_long_ago(redis)
    if useless := waiting[due + _SPARE_TICKETS :] + dead:
        await tickets.discard(redis, useless)


class Sweeper:
    """Removes unfinished uploads and files that no row names.

    A file is removed if no row has named it and nothing was written to it for an hour, by the monotonic
    clock of this process: a step of the wall clock must not make an upload look abandoned.
    """

    def __init__(self, storage: Storage, seconds: float = _ABANDONED_SECONDS) -> None:
        self.storage, self.seconds = storage, seconds
        self._seen: dict[
            tuple[str, float], float
        ] = {}  # (key, time of the last write): first seen, monotonic

    async def sweep(self, pool: asyncpg.Pool) -> None:
        # The files are listed before the rows, so that a row inserted in between protects its file.
        stored = await asyncio.to_thread(self.storage.keys)
        named = await lookup.stored_keys(pool)
        for key in self._old(stored, named):
            log.info("removing a file that no job names", folder=key.split("/")[0])
            await self.storage.delete(key)
            metrics.FILES_REMOVED.inc()
        await asyncio.to_thread(self.storage.remove_empty, self.seconds)

    def _old(self, stored: dict[str, float], named: set[str]) -> list[str]:
        now = time.monotonic()
        unnamed = {
            (key, touched): self._seen.get((key, touched), now)
            for key, touched in stored.items()
            if key not in named
        }
        self._seen = {file: since for file, since in unnamed.items() if now - since < self.seconds}
        return [key for key, _ in unnamed.keys() - self._seen.keys()]


async def run(settings: Settings) -> None:
    """Reconcile and sweep until a signal.

    These are loops on the monotonic clock, not arq's cron jobs: those need the wall clock and Redis, and the
    repairs are needed most while Redis is away.
    """
    health = Health()
    async with serving(settings, "maintenance", health), arq_worker.connections(settings) as (pool, redis):
        storage = Storage(settings.storage_dir)
        sweeper, counted = Sweeper(storage), QueueMetrics(settings)
        metrics.begin_at_zero(metrics.TICKETS, ("enqueued", "failed", "restored", "discarded"))
        for model in (*settings.allowed_models, metrics.OTHER_MODEL):
            for code in (ErrorCode.WORKER_LOST, ErrorCode.FILE_GONE):
                metrics.JOBS_ENDED.labels(Status.FAILED, model, code)
        steps = (
            Step("free_expired", _RECONCILE_SECONDS, lambda: free_expired(pool, redis, settings)),
            Step("fail_lost", _RECONCILE_SECONDS, lambda: fail_lost(pool, redis, storage, settings)),
            Step("balance_tickets", _RECONCILE_SECONDS, lambda: balance_tickets(pool, redis)),
            Step("count_jobs", _COUNT_SECONDS, lambda: counted.read(pool, redis)),
            Step("sweep", _SWEEP_SECONDS, lambda: sweeper.sweep(pool)),
        )
        health.connected(pool, redis, storage)
        for step in steps:
            step.checked_by(health)
        await arq_worker.until_stopped(*(step.repeat() for step in steps))


def main() -> None:
    settings = load()
    logs.setup(settings, "maintenance")
    sentry.setup(settings, "maintenance", outages=UNAVAILABLE)
    arq_worker.end_by_sigterm()
    setproctitle("stt maintenance")
    try:
        folders.prepare_storage(settings)
    except folders.FolderError as error:
        sys.exit(f"stt maintenance: {error}")
    try:
        asyncio.run(run(settings))
    except PortError as error:
        sys.exit(f"stt maintenance: {error}")
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
