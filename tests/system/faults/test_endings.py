"""Cancelled, deleted, asked to stop: the work ends at once and nothing comes after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs import lifecycle, results, tickets
from stt.jobs.model import Status
from stt.pubsub import Hub
from stt.storage import Storage
from tests.support.faults import (
    SHORT,
    Environ,
    attempt,
    begun,
    following_is_done,
    role,
    script,
    spans,
    told,
    until,
    waiting,
    web,
)
from tests.support.jobs import again, claim, new
from tests.support.uploads import stored
from workers.attempt import Context

pytestmark = pytest.mark.process


async def test_a_job_deleted_while_it_runs_leaves_no_file_row_key_or_event(
    context: Context, client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str,
    recording: Path,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model)
    async with told(redis) as events:
        running = attempt(context)
        await until(lambda: spans(pool, job))
        async with client.delete(f"/api/jobs/{job.id}") as response:
            assert response.status == 204
        assert not context.engine.running
        await asyncio.wait_for(running, 5)
        for table, column in (("jobs", "id"), ("spans", "job_id"), ("transcripts", "job_id")):
            assert await pool.fetchval(f"select count(*) from {table} where {column} = $1", job.id) == 0
        assert list(storage.root.rglob(f"*{job.id}*")) == []
        assert stored(storage) == []
        assert await redis.keys("*") == []
        await following_is_done(context, events, model)
    own = [event for whose, event in events if whose == str(job.id)]
    assert own.index("deleted") == len(own) - 1


async def test_what_a_worker_publishes_is_numbered_and_names_owner_and_claim(
    context: Context, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, tmp_path: Path
) -> None:
    """The segments go on from those that an attempt before has saved."""
    job = await waiting(pool, storage, script(tmp_path, spans=4), model)
    first = await claim(pool)
    assert first
    segment = {"start": 0.0, "end": 1.0, "text": " before"}
    assert await results.save_span(pool, first, number=0, start=0, end=10, segments=[segment, segment])
    assert await lifecycle.hand_back(pool, first)
    hub = Hub(redis)
    await hub.start()
    async with hub.listen(str(job.id), owner=None) as listener, asyncio.timeout(30):
        await attempt(context)
        published = []
        while not published or published[-1]["event"] != "completed":
            published.append(await anext(listener))
    await hub.close()
    batches = [message for message in published if message["event"] == "segments"]
    assert [(batch["first"], [one["id"] for one in batch["segments"]]) for batch in batches] == [
        (2, [2]), (3, [3]), (4, [4]),
    ]  # fmt: skip
    now = await again(pool, job)
    assert now.claim > first.claim
    assert {(message["owner"], message["claim"]) for message in published} == {("local", now.claim)}


async def test_a_worker_asked_to_stop_hands_its_job_back_at_once_with_no_attempt_spent(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, recording: Path
) -> None:
    async with role(environ, "tests.support.fake_worker") as worker:
        job = await begun(pool, redis, storage, recording, model)
        engine = worker.engine()
        worker.process.terminate()
        assert await worker.ended(5) == 0
        waits = await again(pool, job)
        assert (waits.status, waits.attempt, waits.lease_expires_at) == (Status.PENDING, 0, None)
        assert waits.error_code is None
        await until(lambda: not engine.is_running(), 5)
    assert len(await tickets.waiting(redis)) == 1


async def test_a_web_app_asked_to_stop_ends_its_streams_with_a_hint_and_finishes_an_upload(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> None:
    async with web(environ) as (process, url):
        job = await new(pool)
        rest = asyncio.Event()
        async with aiohttp.ClientSession(url) as session, session.get(f"/api/jobs/{job.id}/events") as stream:
            heard = await stream.content.readuntil(b"\r\n\r\n")
            sending = asyncio.create_task(slow_upload(session, rest))
            await until(lambda: list((storage.root / "incoming").iterdir()))  # it has begun
            process.process.terminate()
            assert b"retry: 2000" in heard + await asyncio.wait_for(stream.content.read(), 5)
            async with aiohttp.ClientSession(url) as late:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await late.get("/health/live")
            rest.set()
            assert await sending == 201
        assert await process.ended() == 0


async def slow_upload(session: aiohttp.ClientSession, rest: asyncio.Event) -> int:
    content = SHORT.read_bytes()

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
        yield content[: len(content) // 2]
        await rest.wait()
        yield content[len(content) // 2 :]
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with session.post("/api/jobs/upload", data=body(), headers=headers) as response:
        return response.status
