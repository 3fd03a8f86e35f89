"""What a test needs to read pages and their streams as a browser does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

HTML = {"Accept": "text/html"}
EVIL = '<img src=x onerror="alert(1)">.mp3'
Event = tuple[str, str, str | None]


async def get(client: TestClient, path: str, status: int = 200, **headers: str) -> str:
    async with client.get(path, headers={**HTML, **headers}) as response:
        assert response.status == status
        assert response.content_type == "text/html"
        return await response.text()


async def post(client: TestClient, path: str, **headers: str) -> ClientResponse:
    response = await client.post(path, headers={**HTML, **headers}, allow_redirects=False)
    await response.read()
    return response


@asynccontextmanager
async def stream(
    client: TestClient, path: str, last: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    async with client.get(path, headers={"Last-Event-ID": last} if last else {}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = _events(response)
        async with asyncio.timeout(20):
            yield events
        await events.aclose()


async def _events(response: ClientResponse) -> AsyncIterator[Event]:
    name, data, number = "message", [], None
    async for line in response.content:
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            number = value
        elif not field and data:
            yield name, "\n".join(data), number
            name, data, number = "message", [], None


def address(page: str) -> str:
    """Where a page's stream is."""
    found = re.search(r'sse-connect="([^"]+)"', page)
    assert found
    return found[1].replace("&amp;", "&")


class _Audit(HTMLParser):
    """What Content-Security-Policy would refuse, and what a screen reader would miss."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.headings = 0
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.headings += tag == "h1"
        self.images += tag == "img"
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.ids += [value for name, value in attrs if name == "id" and value]


def audit(page: str) -> None:
    seen = _Audit()
    seen.feed(page)
    assert seen.inline == []
    assert seen.images == 0  # we have none: it would come from a name or a text
    assert seen.headings == 1
    assert len(seen.ids) == len(set(seen.ids))
