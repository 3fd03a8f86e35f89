"""Clients that are slow, stall, stop reading or go away: they keep nothing, and the log has one line."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from stt.settings import Settings
from stt.web.connections import Connection, Runner
from stt.web.context import SERVICES
from tests.support import raw
from tests.support.jobs import claim, complete, new
from tests.support.raw import SECONDS, SECRET, Log, logged, post
from tests.support.uploads import stored, until

HEAD, WINDOW, RATE = 0.4, 0.4, 2000
TYPE = "Content-Type: multipart/form-data; boundary=x"
FILE = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{SECRET}.wav"\r\n\r\n'.encode()
END = b"\r\n--x--\r\n"


@pytest.fixture
def hasty(environ: dict[str, str]) -> None:
    environ |= {
        "STT_HEAD_SECONDS": str(HEAD),
        "STT_STALL_SECONDS": str(WINDOW),
        "STT_LEAST_BYTES_PER_SECOND": str(RATE),
    }


@pytest.fixture
async def hurried(hasty: None, client: TestClient) -> TestClient:
    return client


@pytest.fixture
async def log(client: TestClient) -> AsyncIterator[Log]:
    with logged() as log:
        yield log


async def drip(writer: asyncio.StreamWriter, data: bytes, pause: float) -> None:
    """A byte at a time, until the other side has had enough."""
    for n in range(len(data)):
        if writer.transport.is_closing():
            return
        writer.write(data[n : n + 1])
        await asyncio.sleep(pause)  # this is the client's speed, nothing is waited for


async def test_a_connection_in_which_nothing_comes_is_ended(hurried: TestClient, log: Log) -> None:
    async with raw.connect(hurried) as (reader, _), asyncio.timeout(SECONDS):
        assert await reader.read() == b""
    assert log.lines == []


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + SECRET.encode()])
async def test_half_a_head_is_told_that_it_is_late(begun: bytes, hurried: TestClient, log: Log) -> None:
    async with raw.connect(hurried) as (reader, writer):
        writer.write(begun)
        found = await raw.answer(reader)
        assert found
        assert found.problem()["code"] == "late_head"
        found.check()
        assert await reader.read() == b""
    log.check()
    assert log.lines == ["INFO a client did not send the head of its request in time"]


async def test_a_head_that_never_ends_is_given_up_though_bytes_keep_coming(hurried: TestClient) -> None:
    """Also the second one of a connection."""
    async with raw.connect(hurried) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        first = await raw.answer(reader)
        assert first
        assert first.status == 200
        begun = asyncio.get_running_loop().time()
        dripping = asyncio.create_task(drip(writer, b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000, HEAD / 8))
        second = await raw.answer(reader)
        assert second
        assert second.problem()["code"] == "late_head"
        assert asyncio.get_running_loop().time() - begun < HEAD * 8
        dripping.cancel()


@pytest.mark.parametrize("pause", [None, WINDOW / 20], ids=["stalls", "drips"])
async def test_a_body_below_the_least_rate_is_given_up_and_its_file_goes(
    pause: float | None, hurried: TestClient, log: Log
) -> None:
    async with raw.connect(hurried) as (reader, writer):
        writer.write(post("/api/jobs/upload", FILE + bytes(5000), TYPE, length=10_000))
        await until(lambda: stored(hurried.app[SERVICES].storage))
        dripping = asyncio.create_task(drip(writer, bytes(4000), pause)) if pause else None
        found = await raw.answer(reader)
        assert found
        assert found.problem()["code"] == "too_slow"
        found.check()
        if dripping:
            dripping.cancel()
        assert stored(hurried.app[SERVICES].storage) == []
    log.check()
    assert log.lines == ["INFO POST /api/jobs/upload: the client stopped sending the body"]


async def test_a_body_that_nobody_reads_holds_no_connection(hurried: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    async with raw.connect(hurried) as (reader, writer):
        writer.write(post(f"/jobs/{job.id}/cancel", b"a", length=10_000))
        found = await raw.answer(reader)
        assert found
        assert found.status == 303
        async with asyncio.timeout(SECONDS * 2):
            assert await reader.read() == b""


async def test_an_honest_slow_client_is_waited_for(hurried: TestClient, tone: Path, log: Log) -> None:
    """It takes many windows, each a little above the least rate."""
    body = FILE + tone.read_bytes() + END
    async with raw.connect(hurried) as (reader, writer):
        writer.write(post("/api/jobs/upload", b"", TYPE, length=len(body)))
        step = int(RATE * 4 * WINDOW / 8)
        begun = asyncio.get_running_loop().time()
        for n in range(0, len(body), step):
            writer.write(body[n : n + step])
            await asyncio.sleep(WINDOW / 8)  # its speed
        assert asyncio.get_running_loop().time() - begun > 3 * WINDOW
        found = await raw.answer(reader)
        assert found
        assert found.status == 201
    log.check()


@pytest.fixture
def off(environ: dict[str, str]) -> None:
    environ |= {"STT_HEAD_SECONDS": "0", "STT_STALL_SECONDS": "0.1", "STT_LEAST_BYTES_PER_SECOND": "0"}


async def test_both_limits_can_be_turned_off(off: None, client: TestClient, tone: Path) -> None:
    body = FILE + tone.read_bytes() + END
    request = post("/api/jobs/upload", body, TYPE)
    async with raw.connect(client) as (reader, writer):
        for piece in (request[:20], request[20:300], request[300:]):
            writer.write(piece)
            await asyncio.sleep(0.3)  # longer than any limit would be
        found = await raw.answer(reader)
        assert found
        assert found.status == 201


# Clients that do not read


def stubborn(client: TestClient) -> socket.socket:
    """A connection whose system takes next to nothing that its program does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((client.host, client.port))
    return connection


