"""The JSON endpoints, and errors as problem details everywhere."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
from typing import Any
from urllib.parse import unquote

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs import lifecycle, lookup, results, tickets
from stt.jobs.model import Job
from stt.outages import DatabaseUnavailable
from stt.storage import Storage
from stt.web.context import SERVICES
from tests.support.jobs import again, claim, complete, new
from tests.support.uploads import problem


@pytest.mark.parametrize("job_id", ["nonsense", "0b5c2d1e-3f4a-4b6c-8d7e-9f0a1b2c3d4e", "%00"])
async def test_a_bad_id_is_404(client: TestClient, job_id: str) -> None:
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("GET", "/download"), ("GET", "/events"), ("POST", "/cancel"),
        ("GET", "/peaks"),
    ):  # fmt: skip
        answer = await problem(client, method, f"/api/jobs/{job_id}{path}")
        assert (answer["status"], answer["code"]) == (404, "job_not_found")


async def test_an_unknown_address_and_method_are_problems(client: TestClient) -> None:
    assert (await problem(client, "GET", "/api/nothing"))["status"] == 404
    assert (await problem(client, "PUT", "/api/jobs"))["status"] == 405


async def test_a_person_gets_a_page_for_an_error(client: TestClient) -> None:
    async with client.get("/jobs/nonsense", headers={"Accept": "text/html"}) as response:
        assert (response.status, response.content_type) == (404, "text/html")


async def test_a_download_too_early_is_409(client: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    answer = await problem(client, "GET", f"/api/jobs/{job.id}/download?format=srt")
    assert (answer["status"], answer["code"], answer["job_status"]) == (409, "no_transcript", "pending")


async def test_an_unknown_format_is_422(client: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    answer = await problem(client, "GET", f"/api/jobs/{job.id}/download?format=exe")
    assert (answer["status"], answer["code"]) == (422, "bad_format")


async def test_a_download_is_an_attachment_named_after_the_upload(
    client: TestClient, pool: asyncpg.Pool
) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    await complete(pool, job, "grüß dich")
    await pool.execute("update jobs set original_filename = $1", 'Ü "1".mp3')
    async with client.get(f"/api/jobs/{job.id}/download?format=txt") as response:
        header = response.headers["Content-Disposition"]
        assert await response.text() == "grüß dich\n"
    assert header.startswith("attachment; ")
    assert unquote(header.split("UTF-8''")[1]) == 'Ü "1".txt'
    async with client.get(f"/api/jobs/{job.id}/download?format=json") as response:
        transcript = json.loads(await response.text())
    assert transcript["segments"] == [{"id": 0, "start": 0.0, "end": 1.0, "text": "grüß dich"}]


async def test_the_list_leaves_the_text_out_and_details_have_it(
    client: TestClient, pool: asyncpg.Pool
) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    await complete(pool, job)
    async with client.get("/api/jobs?status=completed") as response:
        [listed] = (await response.json())["jobs"]
    async with client.get(f"/api/jobs/{job.id}") as response:
        details = await response.json()
    assert set(details) - set(listed) == {"transcription_text"}
    assert details["transcription_text"] == "hello"
    assert not {"file_path", "claim", "worker", "options_hash"} & set(details)


@pytest.mark.parametrize(
    "query", ["status=odd", "limit=0", "limit=x", "limit=100000", "cursor=%F0%9F", "cursor=abc"]
)
async def test_a_bad_parameter_is_422(client: TestClient, query: str) -> None:
    assert (await problem(client, "GET", f"/api/jobs?{query}"))["status"] == 422


async def test_the_list_follows_its_cursor(client: TestClient, pool: asyncpg.Pool) -> None:
    made = [str((await new(pool)).id) for _ in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        async with client.get(f"/api/jobs?limit=2&cursor={cursor}") as response:
            page = await response.json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]


async def test_cancelling_twice_is_409(client: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    async with client.post(f"/api/jobs/{job.id}/cancel") as response:
        assert (await response.json())["status"] == "cancelled"
    answer = await problem(client, "POST", f"/api/jobs/{job.id}/cancel")
    assert (answer["status"], answer["code"]) == (409, "already_ended")


async def test_delete_removes_row_and_files(client: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    storage = client.app[SERVICES].storage  # type: ignore[index]
    await storage.write(job.file_path, b"sound")
    await storage.write(storage.result_key(job.id, 1), b"{}")
    async with client.delete(f"/api/jobs/{job.id}") as response:
        assert response.status == 204
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []
    assert await lookup.get(pool, job.id) is None


async def test_health_says_what_failed(client: TestClient) -> None:
    async with client.get("/health/ready", headers={"Host": "10.0.0.7"}) as response:
        assert response.status == 200
    incoming = client.app[SERVICES].storage.root / "incoming"  # type: ignore[index]
    incoming.rmdir()
    async with client.get("/health/ready") as response:
        assert response.status == 503
        assert "FileNotFoundError" in (await response.json())["checks"]["storage"]
    incoming.mkdir()


async def test_a_job_whose_files_cannot_be_removed_is_deleted_all_the_same(
    client: TestClient, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    job = await new(pool)
    monkeypatch.setattr(Storage, "delete_job", fail)
    async with client.delete(f"/api/jobs/{job.id}") as response:
        assert response.status == 204
    assert await lookup.get(pool, job.id) is None


async def test_a_download_of_what_is_deleted_meanwhile_is_404(
    client: TestClient, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await new(pool)

    async def deleted(*_: object) -> None:
        await lifecycle.request_cancel(pool, job.id)
        assert await lifecycle.delete(pool, job.id)

    monkeypatch.setattr(results, "latest_transcript", deleted)
    async with client.get(f"/api/jobs/{job.id}/download") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    "error",
    [asyncpg.CannotConnectNowError("the database system is starting up"), DatabaseUnavailable("no answer")],
)
async def test_a_request_while_the_database_is_away_is_503_with_retry_after(
    error: Exception, client: TestClient, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await new(pool)

    async def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(lookup, "get", refuse)
    async with client.get(f"/api/jobs/{job.id}") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")


async def test_what_a_page_may_load_is_told_to_the_browser(client: TestClient) -> None:
    async with client.get("/health/live") as response:
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert client.app[SERVICES].redis  # type: ignore[index]


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("secret detail"), TimeoutError("secret detail"), ConnectionError("secret detail")],
)
async def test_a_fault_of_ours_is_500_without_a_stack_trace(
    error: Exception, client: TestClient, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await again(pool, await new(pool))

    async def break_(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(lookup, "get", break_)
    async with client.get(f"/api/jobs/{job.id}") as response:
        assert response.status == 500
        assert "secret" not in await response.text()


async def retry(client: TestClient, job: Job, **options: Any) -> dict[str, Any]:
    async with client.post(f"/api/jobs/{job.id}/retry", json=options) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def test_a_failed_job_is_retried_and_keeps_what_it_had(
    client: TestClient, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    await new(pool, language="de", initial_prompt="Namen")
    job = await claim(pool)
    assert job
    await results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "a"}])
    await lifecycle.fail(pool, job, code="x", message="It failed.")
    again_ = await retry(client, job)
    assert (again_["status"], again_["attempt"], again_["error_code"]) == ("pending", 0, None)
    assert again_["options"] == {"initial_prompt": "Namen"}
    assert len(await tickets.waiting(redis)) == 1
    assert len(await results.spans(pool, await again(pool, job))) == 1
    assert await lifecycle.request_cancel(pool, job.id)
    await retry(client, job, language="fr")
    assert await results.spans(pool, await again(pool, job)) == []


async def test_a_completed_job_done_again_keeps_its_transcript_until_there_is_a_new_one(
    client: TestClient, pool: asyncpg.Pool
) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    await results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "old"}])
    await complete(pool, job, "old")
    await retry(client, job, priority="high")
    async with client.get(f"/api/jobs/{job.id}/download?format=txt") as response:
        assert await response.text() == "old\n"
    second = await claim(pool)
    assert second
    assert await results.spans(pool, second) == []
    await complete(pool, second, "new")
    async with client.get(f"/api/jobs/{job.id}/download?format=txt") as response:
        assert await response.text() == "new\n"
    assert await pool.fetchval("select count(*) from transcripts where job_id = $1", job.id) == 2


async def test_a_job_that_runs_is_not_retried(client: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    answer = await problem(client, "POST", f"/api/jobs/{job.id}/retry")
    assert (answer["status"], answer["code"]) == (409, "not_ended")
    answer = await problem(client, "POST", f"/api/jobs/{job.id}/retry", json={"task": "sing"})
    assert (answer["status"], answer["field"]) == (422, "task")


async def test_a_waiting_job_says_when_it_will_start(client: TestClient, pool: asyncpg.Pool) -> None:
    await new(pool)
    done = await claim(pool)
    assert done
    await complete(pool, done)
    await pool.execute("update jobs set duration_seconds = 100, claimed_at = completed_at - interval '10 s'")
    await new(pool)
    last = await new(pool)
    await pool.execute("update jobs set duration_seconds = 300 where status = 'pending'")
    async with client.get(f"/api/jobs/{last.id}") as response:
        body = await response.json()
    assert body["queue_position"] == 2
    wait = dt.datetime.fromisoformat(body["estimated_start_at"]) - last.created_at
    assert wait.total_seconds() == pytest.approx(30, abs=2)
