"""The roles as compose files start them: real programs with their commands, environments and health checks.

PostgreSQL 15 and Redis 7 are Debian's, with the flags of the files. What containers bring beside (users,
networks, a read-only root, limits) is not tested here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from stt import db
from stt.jobs import tickets
from stt.jobs.model import Status
from stt.storage import Storage
from tests.support import debian, journeys
from tests.support.containers import Machine, machine
from tests.support.deployment import Container, compose, kubernetes
from tests.support.faults import begun, script
from tests.support.jobs import again
from tests.support.places import ROOT
from tests.support.up import private_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(debian.missing()), reason=debian.missing()),
]

ROLES = {"web", "worker", "maintenance"}
SERVICES = {"postgres", "redis", "migrate", *ROLES}
OPERATOR = {"STT_DOMAIN": "stt.example.org", "STT_TLS": "internal"}
SECRET = {
    "database-url": "postgresql://stt:secret@postgres:5432/stt",
    "redis-url": "redis://redis:6379/0",
    "postgres-password": "secret",
}
GPUS = "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-0)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-1)'\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


@pytest.fixture
def secrets(folder: Path) -> Path:
    """What the operator makes before the first start."""
    made = folder / "made"
    program = ["sh", str(ROOT / "deploy/secrets.sh")]
    subprocess.run(program, env={**os.environ, "STT_SECRETS": str(made)}, check=True, capture_output=True)
    return made


async def started(running: Machine, services: list[Container]) -> dict[str, Container]:
    """Start what the files name, in their order."""
    containers = {one.name: one for one in services if one.name in SERVICES}
    assert containers.keys() == SERVICES
    for container in containers.values():
        await running.start(container)
    assert {name.rpartition("-")[0] for name in running.running} == ROLES
    return containers


def session(running: Machine, host: str) -> aiohttp.ClientSession:
    """HTTP to the first web app, by the name that clients use."""
    port = running.environment("web-1")["STT_PORT"]
    return aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Host": host})


async def transcribed(running: Machine, host: str) -> str:
    """Upload a recording, wait for its end, and download the text."""
    async with session(running, host) as client:
        job = await journeys.upload(client, journeys.english(), language="en")
        done = await journeys.ended(client, job, 180)
        assert done["status"] == "completed", (done, running.log[-30:])
        return await journeys.download(client, job, "txt")


async def stops_and_hands_back(running: Machine, folder: Path) -> None:
    """Each role ends with 0 before Docker would kill it, and a job that runs is handed back."""
    containers = {name: container for name, (container, *_) in running.running.items()}
    environ = running.environment("worker-1")
    storage = Storage(Path(environ["STT_STORAGE_URL"].removeprefix("file://")))
    async with await db.create_pool(running.database_url) as pool:
        redis = await tickets.connect(running.redis_url)
        job = await begun(pool, redis, storage, script(folder, spans=100, seconds=0.2), "base")
        took: dict[str, float] = {}
        codes = await running.stop(took)
        waits = await again(pool, job)
        await redis.aclose()
    assert set(codes.values()) == {0}, (codes, running.log[-30:])
    assert all(took[name] < container.grace / 2 for name, container in containers.items()), took
    assert (waits.status, waits.attempt) == (Status.PENDING, 0)


@pytest.mark.engine
async def test_the_development_files_give_a_service_that_transcribes(folder: Path, secrets: Path) -> None:
    async with machine(folder, secrets) as running:
        containers = await started(running, compose("docker-compose.yml", environ=OPERATOR))
        assert containers["web"].published == "127.0.0.1:8000"
        text = await transcribed(running, containers["web"].published)
        assert "demonstration" in text
        connection = await asyncpg.connect(running.database_url)
        assert await connection.fetchval("select count(*) > 0 from pg_stat_statements")
        await connection.close()
        assert set((await running.stop()).values()) == {0}


async def test_with_gpus_there_is_a_worker_for_each_and_all_hand_back(folder: Path, secrets: Path) -> None:
    async with machine(folder, secrets, "tests.support.fake_stt") as running:
        (running.bin / "nvidia-smi").write_text(GPUS)
        (running.bin / "nvidia-smi").chmod(0o755)
        await started(running, compose("docker-compose.yml", "docker-compose.gpu.yml", environ=OPERATOR))
        first = running.environment("worker-1")
        second = first | {"STT_METRICS_PORT": str(int(first["STT_METRICS_PORT"]) + 1)}
        assert await running.run(["stt", "health"], second) == ""
        assert await transcribed(running, "localhost:8000")
        await stops_and_hands_back(running, folder)


async def test_the_production_files_take_their_secrets_from_files(folder: Path, secrets: Path) -> None:
    async with machine(folder, secrets, "tests.support.fake_stt") as running:
        containers = await started(running, compose("docker-compose.production.yml", environ=OPERATOR))
        assert containers["web"].replicas == 2
        assert containers["web"].published == ""  # the proxy alone is
        assert await transcribed(running, OPERATOR["STT_DOMAIN"])
        await stops_and_hands_back(running, folder)


async def test_the_manifests_give_a_service_that_transcribes(folder: Path) -> None:
    """The databases of the trial; workers and settings as with GPUs in production."""
    secrets = folder / "made"
    secrets.mkdir()
    for name, content in SECRET.items():
        (secrets / name).write_text(content)
    trial = [one for one in kubernetes("overlays/cpu") if one.name in ("postgres", "redis")]
    async with machine(folder, secrets, "tests.support.fake_stt") as running:
        await started(running, [*trial, *kubernetes("overlays/production")])
        assert await transcribed(running, "stt.example.com")
        await stops_and_hands_back(running, folder)
