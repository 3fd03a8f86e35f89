"""Reads the numbers of the queue and of all jobs from the rows, for Prometheus."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import asyncpg
from arq import ArqRedis

from stt.jobs import lookup, tickets
from stt.jobs.options import JobOptions
from stt.settings import Settings
from stt.telemetry import metrics

_PRIORITIES = get_args(JobOptions.model_fields["priority"].annotation)


class QueueMetrics:
    """What maintenance shows of the queue; each reading replaces the last one."""

    def __init__(self, settings: Settings) -> None:
        self._models = settings.allowed_models
        self._jobs = metrics.Replaced(metrics.JOBS)

    async def read(self, pool: asyncpg.Pool, redis: ArqRedis) -> None:
        """Read everything anew."""
        await self._read_queue(pool)
        await self._read_jobs(pool)
        metrics.WORKERS.set(await tickets.count_workers(redis))

    async def _read_queue(self, pool: asyncpg.Pool) -> None:
        found = {row["priority"]: row for row in await lookup.queue_numbers(pool)}
        for priority in _PRIORITIES:  # 0 where none waits
            row = found.get(priority)
            metrics.QUEUE_JOBS.labels(priority, "due").set(row["due"] if row else 0)
            metrics.QUEUE_JOBS.labels(priority, "delayed").set(row["delayed"] if row else 0)
            metrics.QUEUE_OLDEST.labels(priority).set(row["oldest"] if row else 0)
            metrics.QUEUE_AUDIO.labels(priority).set(row["audio"] if row else 0)

    async def _read_jobs(self, pool: asyncpg.Pool) -> None:
        counted: Counter[tuple[str, ...]] = Counter()
        for row in await lookup.job_numbers(pool):
            model = metrics.model_label(row["model"], self._models)
            counted[row["status"], model, row["error_code"]] += row["count"]
        self._jobs.set(counted)
