"""A transcription worker: one GPU (or the CPU), one job at a time. ``python -m workers.transcriber``"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

import structlog
from arq.worker import func
from setproctitle import setproctitle

from stt import folders, logs
from stt.jobs import tickets
from stt.outages import UNAVAILABLE
from stt.settings import Settings, load
from stt.storage import Storage
from stt.telemetry import gpu, metrics, sentry
from stt.telemetry.health import Health, Unhealthy
from stt.telemetry.ports import PortError
from stt.telemetry.server import serving
from workers import arq_worker
from workers.attempt import Context, transcribe
from workers.attempt_metrics import OUTCOMES
from workers.engine.handle import EngineProcess
from workers.engine.life import UNWANTED, WANTED

log = structlog.stdlib.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Take tickets until a signal."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    engine = EngineProcess(settings, gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))
    health = Health()
    async with serving(settings, "worker", health), arq_worker.connections(settings) as (pool, redis):
        storage = Storage(settings.storage_dir)
        context = Context(
            settings=settings, pool=pool, redis=redis, storage=storage, engine=engine, name=name
        )
        worker = arq_worker.arq_worker(
            redis,
            functions=[func(transcribe, name=tickets.TRANSCRIBE)],
            queue_name=tickets.TRANSCRIBE_QUEUE,
            max_jobs=1,
            ctx={"context": context},
            health_check_key=f"{tickets.WORKER_KEY}{name}",
        )
        health.connected(pool, redis, storage)
        health.live["tickets"] = worker.check_looks_for_tickets
        health.ready["engine"] = lambda: check_engine(engine, settings)
        await _show(context)
        await engine.start()  # its libraries load before the first ticket
        idle = asyncio.create_task(_end_when_idle(context), name="idle")
        try:
            await arq_worker.serve(worker, context.shut_down)
        finally:
            idle.cancel()
            await asyncio.gather(idle, return_exceptions=True)
            await engine.kill()


async def check_engine(engine: EngineProcess, settings: Settings) -> None:
    """Whether engines start and work.

    Raises:
        Unhealthy: The last ones ended by themselves or hung.
    """
    if engine.failures > settings.max_attempts:  # more than one recording can be at fault
        raise Unhealthy(f"the last {engine.failures} engines ended by themselves or hung")


async def _show(context: Context) -> None:
    """Have metrics show this worker, from the first scrape on."""
    metrics.WORKER_BUSY.set_function(lambda: context.attempt is not None)
    metrics.ENGINE_RUNNING.set_function(lambda: context.engine.running)
    metrics.begin_at_zero(metrics.ATTEMPTS, OUTCOMES)
    metrics.begin_at_zero(metrics.ENGINE_DEATHS, (*WANTED, *UNWANTED))
    metrics.begin_at_zero(metrics.TICKETS, ("enqueued", "failed", "taken"))
    if context.settings.device != "cpu":
        await asyncio.to_thread(gpu.watch, os.environ.get("CUDA_VISIBLE_DEVICES"))


async def _end_when_idle(context: Context) -> None:
    """End an engine that has had no job for `model_idle_seconds`, which frees all its memory."""
    limit = context.settings.model_idle_seconds
    while True:
        idle = 0.0 if context.attempt else time.monotonic() - context.idle_since
        if idle >= limit and context.attempt is None and context.engine.running:
            log.info("the engine is idle: ending it")
            await context.engine.close()
        await asyncio.sleep(max(limit - idle, 1.0))


def main() -> None:
    settings = load()
    logs.setup(settings, "worker")
    sentry.setup(settings, "worker", outages=UNAVAILABLE)
    arq_worker.end_by_sigterm()
    setproctitle("stt worker")
    try:
        folders.prepare_storage(settings)
        folders.prepare_data(settings)
    except folders.FolderError as error:
        sys.exit(f"stt worker: {error}")
    try:
        asyncio.run(run(settings))
    except PortError as error:
        sys.exit(f"stt worker: {error}")
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
