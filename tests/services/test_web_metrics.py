"""The metrics of the web app: each moves with what it counts, and their series stay few."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.storage import Storage, StorageFull
from stt.web.context import SERVICES
from tests.support import metrics
from tests.support.faults import until
from tests.support.jobs import new
from tests.support.raw import ask

Client = TestClient[Any, Any]
REQUESTS, SECONDS = "stt_http_requests_total", "stt_http_request_duration_seconds_count"
UPLOAD = "/api/jobs/upload"


class Change:
    """How much metrics grow in the block."""

    def __enter__(self) -> Change:
        self._before = metrics.of_this_process()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = metrics.of_this_process()

    def of(self, name: str, **labels: str) -> float:
        return self._after.sum(name, **labels) - self._before.sum(name, **labels)


async def settled(name: str, value: float = 0) -> None:
    """What the server does after its last byte is done."""
    await until(lambda: metrics.of_this_process().sum(name) == value, 10)


def form(path: Path, **fields: str) -> aiohttp.FormData:
    made = aiohttp.FormData(fields)
    made.add_field("file", path.read_bytes(), filename="a secret.wav")
    return made


async def test_requests_are_counted_by_the_pattern_of_their_address(
    client: Client, pool: asyncpg.Pool
) -> None:
    job = await new(pool)
    with Change() as change:
        for path in (f"/api/jobs/{job.id}", f"/api/jobs/{uuid4()}", "/nowhere"):
            async with client.get(path) as response:
                await response.read()
        async with client.put("/api/jobs") as response:
            assert response.status == 405
        await settled("stt_http_requests_in_progress")
    route = "/api/jobs/{id}"
    assert change.of(REQUESTS, method="GET", route=route, status="200") == 1
    assert change.of(REQUESTS, method="GET", route=route, status="404") == 1
    assert change.of(SECONDS, method="GET", route=route) == 2
    assert change.of(REQUESTS, method="GET", route="(none)", status="404") == 1
    assert change.of(REQUESTS, method="PUT", route="(none)", status="405") == 1


async def test_strangers_make_no_series(client: Client) -> None:
    async def send(number: int) -> None:
        async with client.request(f"TRY{number % 7}", f"/{uuid4()}/{number}") as response:
            await response.read()

    await send(0)
    before = metrics.of_this_process().series()
    for number in range(100):
        await send(number)
    assert metrics.of_this_process().series() == before
    assert metrics.of_this_process().sum(REQUESTS, method="other", route="(none)") >= 101


async def test_a_request_that_cannot_be_read_is_counted(client: Client) -> None:
    with Change() as change:
        await ask(client, b"GET / HTTP/1.1\r\nHost\r\n\r\n")
        await settled("stt_http_requests_in_progress")
    assert change.of(REQUESTS, route="(none)", status="400") == 1


async def test_uploads_are_counted_with_their_bytes_and_how_they_end(
    client: Client, tone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("no sound " * 1000)
    with Change() as change:
        async with client.post(UPLOAD, data=form(tone)) as response:
            assert response.status == 201
        async with client.post(UPLOAD, data=form(text)) as response:
            assert response.status == 415

        def full(*_: object) -> None:
            raise StorageFull

        monkeypatch.setattr(Storage, "check_room", full)
        async with client.post(UPLOAD, data=form(tone)) as response:
            assert response.status == 507
    for outcome in ("accepted", "refused", "failed"):
        assert change.of("stt_uploads_total", outcome=outcome) == 1, outcome
    assert change.of("stt_upload_bytes_total") == tone.stat().st_size + text.stat().st_size
    assert change.of("stt_tickets_total", action="enqueued") == 1
    told = metrics.of_this_process()
    assert not any("secret" in value for value in told.label_values())


async def test_event_streams_are_listeners_and_no_durations(client: Client, redis: ArqRedis) -> None:
    route = "/api/events"
    with Change() as change:
        async with client.get(route):
            await settled("stt_event_listeners", 1)
            before = metrics.of_this_process().sum("stt_event_resyncs_total")
            await redis.client_kill_filter(_type="pubsub")
            await until(lambda: metrics.of_this_process().sum("stt_event_resyncs_total") == before + 1, 10)
        client.app[SERVICES].hub.end_listeners()  # type: ignore[index]
        await settled("stt_event_listeners")
        await settled("stt_http_requests_in_progress")
    assert change.of(REQUESTS, route=route, status="200") == 1
    assert change.of(SECONDS, route=route) == 0


async def test_connections_and_the_disk_are_read_at_each_scrape(client: Client, storage: Storage) -> None:
    pool: asyncpg.Pool = client.app[SERVICES].pool  # type: ignore[index]
    connections = "stt_db_pool_connections"
    before = metrics.of_this_process()
    assert before.sum("stt_db_pool_connections_max") == 10
    async with pool.acquire():
        assert metrics.of_this_process().sum(connections, state="in_use") == 1
    after = metrics.of_this_process()
    assert after.sum(connections, state="in_use") == 0
    assert after.sum(connections, state="idle") >= 1
    assert 0 < after.sum("stt_storage_free_bytes") <= after.sum("stt_storage_size_bytes")


async def test_a_disk_that_is_away_does_not_break_the_scrape(client: Client, storage: Storage) -> None:
    away = storage.root.rename(storage.root.with_name("away"))
    assert "stt_storage_free_bytes NaN" in metrics.of_this_process().text
    await asyncio.to_thread(away.rename, storage.root)


async def test_prometheus_has_nothing_against_the_names(client: Client) -> None:
    async with client.get("/api/jobs") as response:
        assert response.status == 200
    metrics.check_with_promtool(metrics.of_this_process())
