"""Real services for every test: PostgreSQL and Valkey once a session, a database of its own for each test."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import struct
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import numpy as np
import psutil
import pytest
from aiohttp.test_utils import TestClient, TestServer
from arq import ArqRedis

from stt import db, logs
from stt.jobs import tickets
from stt.ops.embedded.servers import servers as embedded_servers
from stt.settings import Settings, load
from stt.storage import Storage
from stt.web.app import create_app
from stt.web.connections import Runner
from stt.web.context import SETTINGS
from tests.support import debian
from tests.support.audio import decode, write_wav
from tests.support.journeys import english
from tests.support.places import AUDIO, ROOT
from tests.support.up import private_folder
from workers.audio.sound import RATE

# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

logs.configure()  # without it structlog prints

TESTS = Path(__file__).resolve().parent

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("embedded", "debian"),
        default="embedded",
        help="Which PostgreSQL and Redis the tests use: those that stt brings, or Debian's 15 and 7.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder (unit, services, system), and put chaos last."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])
    items.sort(key=lambda item: item.get_closest_marker("chaos") is not None)


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """Real speech that is not part of this repository."""
    if not AUDIO.is_dir():
        pytest.skip("../shared/audio is not here")
    return AUDIO


@dataclass(frozen=True)
class Urls:
    database: str  # of the template
    redis: str


@pytest.fixture(scope="session")
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[Urls]:
    """Those that stt brings, or with `--servers=debian` what its containers run."""
    chosen = request.config.getoption("--servers")
    if chosen == "debian" and (packages := debian.missing()):
        pytest.skip(packages)
    with private_folder() as folder:
        settings = load({"STT_DATA_DIR": str(folder)}, Path("/nonexistent"))
        running = debian.servers(folder) if chosen == "debian" else embedded_servers(settings)
        async with running as (database_url, redis_url):
            await db.migrate(database_url)
            await _without_fsync(database_url)
            yield Urls(database_url, redis_url)


async def _without_fsync(url: str) -> None:
    """Hundreds of databases are made and dropped here; none has to outlive a power cut."""
    connection = await asyncpg.connect(url)
    await connection.execute("alter system set fsync = off")
    await connection.execute("select pg_reload_conf()")
    await connection.close()


@pytest.fixture
async def empty_database(servers: Urls) -> AsyncIterator[str]:
    """The URL of a database without any table."""
    async with _Database(servers, "template1") as url:
        yield url


@pytest.fixture
async def database_url(servers: Urls) -> AsyncIterator[str]:
    """The URL of a migrated, empty database."""
    async with _Database(servers, "stt") as url:
        yield url


class _Database:
    def __init__(self, servers: Urls, template: str) -> None:
        self.template, self.name = template, f"test_{next(_numbers)}"
        self.admin = servers.database.replace("/stt?", "/postgres?")
        self.url = servers.database.replace("/stt?", f"/{self.name}?")

    async def __aenter__(self) -> str:
        await self._run(f"create database {self.name} template {self.template}")
        return self.url

    async def __aexit__(self, *_: object) -> None:
        await self._run(f"drop database {self.name} with (force)")

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(self.admin)
        await connection.execute(statement)
        await connection.close()


@pytest.fixture
def environ(tmp_path: Path, servers: Urls, database_url: str) -> dict[str, str]:
    """What a process under test is started with; a test may add to it before it asks for settings."""
    return {
        "STT_DATA_DIR": str(tmp_path / "data"),
        "STT_DATABASE_URL": database_url,
        "STT_REDIS_URL": servers.redis,
        "STT_LEASE_SECONDS": "5",
    }


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    return load(environ, Path("/nonexistent"))


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await db.create_pool(database_url) as pool:
        yield pool


@pytest.fixture
async def redis(servers: Urls) -> AsyncIterator[ArqRedis]:
    redis = await tickets.connect(servers.redis)
    await redis.flushall()
    yield redis
    await redis.aclose()


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return Storage(settings.storage_dir)


@pytest.fixture
async def client(settings: Settings, redis: ArqRedis) -> AsyncIterator[TestClient]:
    """The real app on a real socket; no worker runs."""
    async with TestClient(AppServer(create_app(settings))) as client:
        yield client


class AppServer(TestServer):
    """aiohttp's server for tests, with the connections that the service has."""

    async def _make_runner(self, **kwargs: Any) -> Runner:
        del kwargs["handler_cancellation"]  # the service has none
        return Runner(self.app, self.app[SETTINGS], **kwargs)


@pytest.fixture
def tone(tmp_path: Path) -> Iterator[Path]:
    """A second of sound that is nobody speaking."""
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = (int(8000 * math.sin(2 * math.pi * 440 * n / 16000)) for n in range(16000))
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return path


@pytest.fixture(scope="session")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minutes of real speech: the English sample again and again, as one WAV file."""
    once = np.concatenate([decode(english()), np.zeros(RATE, np.float32)])
    return write_wav(tmp_path_factory.mktemp("long") / "long.wav", np.tile(once, 7))


@dataclass(frozen=True)
class Live:
    """A whole service in processes of its own, with a real worker."""

    url: str
    data_dir: Path
    supervisor: subprocess.Popen[str]

    def role(self, name: str) -> list[psutil.Process]:
        """Its processes called `stt <name>`, as `ps` shows them."""
        family = psutil.Process(self.supervisor.pid).children(recursive=True)
        return [process for process in family if _title(process).startswith(f"stt {name}")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextlib.contextmanager
def serving(data_dir: Path, **more: str) -> Iterator[Live]:
    """Run `stt up` until the block ends; it must then end by itself, and cleanly."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("STT_")}
    environ |= {"STT_DATA_DIR": str(data_dir), "STT_PORT": "0", "STT_LEASE_SECONDS": "5", **more}
    process = subprocess.Popen(
        [sys.executable, "-m", "stt", "up"], env=environ, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready: "), "the service did not start: its log is above"
        yield Live(ready.removeprefix("ready: ").strip(), data_dir, process)
    finally:
        process.terminate()
        ended = process.wait(15)
        process.stdout.close()
    assert ended == 0


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """A service that the tests of whole journeys share; short spans, so that a minute has several."""
    with private_folder() as folder, serving(folder, STT_SPAN_SECONDS="20") as service:
        yield service


@pytest.fixture
async def session(live: Live) -> AsyncIterator[aiohttp.ClientSession]:
    """HTTP to the live service."""
    async with aiohttp.ClientSession(live.url, timeout=aiohttp.ClientTimeout(120)) as session:
        yield session
