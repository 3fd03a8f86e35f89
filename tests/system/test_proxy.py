"""The real Caddy with deploy/caddy/Caddyfile in front of the real web app."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs.messages import current
from stt.pubsub import publish
from stt.storage import Storage
from stt.web.context import SERVICES
from tests.support.caddy import CADDY, CADDYFILE, DOMAIN, Proxy, caddy, free_ports
from tests.support.jobs import beat, claim, new
from tests.support.up import private_folder
from tests.support.uploads import form, stored, until

SECRET = "s3cr3t"
LIMIT = 4 * 2**20  # of a body, here


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    return environ | {"STT_ALLOWED_HOSTS": DOMAIN}


@pytest.fixture
async def proxy(client: TestClient) -> AsyncIterator[Proxy]:
    assert client.port
    with private_folder() as folder:
        (folder / "backup.prom").write_text("stt_backup_last_success_timestamp_seconds 1\n")
        more = {"STT_PROXY_MAX_BODY": f"{LIMIT}B", "STT_BACKUP_METRICS": str(folder)}
        async with caddy(folder, client.port, **more) as running:
            yield running


@pytest.fixture
async def site(proxy: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with proxy.session() as session:
        yield session


async def test_plain_http_is_sent_to_https(proxy: Proxy, site: aiohttp.ClientSession) -> None:
    async with site.get(f"{proxy.http}/jobs?status=failed", allow_redirects=False) as answer:
        assert answer.status == 308
        assert answer.headers["Location"] == f"https://{DOMAIN}/jobs?status=failed"


@pytest.mark.parametrize("password", [None, "wrong"], ids=["none", "wrong"])
async def test_nobody_gets_in_without_the_password(proxy: Proxy, password: str | None) -> None:
    async with proxy.session(password) as site:
        for path in ("/", "/api/jobs", "/static/page.css", "/health/ready"):
            async with site.get(path) as answer:
                assert answer.status == 401, path
                assert "max-age" in answer.headers["Strict-Transport-Security"]


async def test_without_a_file_of_passwords_it_does_not_start(tmp_path: Path) -> None:
    environ = {"STT_DOMAIN": DOMAIN, "STT_TLS": "internal", "STT_PROXY_USERS": str(tmp_path / "users")}
    done = subprocess.run(
        [CADDY, "validate", "--config", CADDYFILE],
        env=environ | {"HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "users" in done.stderr


async def test_pages_and_changes_of_this_site_are_answered(
    proxy: Proxy, site: aiohttp.ClientSession, tone: Path
) -> None:
    async with site.get("/") as answer:
        assert answer.status == 200
        assert "max-age" in answer.headers["Strict-Transport-Security"]
    for origin, status in ((proxy.https, 201), ("https://elsewhere.example", 403)):
        async with site.post("/api/jobs/upload", data=form(tone), headers={"Origin": origin}) as answer:
            assert answer.status == status, await answer.text()


async def test_an_upload_reaches_the_app_while_it_is_sent(
    site: aiohttp.ClientSession, storage: Storage, tone: Path
) -> None:
    arrived = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="talk.wav"\r\n\r\n'
        yield tone.read_bytes() + bytes(LIMIT * 3 // 4)
        await arrived.wait()
        yield b"\r\n--x--\r\n"

    async def send() -> int:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        async with site.post("/api/jobs/upload", data=slowly(), headers=headers) as answer:
            return answer.status

    sent = asyncio.create_task(send())
    await until(lambda: sum(path.stat().st_size for path in stored(storage)) >= LIMIT // 4, 20)
    arrived.set()
    assert await sent == 201


@pytest.mark.parametrize("length_told", [True, False], ids=["length told", "chunked"])
async def test_a_body_over_the_limit_is_refused(
    site: aiohttp.ClientSession, storage: Storage, tone: Path, length_told: bool
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="talk.wav"\r\n\r\n'
    body = head + tone.read_bytes() + bytes(LIMIT) + b"\r\n--x--\r\n"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    data: Any = io.BytesIO(body) if length_told else chunks()
    async with site.post("/api/jobs/upload", data=data, headers=headers) as answer:
        assert answer.status == 413
    await until(lambda: not stored(storage))


async def test_events_arrive_one_by_one_and_a_leaving_reader_is_noticed(
    site: aiohttp.ClientSession, client: TestClient, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    async with asyncio.timeout(10), site.get(f"/api/jobs/{job.id}/events") as answer:
        lines = (line.decode().strip() async for line in answer.content)
        for progress in (0.25, 0.5, 0.75):
            beaten = await beat(pool, job, progress)
            assert beaten
            await publish(redis, current(beaten))
            while (
                not (line := await anext(lines)).startswith("data:") or f'"progress": {progress}' not in line
            ):
                pass
    hub = client.app[SERVICES].hub  # type: ignore[union-attr]
    assert len(hub._listeners) == 1
    async with asyncio.timeout(10):
        while hub._listeners:  # the app notices it when it writes
            await publish(redis, current(beaten))
            await asyncio.sleep(0.02)


async def test_a_request_waits_for_a_web_app_that_starts_again() -> None:
    """As while the only replica is replaced."""
    [port] = free_ports(1)
    app = web.Application()
    app.add_routes([web.post("/", _echo)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with private_folder() as folder:
        async with caddy(folder, port) as proxy, proxy.session() as site:
            asked = asyncio.create_task(_text(site))
            await _until_metric(proxy, 'caddy_http_requests_in_flight{handler="subroute"', "1")
            await web.TCPSite(runner, "127.0.0.1", port).start()
            assert json.loads(await asked) == {"body": "kept", "host": DOMAIN, "authorization": None}
    await runner.cleanup()


async def _until_metric(proxy: Proxy, name: str, value: str) -> None:
    async with aiohttp.ClientSession() as prometheus, asyncio.timeout(10):
        while True:
            async with prometheus.get(f"{proxy.metrics}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            if any(line.startswith(name) and line.endswith(f" {value}") for line in lines):
                return


async def _text(site: aiohttp.ClientSession) -> str:
    async with site.post("/", data=b"kept") as answer:
        return await answer.text()


async def _echo(request: web.Request) -> web.Response:
    authorization = request.headers.get("Authorization")
    body = (await request.read()).decode()
    return web.json_response({"body": body, "host": request.url.host, "authorization": authorization})


async def test_the_log_has_paths_but_no_queries_names_or_passwords(
    proxy: Proxy, site: aiohttp.ClientSession, tone: Path
) -> None:
    async with site.post("/api/jobs/upload", data=form(tone, f"{SECRET}.wav")) as answer:
        job = await answer.json()
    for path in (
        f"/api/jobs?q={SECRET}", f"/s/{SECRET}", f"/s/{SECRET}?x={SECRET}",
        f"/api/jobs/{job['id']}/download?format=txt&token={SECRET}",
    ):  # fmt: skip
        async with site.get(path, headers={"Referer": f"{proxy.https}/?q={SECRET}"}) as answer:
            await answer.read()
    await until(lambda: sum('"handled request"' in line for line in proxy.log) == 5)
    log = "\n".join(proxy.log)
    uris = [json.loads(line)["request"]["uri"] for line in proxy.log if '"handled request"' in line]
    assert uris == ["/api/jobs/upload", "/api/jobs", "/s/", "/s/", f"/api/jobs/{job['id']}/download"]
    assert SECRET not in log
    assert "correct horse" not in log
    assert "Authorization" not in log


async def test_prometheus_gets_the_proxy_and_the_backup(proxy: Proxy, site: aiohttp.ClientSession) -> None:
    async with site.get("/") as answer:
        assert answer.status == 200
    async with aiohttp.ClientSession() as prometheus:
        async with prometheus.get(f"{proxy.metrics}/metrics") as answer:
            assert "caddy_http_requests_total" in await answer.text()
        async with prometheus.get(f"{proxy.metrics}/backup") as answer:
            assert answer.content_type == "text/plain"
            assert "stt_backup_last_success_timestamp_seconds 1" in await answer.text()
