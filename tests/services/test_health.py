"""The small HTTP server of each role: what it answers, where, and what it says when something is missing."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer
from arq import ArqRedis

from stt.storage import Storage
from stt.telemetry.health import Health, Unhealthy
from stt.telemetry.server import make_app
from tests.support.faults import Environ, role, until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def health(environ: Environ, *arguments: str) -> tuple[int, str]:
    """What `stt health` says: its exit code, and its line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stt", "health", *arguments, env=environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    [line] = out.decode().splitlines()
    return process.returncode or 0, line


@asynccontextmanager
async def asked(told: Health) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(make_app(told, with_metrics=True))) as client:
        yield client


async def failed(told: Health) -> dict[str, str]:
    """What a role that is not ready names."""
    async with asked(told) as client, client.get("/health/ready") as response:
        assert response.status == 503
        checks: dict[str, str] = (await response.json())["checks"]
    return {name: what for name, what in checks.items() if what != "ok"}


async def test_a_role_that_waits_for_its_servers_lives_and_is_not_ready(
    pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> None:
    told = Health()
    async with asked(told) as client:
        async with client.get("/health/live") as response:
            assert response.status == 200
        async with client.get("/health/ready") as response:
            assert response.status == 503
            assert "waiting" in await response.text()
        told.connected(pool, redis, storage)
        async with client.get("/health/ready") as response:
            assert response.status == 200
            assert (await response.json())["checks"] == {"database": "ok", "redis": "ok", "storage": "ok"}


async def test_what_is_away_is_named(pool: asyncpg.Pool, redis: ArqRedis, storage: Storage) -> None:
    told = Health()
    told.connected(pool, redis, storage)
    (storage.root / "incoming").rmdir()
    assert list(await failed(told)) == ["storage"]
    (storage.root / "incoming").mkdir()
    told.ready["redis"] = ArqRedis(port=free_port()).ping
    assert list(await failed(told)) == ["redis"]
    await pool.close()
    assert list(await failed(told)) == ["database", "redis"]


async def test_a_check_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stt.telemetry.health.CHECK_SECONDS", 0.05)

    async def hang() -> None:
        await asyncio.Event().wait()

    async def fault() -> None:
        raise Unhealthy("the loop stands still")

    found = await failed(Health(ready={"disk": hang, "loop": fault}))
    assert found == {"disk": "no answer within 0 s", "loop": "the loop stands still"}


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [("", "text/plain", ""), ("application/openmetrics-text", "application/openmetrics-text", "# EOF\n")],
)
async def test_metrics_come_as_the_scraper_asks(accept: str, content_type: str, end: str) -> None:
    async with asked(Health()) as client, client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
        assert response.content_type == content_type
        text = await response.text()
    assert text.endswith(end)
    assert "stt_http_requests" in text


@pytest.mark.parametrize("module", ["stt web", "workers.maintenance", "workers.transcriber"])
async def test_a_taken_port_ends_the_role_with_one_clear_line(environ: Environ, module: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with role(environ | {"STT_METRICS_PORT": port}, *module.split()) as started:
            assert await started.ended(30) == 1
    line = started.log[-1]
    assert f"Cannot listen on 127.0.0.1:{port} for metrics and health: Address already in use" in line
    assert "Choose another port or address: STT_METRICS_PORT, STT_METRICS_HOST." in line
    assert not any("Traceback" in line for line in started.log)


async def test_the_command_asks_a_role_for_its_health(environ: Environ) -> None:
    given = environ | {"STT_HEALTH_PORT": str(free_port())}

    async def answers() -> bool:
        return (await health(given))[0] == 0

    assert await health(given) == (
        1,
        f"no answer from 127.0.0.1:{given['STT_HEALTH_PORT']} (STT_HEALTH_PORT): "
        "[Errno 111] Connection refused",
    )
    async with role(given, "workers.maintenance"):
        await until(answers, 30)
        assert await health(given) == (0, "live")
        await until(lambda: ready(given), 30)


async def ready(environ: Environ) -> bool:
    return await health(environ, "--ready") == (0, "ready")


async def test_the_command_says_what_is_missing(environ: Environ, storage: Storage) -> None:
    given = environ | {"STT_METRICS_PORT": str(free_port()), "STT_METRICS_HOST": "0.0.0.0"}
    async with role(given, "workers.maintenance"):
        await until(lambda: ready(given), 30)
        (storage.root / "incoming").rmdir()
        code, line = await health(given, "--ready")
        assert code == 1
        assert line.startswith("storage: FileNotFoundError")
        assert await health(given) == (0, "live")


async def test_the_command_needs_to_know_the_port(environ: Environ) -> None:
    code, line = await health(environ)
    assert code == 1
    assert "STT_METRICS_PORT or STT_HEALTH_PORT" in line
