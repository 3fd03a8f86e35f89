"""The id of a request: in its answer, in its lines of the log, and in the row of the job that it starts."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest
from aiohttp.test_utils import TestClient

from stt.web.request_ids import HEADER
from tests.support import raw
from tests.support.uploads import form

OWN = re.compile(r"[0-9a-f]{32}")
MARK = "Zw3rg"  # what clients send and no log may have


async def test_a_valid_id_comes_back_and_stays_with_the_job(
    client: TestClient, pool: asyncpg.Pool, tone: Path
) -> None:
    async with client.post("/api/jobs/upload", data=form(tone), headers={HEADER: "proxy-1.A_b"}) as answer:
        assert answer.headers[HEADER] == "proxy-1.A_b"
        job = await answer.json()
    assert await pool.fetchval("select request_id from jobs") == "proxy-1.A_b"
    assert "request_id" not in job
    await pool.execute("update jobs set status = 'failed', completed_at = now()")
    async with client.post(f"/api/jobs/{job['id']}/retry", headers={HEADER: "again"}) as answer:
        assert answer.status == 200
    assert await pool.fetchval("select request_id from jobs") == "again"


@pytest.mark.parametrize(
    "given", ["", "a b", "ä", "x" * 65, "<b>"], ids=["none", "space", "umlaut", "long", "html"]
)
async def test_any_other_id_is_replaced(given: str, client: TestClient) -> None:
    async with client.get("/health/live", headers={HEADER: given}) as answer:
        assert OWN.fullmatch(answer.headers[HEADER])


@pytest.mark.parametrize("path", ["/", "/nowhere", "/api/jobs/nonsense", "/static/app.css", "/api/events"])
async def test_every_answer_has_one(path: str, client: TestClient) -> None:
    async with client.get(path) as answer:
        assert OWN.fullmatch(answer.headers[HEADER])


async def test_what_the_parser_refuses_has_one(client: TestClient) -> None:
    answer = await raw.ask(client, b"nonsense\r\n\r\n")
    assert OWN.fullmatch(answer.headers[HEADER.lower()])


async def test_two_requests_of_a_connection_have_different_ids(client: TestClient) -> None:
    found = []
    for _ in range(2):
        async with client.get("/health/live") as answer:
            found.append(answer.headers[HEADER])
    assert found[0] != found[1]


async def test_no_line_of_the_web_app_has_a_name_or_a_value_that_was_sent(
    client: TestClient, pool: asyncpg.Pool, tone: Path
) -> None:
    name = f"{MARK}.wav"
    with raw.logged() as log:
        async with client.post("/api/jobs/upload", data=form(tone, name)) as answer:
            job = (await answer.json())["id"]
        for data in (form(tone, name, task=MARK), form(tone, name, **{MARK: "1"}), form(None)):
            async with client.post("/api/jobs/upload", data=data) as answer:
                assert answer.status == 422
        async with client.post(f"/api/jobs/{job}/cancel?{MARK}") as answer:
            assert answer.status == 200
        async with client.post(f"/api/jobs/{job}/retry", json={"hotwords": MARK}) as answer:
            assert answer.status == 200
        async with client.delete(f"/api/jobs/{job}") as answer:
            assert answer.status == 204
    log.check()
    assert MARK not in str([record.msg for record in log.records])
    own = [record.msg for record in log.records if isinstance(record.msg, dict) and record.msg.get("job_id")]
    assert [line["event"] for line in own] == [
        "recording received", "cancellation requested", "job restarted", "job deleted",
    ]  # fmt: skip
    assert all(line["job_id"] == job and OWN.fullmatch(line["request_id"]) for line in own)
    assert len({line["request_id"] for line in own}) == 4
