"""Jobs in every state, made as the service makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from stt.jobs import lifecycle, lookup, options
from stt.jobs.model import Job, NewJob
from stt.settings import load

SETTINGS = load({}, Path("/nonexistent"))


async def new(pool: asyncpg.Pool, owner: str = "local", **asked: Any) -> Job:
    return await lifecycle.create(
        pool,
        NewJob(
            id=uuid4(),
            original_filename="talk.mp3",
            file_path=f"uploads/{uuid4()}",
            file_type="audio",
            file_size=1,
            duration_seconds=None,
            options=options.parse(asked, SETTINGS),
            owner=owner,
        ),
    )


async def claim(pool: asyncpg.Pool, lease: float = 30) -> Job | None:
    return await lifecycle.claim_next(pool, worker="test", lease=lease)


async def beat(pool: asyncpg.Pool, job: Job, progress: float = 0.1) -> Job | None:
    return await lifecycle.heartbeat(
        pool, job, lease=30, stage="transcribe", progress=progress, eta_seconds=None,
        duration_seconds=None, language=None, warnings=[],
    )  # fmt: skip


async def complete(pool: asyncpg.Pool, job: Job, text: str = "hello") -> Job | None:
    segment = {"start": 0.0, "end": 1.0, "text": text}
    return await lifecycle.complete(
        pool, job, text=text, segments=[segment], file_path="results/x", language="en",
        duration_seconds=1.0, warnings=[],
    )  # fmt: skip


async def expire(pool: asyncpg.Pool, job: Job) -> None:
    await pool.execute(
        "update jobs set lease_expires_at = clock_timestamp() - interval '1 second' where id = $1", job.id
    )


async def again(pool: asyncpg.Pool, job: Job) -> Job:
    found = await lookup.get(pool, job.id, owner=None, text=True)
    assert found
    return await lookup.with_place(pool, found, owner=None)