async def long_transcript(pool: asyncpg.Pool) -> str:
    await new(pool)
    job = await claim(pool)
    assert job
    await complete(pool, job, "word " * 1_500_000)
    return str(job.id)


def connections(client: TestClient) -> list[Connection]:
    return client.server.runner.server.connections  # type: ignore[union-attr,return-value]


async def test_a_client_that_stops_reading_a_download_is_let_go(
    hurried: TestClient, pool: asyncpg.Pool, log: Log
) -> None:
    job = await long_transcript(pool)
    connection = stubborn(hurried)
    connection.sendall(f"GET /api/jobs/{job}/download HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await until(lambda: connections(hurried), SECONDS)
    await until(lambda: not connections(hurried), SECONDS)
    connection.close()
    log.check()
    assert log.lines == ["INFO GET /api/jobs/{id}/download: the client stopped reading the answer"]


async def test_a_file_that_is_not_read_is_not_sent_for_ever(
    tmp_path: Path, hasty: None, settings: Settings
) -> None:
    """Files go past the transport."""
    big = tmp_path / "big"
    big.write_bytes(bytes(50_000_000))

    async def file(_: web.Request) -> web.FileResponse:
        return web.FileResponse(big)

    app = web.Application()
    app.add_routes([web.get("/", file)])
    runner = Runner(app, settings)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(runner.addresses[0][:2])
    connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(lambda: runner.server.connections, SECONDS)  # type: ignore[union-attr]
    await until(lambda: not runner.server.connections, SECONDS)  # type: ignore[union-attr]
    connection.close()
    await runner.cleanup()


# Clients that go away


def reset(writer: asyncio.StreamWriter) -> None:
    """The connection ends as when the program is killed with bytes unread."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.fixture
def headers() -> Iterator[str]:
    yield f"Host: 127.0.0.1\r\nX-Thing: {SECRET}\r\nCookie: a={SECRET}\r\n\r\n"


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_goes_away_is_one_line(
    how: str, client: TestClient, pool: asyncpg.Pool, headers: str, log: Log
) -> None:
    """Of an upload, a stream of events, a page's stream, and a download."""
    job = await long_transcript(pool)
    waiting = (await new(pool)).id
    upload = post(f"/api/jobs/upload?{SECRET}", FILE + SECRET.encode() * 99, TYPE, length=10**6)
    for request, place in [
        (upload, "POST /api/jobs/upload"),
        (f"GET /api/jobs/{waiting}/events?{SECRET} HTTP/1.1\r\n{headers}", "GET /api/jobs/{id}/events"),
        (f"GET /api/events?{SECRET} HTTP/1.1\r\n{headers}", "GET /api/events"),
        (f"GET /stream?state={SECRET} HTTP/1.1\r\n{headers}", "GET /stream"),
        (f"GET /jobs/{waiting}/stream?{SECRET} HTTP/1.1\r\n{headers}", "GET /jobs/{id}/stream"),
        (f"GET /api/jobs/{job}/download?{SECRET} HTTP/1.1\r\n{headers}", "GET /api/jobs/{id}/download"),
    ]:
        log.records.clear()
        async with raw.connect(client) as (reader, writer):
            writer.write(request if isinstance(request, bytes) else request.encode())
            if request is upload:
                await until(lambda: stored(client.app[SERVICES].storage))
            else:
                assert await raw.head(reader)
            if how == "reset":
                reset(writer)
            else:
                writer.close()
        await until(lambda: log.records and not connections(client), SECONDS)
        log.check()
        [line] = log.lines
        assert line.startswith(f"INFO {place}: the client "), line
        assert stored(client.app[SERVICES].storage) == []


async def test_a_page_whose_client_is_gone_is_one_line(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, headers: str, log: Log
) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def slow(*_: object, **__: object) -> tuple[list[object], None]:
        asked.set()
        await gone.wait()
        return [], None

    monkeypatch.setattr("stt.jobs.lookup.list_page", slow)
    async with raw.connect(client) as (_, writer):
        writer.write(f"GET /jobs?q={SECRET} HTTP/1.1\r\n{headers}".encode())
        await asyncio.wait_for(asked.wait(), SECONDS)
        reset(writer)
    await until(lambda: log.records, SECONDS)
    gone.set()
    await until(lambda: not connections(client), SECONDS)
    log.check()
    assert log.lines == ["INFO GET /jobs: the client went away"]
