"""`stt worker` with STT_WORKERS=3: three workers that live and end together."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import psutil
import pytest
from arq import ArqRedis

from stt.jobs import tickets
from stt.jobs.model import Status
from stt.ops import workers
from stt.settings import load
from stt.storage import Storage
from tests.support.faults import Environ, Process, begun, role, until
from tests.support.jobs import again
from tests.support.up import gone

pytestmark = pytest.mark.process


def titled(running: Process, title: str = "stt worker") -> list[psutil.Process]:
    """The children that have this title, which they have once their libraries are loaded."""
    found = []
    for child in psutil.Process(running.process.pid).children():
        try:
            found += [child] if " ".join(child.cmdline()).strip() == title else []
        except psutil.NoSuchProcess:
            continue
    return found


async def test_a_worker_that_dies_is_back_and_all_hand_their_jobs_back_when_asked_to_stop(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, recording: Path
) -> None:
    several = {"STT_WORKERS": "3", "STT_DEVICE": "cpu", "STT_LEASE_SECONDS": "60"}
    async with role(environ | several, "tests.support.fake_stt", "worker") as running:
        await until(lambda: len(titled(running)) == 3)
        dead, *_ = titled(running)
        dead.kill()
        await gone([dead])
        await until(lambda: len(titled(running)) == 3)
        assert dead not in titled(running)
        jobs = [await begun(pool, redis, storage, recording, model) for _ in range(3)]
        family = psutil.Process(running.process.pid).children(recursive=True)
        held = {str((await again(pool, job)).worker) for job in jobs}
        assert len(held) == 3
        running.process.terminate()
        assert await running.ended(20) == 0
    await gone(family)
    for job in jobs:
        waits = await again(pool, job)
        assert (waits.status, waits.attempt, waits.lease_expires_at) == (Status.PENDING, 0, None)
    assert len(await tickets.waiting(redis)) == 3


def test_each_has_a_gpu_and_a_port_of_its_own() -> None:
    settings = load({"STT_METRICS_PORT": "9464"}, Path("/nonexistent"))
    made = workers.make_workers(settings, ["GPU-a", "GPU-b"], 2)
    assert [role.env for role in made] == [
        {"STT_WORKERS": "2", "STT_METRICS_PORT": "9464", "CUDA_VISIBLE_DEVICES": "GPU-a"},
        {"STT_WORKERS": "2", "STT_METRICS_PORT": "9465", "CUDA_VISIBLE_DEVICES": "GPU-b"},
    ]
