"""Roles that an orchestrator starts before the migrations, and ends in the middle of an upload."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import Urls
from tests.support.places import SAMPLES
from tests.support.up import environment

SECONDS = 60  # for a busy machine
WAITS = b"waiting for migrations: run `stt migrate`"


@pytest.mark.parametrize("module", ["stt web", "workers.maintenance", "workers.transcriber"])
async def test_a_role_that_waits_for_migrations_says_so_and_ends_when_told_to(
    module: str, empty_database: str, servers: Urls, tmp_path: Path
) -> None:
    environ = environment(tmp_path, DATABASE_URL=empty_database, REDIS_URL=servers.redis)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", *module.split(), env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(SECONDS):
            lines = []
            while b"waiting for migrations: run `stt migrate`" not in (
                line := await process.stderr.readline()
            ):
                assert line, b"".join(lines)
                lines.append(line)
            process.send_signal(signal.SIGTERM)
            rest = await process.stderr.read()
            # Not by the signal itself, which the first process of a container ignores.
            assert await process.wait() == 0
        assert b"Traceback" not in rest + b"".join(lines)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_role_that_waits_for_redis_says_so_and_ends_when_told_to(
    database_url: str, tmp_path: Path
) -> None:
    environ = environment(tmp_path, DATABASE_URL=database_url, REDIS_URL=f"unix://{tmp_path}/absent.sock")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "workers.maintenance", env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(SECONDS):
            while b"waiting for Redis" not in (line := await process.stderr.readline()):
                assert line, "it has ended"
            process.send_signal(signal.SIGTERM)
            rest = await process.stderr.read()
            assert await process.wait() == 0
        assert b"Traceback" not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(("seconds", "ends"), [("60", "stored"), ("0.1", "broken off")])
async def test_a_web_app_that_is_told_to_end_lets_uploads_go_on_for_so_long(
    seconds: str, ends: str, database_url: str, servers: Urls, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    environ = environment(
        tmp_path, DATABASE_URL=database_url, REDIS_URL=servers.redis, SHUTDOWN_SECONDS=seconds,
        READY_FD=str(writing),
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "stt", "web", env=environ, pass_fds=[writing]
    )
    os.close(writing)
    try:
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as session:
            with os.fdopen(reading) as pipe:
                url = (await asyncio.to_thread(pipe.readline)).strip()
            assert await _upload(session, url, process, tmp_path, ends == "broken off") == ends
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _upload(
    session: aiohttp.ClientSession,
    url: str,
    process: asyncio.subprocess.Process,
    folder: Path,
    too_slow: bool,
) -> str:
    """Upload into `folder`; in the middle of it the web app is told to end.

    Args:
        session: The client.
        url: Of the web app.
        process: The web app.
        folder: Its data folder.
        too_slow: Whether the rest is sent only after the web app has ended.

    Returns:
        "stored", "broken off", or the error that it was answered with.
    """
    sample = next(SAMPLES.glob("en*.flac")).read_bytes()

    async def body() -> AsyncIterator[bytes]:
        yield sample[:1000]
        while not any((folder / "incoming").iterdir()):  # until the upload is being received
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        while await _listens(url):
            await asyncio.sleep(0.02)
        if too_slow:
            await process.wait()
        yield sample[1000:]

    form = aiohttp.FormData()
    form.add_field("file", body(), filename="talk.flac")
    try:
        async with session.post(f"{url}/api/jobs/upload", data=form) as response:
            return "stored" if response.status == 201 else await response.text()
    except aiohttp.ClientError:
        return "broken off"


async def _listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
