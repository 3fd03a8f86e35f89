"""Requests byte by byte, for what no HTTP client would send."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp.test_utils import TestClient

from stt.web import guard

SECONDS = 10  # after so long a test would wait for ever
SECRET = "s3cr3t"  # what clients write that no log may have


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"].startswith("application/problem+json"), self
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        return problem

    def check(self) -> None:
        """What holds of every answer to a client's mistake, and of every other one."""
        assert self.status < 500, self
        for name, value in guard.HEADERS.items():
            assert self.headers.get(name.lower()) == value, (name, self)
        if self.status >= 400 and self.status not in (412, 416):  # these of files have headers alone
            kind = self.headers.get("content-type", "").split(";")[0]
            assert kind in ("application/problem+json", "text/html"), self


@asynccontextmanager
async def connect(client: TestClient) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def head(reader: asyncio.StreamReader) -> Answer | None:
    """The status and the headers of the next answer; None where the connection ends without one."""
    while True:
        try:
            async with asyncio.timeout(SECONDS):
                block = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None
        first, *lines = block.decode("latin-1").strip().split("\r\n")
        status = int(first.split(" ")[1])
        if status >= 200:
            return Answer(status, {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, b"")


async def answer(reader: asyncio.StreamReader) -> Answer | None:
    """The next answer, with as much of a body as its length says."""
    found = await head(reader)
    if found is None:
        return None
    async with asyncio.timeout(SECONDS):
        body = await reader.readexactly(int(found.headers.get("content-length", "0")))
    return Answer(found.status, found.headers, body)


async def ask(client: TestClient, request: bytes) -> Answer:
    """Send one request and read the answer."""
    async with connect(client) as (reader, writer):
        writer.write(request)
        found = await answer(reader)
        assert found, "no answer"
        return found


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A whole request with a body, `length` being what its Content-Length claims."""
    claimed = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {claimed}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Log(logging.Handler):
    """Everything that is logged, also by libraries."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [_line(record) for record in self.records]

    def check(self) -> None:
        """No traceback, no warning, no byte of a request."""
        for record in self.records:
            text = record.getMessage()
            if record.exc_info:
                text += "".join(traceback.format_exception(record.exc_info[1]))
            assert not record.exc_info and record.levelno <= logging.INFO, text
            assert SECRET not in text


def _line(record: logging.LogRecord) -> str:
    """Level, request and event."""
    if not isinstance(record.msg, dict):  # of a library
        return f"{record.levelname} {record.getMessage()}"
    request = " ".join(record.msg[key] for key in ("method", "route") if record.msg.get(key))
    return (
        f"{record.levelname} {request}: {record.msg['event']}"
        if request
        else f"{record.levelname} {record.msg['event']}"
    )


@contextmanager
def logged() -> Iterator[Log]:
    log, root = Log(), logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.INFO)
    try:
        yield log
    finally:
        root.removeHandler(log)
        root.setLevel(level)
