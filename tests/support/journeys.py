"""What a client of the whole service does, from the upload to the last download."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.places import SAMPLES
from tests.support.uploads import form

Session = aiohttp.ClientSession


def words(text: str) -> str:
    """The words alone, in lower case: commas and capitals may differ between encodings of the same speech."""
    return " ".join(re.findall(r"\w+", text.lower()))


async def upload(session: Session, path: Path, **fields: str) -> dict[str, Any]:
    async with session.post("/api/jobs/upload", data=form(path, path.name, **fields)) as response:
        job: dict[str, Any] = await response.json()
        assert response.status == 201, job
        return job


async def get(session: Session, job: dict[str, Any]) -> dict[str, Any]:
    async with session.get(f"/api/jobs/{job['id']}") as response:
        found: dict[str, Any] = await response.json()
        return found


async def download(session: Session, job: dict[str, Any], format_: str) -> str:
    async with session.get(f"/api/jobs/{job['id']}/download?format={format_}") as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def listen(session: Session, job: dict[str, Any]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    async with session.get(f"/api/jobs/{job['id']}/events") as response:
        name = ""
        async for line in response.content:
            field, _, value = line.decode().rstrip("\r\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


async def ended(session: Session, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        async for _ in listen(session, job):
            pass
    return await get(session, job)


async def first(
    session: Session, job: dict[str, Any], wanted: Callable[[str, dict[str, Any]], bool]
) -> dict[str, Any]:
    """Wait for an event of a job."""
    async with asyncio.timeout(60):
        async for name, data in listen(session, job):
            if wanted(name, data):
                return data
    raise AssertionError("the job ended without it")


def english() -> Path:
    [path] = SAMPLES.glob("en*.flac")
    return path
