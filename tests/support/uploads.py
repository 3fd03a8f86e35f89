"""Uploads as a browser sends them, and what they leave in the storage."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient

from stt.storage import Storage


def form(path: Path | None, name: str = "talk.wav", **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for key, value in fields.items():
        data.add_field(key, value)
    if path:
        data.add_field("file", io.BytesIO(path.read_bytes()), filename=name)
    return data


def stored(storage: Storage) -> list[Path]:
    return [path for path in storage.root.rglob("*") if path.is_file()]


async def send(client: TestClient, data: object, **kwargs: object) -> tuple[int, dict]:
    async with client.post("/api/jobs/upload", data=data, **kwargs) as response:
        return response.status, await response.json(content_type=None)


async def until(true: object, seconds: float = 5) -> None:
    """Wait for an effect that has no event of its own."""
    async with asyncio.timeout(seconds):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def problem(client: TestClient, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
    async with client.request(method, path, **kwargs) as response:
        assert response.content_type == "application/problem+json"
        body: dict[str, Any] = await response.json(content_type=None)
        assert body["status"] == response.status
        assert {"type", "title", "detail", "code"} <= set(body)
        return body
