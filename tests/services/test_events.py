"""A listener that joins late, reconnects or falls behind misses no segment and no end."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs import feed, lifecycle, messages, results
from stt.jobs.messages import current
from stt.jobs.model import Job
from stt.pubsub import RESYNC, Listener, Message, publish
from stt.web import sse
from stt.web.context import SERVICES
from tests.support.jobs import again, beat, claim, complete, new

Event = tuple[str, dict[str, Any], str | None]


@pytest.fixture
async def running(pool: asyncpg.Pool, client: TestClient) -> Job:
    await new(pool)
    job = await claim(pool)
    assert job
    return job


@asynccontextmanager
async def stream(client: TestClient, path: str, last: str | None = None) -> AsyncIterator[Any]:
    headers = {"Last-Event-ID": last} if last else {}
    async with client.get(path, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = _events(response)
        yield events
        await events.aclose()


async def _events(response: ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
            fields = {}


async def to_end(events: AsyncIterator[Event]) -> list[Event]:
    async with asyncio.timeout(10):
        return [event async for event in events]


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


def names(events: list[Event]) -> list[str]:
    return [f"{name}:{data['id']}" if name == "segment" else name for name, data, _ in events]


async def say(pool: asyncpg.Pool, redis: ArqRedis | None, job: Job, number: int, *texts: str) -> None:
    """What a worker does with a finished span; without Redis its message is lost."""
    first = sum(len(span["segments"]) for span in await results.spans(pool, job))
    segments = [{"start": 0.0, "end": 1.0, "text": text} for text in texts]
    assert await results.save_span(pool, job, number=number, start=0, end=1, segments=segments)
    if redis:
        await publish(redis, messages.segments(job, first, results.numbered(segments, first)))


async def finish(pool: asyncpg.Pool, redis: ArqRedis, job: Job) -> None:
    segments = [segment for span in await results.spans(pool, job) for segment in span["segments"]]
    done = await lifecycle.complete(
        pool, job, text="x", segments=segments, file_path="results/x", language="en",
        duration_seconds=1.0, warnings=[],
    )  # fmt: skip
    assert done
    await publish(redis, current(done))


async def test_a_listener_gets_segments_then_the_end_and_the_stream_ends(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        assert names(await take(events, 1)) == ["progress"]
        await say(pool, redis, running, 0, "a", "b")
        await say(pool, redis, running, 1, "c")
        await finish(pool, redis, running)
        got = await to_end(events)
    assert names(got) == ["segment:0", "segment:1", "segment:2", "completed"]
    assert [data["text"] for _, data, _ in got[:3]] == ["a", "b", "c"]
    assert [id_ for _, _, id_ in got] == ["0", "1", "2", f"end-{running.claim}"]
    assert "transcription_text" not in got[-1][1]


async def test_a_late_listener_gets_everything(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    await say(pool, redis, running, 0, "a", "b")
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        assert names(await take(events, 3)) == ["segment:0", "segment:1", "progress"]
    await finish(pool, redis, running)
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        assert names(await to_end(events)) == ["segment:0", "segment:1", "completed"]


async def test_a_reconnect_goes_on_after_the_last_segment(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    await say(pool, redis, running, 0, "a", "b", "c")
    async with stream(client, f"/api/jobs/{running.id}/events", last="1") as events:
        assert names(await take(events, 2)) == ["segment:2", "progress"]


async def test_after_the_end_a_reconnect_gets_204(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    await finish(pool, redis, running)
    path = f"/api/jobs/{running.id}/events"
    async with stream(client, path) as events:
        [(_, _, last)] = await to_end(events)
    async with client.get(path, headers={"Last-Event-ID": last}) as response:
        assert response.status == 204


async def test_a_lost_message_is_made_up_for_from_the_rows(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        await take(events, 1)
        await say(pool, None, running, 0, "a")
        await say(pool, redis, running, 1, "b")
        assert names(await take(events, 2)) == ["segment:0", "segment:1"]
        await say(pool, None, running, 2, "c")
        await finish(pool, redis, running)
        assert names(await to_end(events))[-2:] == ["segment:2", "completed"]


async def test_after_a_lost_subscription_every_listener_gets_a_snapshot(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        await take(events, 1)
        await say(pool, None, running, 0, "a")
        await redis.client_kill_filter(_type="pubsub")
        assert names(await take(events, 2)) == ["segment:0", "progress"]


async def test_a_deleted_job_ends_its_streams(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    job = await new(pool)
    async with stream(client, f"/api/jobs/{job.id}/events") as events:
        await take(events, 1)
        async with client.delete(f"/api/jobs/{job.id}") as response:
            assert response.status == 204
        assert names(await to_end(events))[-1] == "deleted"


async def test_the_stream_of_all_jobs_sends_what_happened_meanwhile(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    async with stream(client, "/api/events") as events:
        [(name, data, last)] = await take(events, 1)
    assert (name, data["job_id"]) == ("progress", str(running.id))
    await say(pool, redis, running, 0, "a")
    await finish(pool, redis, running)
    async with stream(client, "/api/events", last=last) as events:
        assert names(await take(events, 2)) == ["segment:0", "completed"]


async def test_after_an_absence_the_segments_of_all_jobs_come_with_their_numbers(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    """Only those that were saved since, numbered from the beginning of each recording."""
    jobs = []
    for number in range(3):
        await new(pool)
        job = await claim(pool)
        assert job
        await say(pool, None, job, 0, *["early"] * number)
        jobs.append(job)
    await pool.execute("update spans set created_at = created_at - interval '1 minute'")
    async with stream(client, "/api/events") as events:
        last = (await take(events, 3))[-1][2]
    for job in jobs:
        await say(pool, None, job, 1, "late", "later")
        await beat(pool, job)
    async with stream(client, "/api/events", last=last) as events:
        received = await take(events, 9)
    by_job = {str(job.id): names([e for e in received if e[1]["job_id"] == str(job.id)]) for job in jobs}
    assert [by_job[str(job.id)] for job in jobs] == [
        [f"segment:{number}", f"segment:{number + 1}", "progress"] for number in range(3)
    ]


async def test_an_end_whose_message_was_never_published_is_found_in_the_rows(
    client: TestClient, pool: asyncpg.Pool, running: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "LISTEN_SECONDS", 0.2)
    async with (
        stream(client, f"/api/jobs/{running.id}/events") as one,
        stream(client, "/api/events") as every,
    ):
        await take(one, 1)
        await take(every, 1)
        await complete(pool, running)
        assert names(await to_end(one)) == ["segment:0", "completed"]
        async with asyncio.timeout(10):
            while (await anext(every))[0] != "completed":
                pass


async def test_a_lost_end_is_found_though_other_jobs_went_on_publishing(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_OVERLAP", dt.timedelta(0))
    jobs = []
    for _ in range(3):
        await new(pool)
        jobs.append(await claim(pool))
    lost, sent, other = [job for job in jobs if job]

    async def arriving() -> AsyncIterator[Message]:
        await complete(pool, lost)
        for job in (await complete(pool, sent), await beat(pool, other)):
            assert job
            yield current(job)
        yield messages.IDLE

    batches = [batch async for batch in feed.of_all(pool, arriving())]
    assert [(batch.event, batch.job_id) for batch in batches[3:] if isinstance(batch, feed.State)] == [
        ("completed", str(sent.id)),
        ("progress", str(other.id)),
        ("completed", str(lost.id)),  # the end that was sent does not come again
        ("progress", str(other.id)),
    ]


async def test_a_slow_listener_keeps_the_newest_progress_and_every_end(pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    listener = Listener(str(job.id))
    for step in range(5000):
        listener.put({**current(job), "step": step})
    done = await complete(pool, job)
    assert done
    listener.put(current(done))
    listener.close()
    got = [message async for message in listener]
    assert [(m["event"], m.get("step")) for m in got] == [("progress", 4999), ("completed", None)]


async def test_a_listener_that_is_far_behind_reads_the_rows_again() -> None:
    listener = Listener(None)
    for number in range(3000):
        listener.put({"event": "created", "job": str(number), "data": {}})
    listener.close()
    got = [message async for message in listener]
    assert RESYNC in got
    assert len(got) <= 1000


async def test_a_listener_receives_only_messages_of_its_owner(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    """Every kind of published message says whose job it is; those of others never reach the queue."""
    hub = client.app[SERVICES].hub
    async with hub.listen(owner="ann") as ann, hub.listen(owner=None) as every, hub.listen() as local:
        for owner in ("ann", "bob", "local"):
            job = await new(pool, owner=owner)
            segment = {"start": 0.0, "end": 1.0, "text": "a"}
            for message in (
                messages.state("created", job),
                current(job),
                messages.segments(job, 0, results.numbered([segment])),
                messages.deleted(job.id, job.owner, job.claim),
            ):
                await publish(redis, message)
        received = {}
        for name, listener in (("ann", ann), ("every", every), ("local", local)):
            received[name] = [message async for message in _until_deleted(listener)]
    kinds = ["created", "progress", "segments", "deleted"]
    assert [(m["owner"], m["event"]) for m in received["ann"]] == [("ann", kind) for kind in kinds]
    assert [(m["owner"], m["event"]) for m in received["local"]] == [("local", kind) for kind in kinds]
    assert [m["owner"] for m in received["every"]] == ["ann"] * 4 + ["bob"] * 4 + ["local"] * 4
    assert all("claim" in message for message in received["every"])


async def _until_deleted(listener: Listener) -> AsyncIterator[Message]:
    async with asyncio.timeout(10):
        async for message in listener:
            yield message
            if message["event"] == "deleted" and message["owner"] in (listener.owner, "local"):
                return


async def test_a_feed_has_only_jobs_of_its_owner(pool: asyncpg.Pool) -> None:
    jobs = {owner: await new(pool, owner=owner) for owner in ("ann", "bob")}
    since = jobs["ann"].created_at - dt.timedelta(minutes=1)

    async def ids(batches: AsyncIterator[Any]) -> list[str]:
        return [batch.job_id async for batch in batches]

    for owner, expected in (("ann", [jobs["ann"]]), ("local", []), (None, list(jobs.values()))):
        found = [str(job.id) for job in expected]
        idle = Listener()
        idle.put(messages.IDLE)
        idle.close()
        assert await ids(feed.of_all(pool, idle, owner=owner)) == found * 2
        assert await ids(feed.of_all(pool, _no_messages(), owner=owner, since=since)) == found
        [page] = [batch async for batch in feed.of_list(pool, _no_messages(), owner=owner, limit=9)]
        assert sorted(str(job.id) for job in page.jobs) == sorted(found)
        [batch] = [b async for b in feed.of_job(pool, _no_messages(), jobs["bob"].id, owner=owner)]
        assert isinstance(batch, feed.Snapshot if owner is None else feed.Deleted)


def _no_messages() -> Listener:
    listener = Listener()
    listener.close()
    return listener


async def test_owner_and_claim_of_a_message_are_not_in_the_events(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, running: Job
) -> None:
    async with (
        stream(client, f"/api/jobs/{running.id}/events") as one,
        stream(client, "/api/events") as every,
    ):
        received = await take(one, 1), await take(every, 1)
        await say(pool, redis, running, 0, "a")
        await finish(pool, redis, running)
        received = received[0] + await take(one, 2), received[1] + await take(every, 2)
    segment = {"id": 0, "start": 0.0, "end": 1.0, "text": "a"}
    assert [event[:2] for event in received[0] if event[0] == "segment"] == [("segment", segment)]
    whose = {"job_id": str(running.id)}
    assert [event[:2] for event in received[1] if event[0] == "segment"] == [("segment", whose | segment)]
    states = [data for events in received for name, data, _ in events if name != "segment"]
    assert all("claim" not in data for data in states)


async def test_stopping_the_app_ends_the_streams(
    client: TestClient, pool: asyncpg.Pool, running: Job
) -> None:
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        await take(events, 1)
        client.app[SERVICES].hub.end_listeners()  # type: ignore[union-attr]
        assert await to_end(events) == []


async def test_progress_of_a_heartbeat_is_in_the_snapshot(
    client: TestClient, pool: asyncpg.Pool, running: Job
) -> None:
    await beat(pool, running, 0.4)
    async with stream(client, f"/api/jobs/{running.id}/events") as events:
        [(_, data, _)] = await take(events, 1)
    assert (data["stage"], data["progress"]) == ("transcribe", 0.4)
    assert (await again(pool, running)).claim == running.claim
