"""What maintenance shows of the queue, of the stored jobs, and of its own steps."""

from __future__ import annotations

import datetime as dt

import asyncpg
import pytest
from arq import ArqRedis

from stt.jobs import lifecycle, tickets
from stt.settings import Settings
from stt.storage import Storage
from stt.telemetry.health import Health, Unhealthy
from tests.support import metrics
from tests.support.jobs import claim, complete, expire, new
from workers import maintenance, steps
from workers.queue_metrics import QueueMetrics
from workers.steps import Step

SUCCESS = "stt_maintenance_last_success_timestamp_seconds"
EARLIER = "not_before = not_before - $1::interval, updated_at = updated_at - $1::interval"


@pytest.fixture
def counted(settings: Settings) -> QueueMetrics:
    return QueueMetrics(settings)


async def test_the_queue_is_shown_by_priority(
    counted: QueueMetrics, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    first = await new(pool)
    await new(pool, priority="high")
    later = await new(pool)
    await pool.execute("update jobs set duration_seconds = 60")
    await pool.execute(f"update jobs set {EARLIER} where id = $2", dt.timedelta(seconds=90), first.id)
    await pool.execute("update jobs set not_before = now() + interval '1 hour' where id = $1", later.id)
    await counted.read(pool, redis)
    told = metrics.of_this_process()
    waiting, oldest, sound = "stt_queue_jobs", "stt_queue_oldest_wait_seconds", "stt_queue_audio_seconds"
    assert told.sum(waiting, priority="normal", state="due") == 1
    assert told.sum(waiting, priority="normal", state="delayed") == 1
    assert told.sum(waiting, priority="high", state="due") == 1
    assert told.sum(waiting, priority="low") == 0
    assert told.sum(sound, priority="normal") == 60
    assert told.sum(oldest, priority="low") == 0
    assert 90 <= told.sum(oldest, priority="normal") < 150
    assert 0 <= told.sum(oldest, priority="high") < 60
    await pool.execute("delete from jobs")
    await counted.read(pool, redis)
    assert metrics.of_this_process().sum(waiting) == 0
    assert metrics.of_this_process().sum(oldest) == 0


async def test_a_job_that_waits_again_has_not_waited_while_it_ran(
    counted: QueueMetrics, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    job = await new(pool)
    await pool.execute(
        "update jobs set not_before = not_before - interval '2 hours', updated_at = not_before"
    )
    held = await claim(pool)
    assert held and held.id == job.id
    assert await lifecycle.hand_back(pool, held)
    await counted.read(pool, redis)
    assert metrics.of_this_process().sum("stt_queue_oldest_wait_seconds") < 60


async def test_stored_jobs_are_shown_and_those_that_are_gone_are_not(
    counted: QueueMetrics, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    await new(pool)
    done = await claim(pool)
    assert done
    await complete(pool, done)
    old = await new(pool)
    await pool.execute("update jobs set model = 'secret/model' where id = $1", old.id)
    failed = await claim(pool)
    assert failed
    await lifecycle.fail(
        pool, failed, code="not_media", message="no", parameters={}, log=None, warnings=[]
    )  # fmt: skip
    await counted.read(pool, redis)
    told = metrics.of_this_process()
    assert told.sum("stt_jobs", status="completed", model="base", error_code="") == 1
    assert told.sum("stt_jobs", status="failed", model="other", error_code="not_media") == 1
    assert "secret/model" not in told.label_values()
    assert str(done.id) not in told.text
    await pool.execute("delete from jobs where status = 'failed'")
    await counted.read(pool, redis)
    assert 'status="failed"' not in metrics.of_this_process().text


async def test_workers_are_counted_by_their_keys(
    counted: QueueMetrics, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    await redis.set(f"{tickets.WORKER_KEY}one:1", "x")
    await redis.set(f"{tickets.WORKER_KEY}two:2", "x")
    await redis.set("another", "x")
    await counted.read(pool, redis)
    assert metrics.of_this_process().sum("stt_workers") == 2


async def test_what_maintenance_mends_is_counted(
    pool: asyncpg.Pool, redis: ArqRedis, settings: Settings, storage: Storage
) -> None:
    before = metrics.of_this_process()
    await new(pool)
    held = await claim(pool)
    assert held
    await expire(pool, held)
    await maintenance.free_expired(pool, redis, settings)
    await redis.flushall()
    await pool.execute("update jobs set not_before = now()")
    await maintenance.balance_tickets(pool, redis)
    for _ in range(30):
        await tickets.enqueue(redis)
    await maintenance.balance_tickets(pool, redis)
    await storage.write("uploads/nobodys", b"x")
    await maintenance.Sweeper(storage, seconds=0).sweep(pool)
    after = metrics.of_this_process()

    def grown(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert grown("stt_leases_expired_total") == 1
    assert grown("stt_tickets_total", action="restored") == 1
    assert grown("stt_tickets_total", action="discarded") == 10  # of 31, one is needed and 20 are kept
    assert grown("stt_files_removed_total") == 1


async def fails() -> None:
    raise ValueError("no such thing")


async def succeeds() -> None:
    return None


async def test_a_step_that_fails_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    health, step = Health(), Step("failing", 2.0, fails)
    step.checked_by(health)
    assert (
        metrics.of_this_process().sum("stt_maintenance_last_success_timestamp_seconds", step="failing") == 0
    )
    await step.do_once()
    assert metrics.of_this_process().sum("stt_maintenance_step_failures_total", step="failing") == 1
    await health.ready["failing"]()
    monkeypatch.setattr(steps, "_GRACE_SECONDS", -100.0)
    with pytest.raises(Unhealthy, match=r"has not succeeded for .*ValueError: no such thing"):
        await health.ready["failing"]()
    await health.live["failing"]()  # 300 s are left: it comes to an end


async def test_a_step_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("hanging", 2.0, succeeds)
    await step.do_once()
    told = metrics.of_this_process().sum(SUCCESS, step="hanging")
    assert told > 1.7e9
    await step.check_repeats()
    monkeypatch.setattr(steps, "_GRACE_SECONDS", -1000.0)
    with pytest.raises(Unhealthy, match="has not ended for"):
        await step.check_repeats()
