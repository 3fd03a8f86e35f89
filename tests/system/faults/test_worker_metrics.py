"""What a worker's metrics say of its attempts and its engines, with the fake engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from arq import ArqRedis

from stt.jobs import lifecycle, tickets
from stt.jobs.model import Status
from stt.storage import Storage
from stt.telemetry.health import Unhealthy
from tests.services.test_health import free_port, health
from tests.support import metrics
from tests.support.faults import (
    SHORT,
    Environ,
    attempt,
    completed,
    due,
    in_status,
    pid,
    role,
    script,
    spans,
    until,
    waiting,
)  # fmt: skip
from workers.attempt import Context
from workers.transcriber import check_engine

WORKER = "tests.support.fake_worker"
ENDINGS = ("completed", "failed", "retried", "cancelled", "handed_back", "lost")


class Grown:
    """How much the metrics of this process have grown since."""

    def __init__(self) -> None:
        self._before = metrics.of_this_process()

    def of(self, name: str, **labels: str) -> float:
        return metrics.of_this_process().sum(name, **labels) - self._before.sum(name, **labels)

    def attempts(self) -> dict[str, float]:
        found = {one: self.of("stt_attempts_total", outcome=one) for one in ENDINGS}
        return {one: count for one, count in found.items() if count}


async def test_a_job_through_a_worker_shows_in_its_metrics(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> None:
    port = free_port()
    given = environ | {"STT_METRICS_PORT": str(port), "STT_DEVICE": "cpu"}
    async with role(given, WORKER) as worker:
        await until(lambda: ready(given), 60)
        first = await metrics.of(port)
        for ending in ENDINGS:
            assert f'stt_attempts_total{{outcome="{ending}"}} 0.0' in first.text
        job = await waiting(pool, storage, SHORT, "base")
        await tickets.enqueue(redis)
        await completed(pool, job)
        await until(lambda: counted(port, "completed"), 10)
        told = await metrics.of(port)
        worker.engine().kill()
        await until(lambda: died(port, "killed"), 10)
        assert await health(given) == (0, "live")
    assert told.sum("stt_engine_starts_total") == 1
    assert told.sum("stt_engine_running") == 1
    assert told.sum("stt_audio_seconds_total", model="base") == 10
    assert told.sum("stt_job_duration_seconds_count", model="base") == 1
    assert told.sum("stt_real_time_factor_count", model="base") == 1
    assert told.sum("stt_stage_duration_seconds_count", stage="transcribe") == 1
    assert told.sum("stt_stage_duration_seconds_count", stage="finish") == 1
    assert told.sum("stt_jobs_ended_total", status="completed", model="base", error_code="") == 1
    assert told.sum("stt_model_loads_total", model="base") == 1
    assert told.sum("stt_model_load_duration_seconds_sum", model="base") == 0.5
    assert told.sum("stt_tickets_total", action="taken") == 1
    assert told.sum("stt_worker_busy") == 0
    assert told.sum("stt_build_info", role="worker") == 1
    assert {str(job.id), SHORT.name, "local"} & told.label_values() == set()
    metrics.check_with_promtool(told)


async def ready(environ: Environ) -> bool:
    return await health(environ, "--ready") == (0, "ready")


async def counted(port: int, outcome: str) -> bool:
    return (await metrics.of(port)).sum("stt_attempts_total", outcome=outcome) == 1


async def died(port: int, cause: str) -> bool:
    return (await metrics.of(port)).sum("stt_engine_deaths_total", cause=cause) == 1


async def test_an_engine_that_is_killed_is_a_death_and_a_retry(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path
) -> None:
    grown = Grown()
    job = await waiting(pool, storage, recording, model)
    running = attempt(context)
    await until(lambda: spans(pool, job))
    psutil.Process(pid(context)).kill()
    await running
    assert grown.attempts() == {"retried": 1}
    assert grown.of("stt_engine_deaths_total", cause="killed") == 1
    assert context.engine.failures == 1
    await due(pool, job)
    await attempt(context)
    await completed(pool, job)
    assert grown.attempts() == {"retried": 1, "completed": 1}
    assert context.engine.failures == 0
    assert grown.of("stt_real_time_factor_count") == 0  # two attempts shared the work


async def test_a_cancelled_job_stops_its_engine(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path
) -> None:
    grown = Grown()
    job = await waiting(pool, storage, recording, model)
    running = attempt(context)
    await until(lambda: spans(pool, job))
    await lifecycle.request_cancel(pool, job.id)
    await running
    assert grown.attempts() == {"cancelled": 1}
    assert grown.of("stt_jobs_ended_total", status="cancelled") == 1
    assert grown.of("stt_engine_deaths_total", cause="stopped") == 1
    assert context.engine.failures == 0


async def test_a_worker_that_stops_hands_back_and_one_that_lost_its_claim_has_lost(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path
) -> None:
    grown = Grown()
    job = await waiting(pool, storage, recording, model)
    running = attempt(context)
    await until(lambda: spans(pool, job))
    await pool.execute("update jobs set claim = nextval('job_claims') where id = $1", job.id)
    await running
    assert grown.attempts() == {"lost": 1}
    assert grown.of("stt_leases_lost_total") == 1
    await pool.execute("update jobs set status = 'pending', stage = null, worker = null, "
                       "lease_expires_at = null where id = $1", job.id)  # fmt: skip
    running = attempt(context)
    await until(lambda: context.attempt)
    await context.shut_down()
    await running
    assert grown.attempts() == {"lost": 1, "handed_back": 1}


async def test_a_recording_that_is_gone_fails_with_its_code(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, tmp_path: Path
) -> None:
    grown = Grown()
    other = await waiting(pool, storage, script(tmp_path), model)
    job = await waiting(pool, storage, SHORT, model, priority="high")
    (storage.root / job.file_path).unlink()
    await attempt(context)
    assert await in_status(pool, job, Status.FAILED)
    assert grown.attempts() == {"failed": 1}
    assert grown.of("stt_jobs_ended_total", status="failed", error_code="file_gone", model=model) == 1
    assert other.id != job.id


async def test_an_idle_engine_is_ended_as_idle(context: Context) -> None:
    grown = Grown()
    await context.engine.start()
    await context.engine.close()
    causes: dict[str, Any] = {
        one: grown.of("stt_engine_deaths_total", cause=one) for one in ("idle", "stopped", "exited")
    }
    assert causes == {"idle": 1, "stopped": 0, "exited": 0}


async def test_a_worker_whose_engines_keep_dying_is_not_ready(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engine.handle.PROGRAM", "no.such.program")
    grown = Grown()
    for number in range(1, context.settings.max_attempts + 2):
        await check_engine(context.engine, context.settings)
        await context.engine.start()
        await until(lambda number=number: context.engine.failures == number, 30)
    assert grown.of("stt_engine_deaths_total", cause="exited") == context.settings.max_attempts + 1
    with pytest.raises(Unhealthy, match="engines ended by themselves or hung"):
        await check_engine(context.engine, context.settings)
