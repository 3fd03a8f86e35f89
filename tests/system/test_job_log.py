"""The log of whole jobs, as JSON, of the real roles with the fake engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.support.faults import Environ, Process, role, until, web
from tests.support.uploads import form

MARK = "Zw3rg"  # part of the file names that are sent
TEXT = "demonstration"  # what the fake engine recognises
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OF_ALL = {"timestamp", "level", "event", "logger", "role"}
OF_JOBS = {"request_id", "job_id", "owner", "attempt"}


def lines(process: Process) -> list[dict[str, Any]]:
    """What a role logged; every line is an object with the keys of all."""
    found = [json.loads(line) for line in process.log]
    for line in found:
        assert line.keys() >= OF_ALL, line
        assert TIME.fullmatch(line["timestamp"]), line
    return found


async def sent(session: aiohttp.ClientSession, tone: Path, request_id: str) -> str:
    """The id of a job that is completed."""
    data, headers = form(tone, f"{MARK} {request_id}.wav"), {"X-Request-ID": request_id}
    async with session.post("/api/jobs/upload", data=data, headers=headers) as answer:
        assert (answer.status, answer.headers["X-Request-ID"]) == (201, request_id)
        job_id = str((await answer.json())["id"])

    async def ended() -> bool:
        async with session.get(f"/api/jobs/{job_id}") as answer:
            job = await answer.json()
        assert "request_id" not in job
        assert job["status"] != "failed", job
        return bool(job["status"] == "completed")

    await until(ended)
    return job_id


async def test_every_line_of_a_job_names_it_and_its_request_and_none_its_file_or_text(
    environ: Environ, pool: asyncpg.Pool, tone: Path
) -> None:
    environ |= {"STT_LOG_FORMAT": "json", "STT_PORT": "0", "STT_LOG_LEVEL": "DEBUG"}
    async with role(environ, "tests.support.fake_worker") as worker, web(environ) as (serving, url):
        async with aiohttp.ClientSession(url) as session:
            jobs = {request: await sent(session, tone, request) for request in ("first", "second")}
        for process in (worker, serving):
            process.process.terminate()
            assert await process.ended(30) == 0
    said = lines(worker) + lines(serving)
    assert not [line for line in said if MARK in str(line) or TEXT in str(line)]
    for request, job_id in jobs.items():
        own = [line for line in said if job_id in line.values()]
        assert not [line for line in own if line["role"] != "web" and not line.keys() >= OF_JOBS]
        of_request = [line for line in said if line.get("request_id") == request]
        assert {line.get("job_id", job_id) for line in of_request} == {job_id}
        events = {(line["role"], line["event"]) for line in of_request if line.get("job_id") == job_id}
        assert events >= {
            ("web", "recording received"), ("worker", "attempt begins"), ("worker", "attempt ends"),
            ("engine", "model loaded"), ("engine", "engine output"),
        }  # fmt: skip
        assert {line["attempt"] for line in own if line["role"] in ("worker", "engine")} == {1}
        assert {line["owner"] for line in own if "owner" in line} == {"local"}
