"""Runs what compose files say on this machine, without containers: it maps folders, addresses and ports."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg

from stt.process.child import Child
from stt.settings import load
from tests.support import debian
from tests.support.deployment import Container
from tests.support.places import ROOT
from tests.support.ports import free_ports

HEALTHY_WITHIN = 90.0  # seconds
PORTS = ("STT_PORT", "STT_METRICS_PORT", "STT_HEALTH_PORT")
ADDRESSES = ("STT_HOST", "STT_METRICS_HOST")


class Machine:
    """Containers that run as processes here.

    Args:
        folder: Where their folders are.
        secrets: The folder with a file for each secret that the operator makes.
        program: The module that stands for `stt`.
    """

    def __init__(self, folder: Path, secrets: Path, program: str = "stt") -> None:
        self.folder, self.secrets, self.program = folder, secrets, program
        self.running: dict[str, tuple[Container, Child, dict[str, str]]] = {}
        self.log: list[str] = []
        self.postgres: debian.Postgres | None = None
        self.redis: debian.Redis | None = None
        self.bin = folder / "bin"
        self.bin.mkdir()
        folder.chmod(0o711)  # PostgreSQL's user passes through

    async def start(self, container: Container) -> None:
        """Start it as Docker would, and wait until it is healthy; `migrate`: until it has ended."""
        if container.name == "postgres":
            await self._start_postgres(container)
        elif container.name == "redis":
            await self._start_redis(container)
        else:
            for number in range(container.replicas):
                await self._start_role(container, f"{container.name}-{number + 1}")

    async def stop(self, seconds: dict[str, float] | None = None) -> dict[str, int]:
        """Stop the roles as Docker would. Returns their exit codes; `seconds` gets how long each took."""

        async def one(name: str, container: Container, child: Child) -> tuple[str, int]:
            started = time.monotonic()
            code = await child.stop(((signal.SIGTERM, container.grace),))
            if seconds is not None:
                seconds[name] = time.monotonic() - started
            return name, code

        stopped = [one(name, container, child) for name, (container, child, _) in self.running.items()]
        self.running = {}
        return dict(await asyncio.gather(*stopped))

    async def close(self) -> None:
        await self.stop()
        for server in filter(None, (self.redis, self.postgres)):
            await server.stop()

    @property
    def database_url(self) -> str:
        assert self.postgres
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        """As a role on this machine is told it."""
        return load(next(iter(self.running.values()))[2], Path("/nonexistent")).redis_url

    def environment(self, name: str) -> dict[str, str]:
        """Of a running role, mapped to this machine."""
        return self.running[name][2]

    async def check(self, name: str) -> str:
        """Ask for its health as its own health check does; an empty text if it is well."""
        container, child, environ = self.running[name]
        assert child.running, self._tail(name)
        if container.probe:
            return await self._ask(container, environ)
        return await self.run(container.health, environ)

    async def _ask(self, container: Container, environ: dict[str, str]) -> str:
        number, slash, path = container.probe.partition("/")
        port = next(environ[key] for key in PORTS if container.environ.get(key) == number)
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}{slash}{path}") as response,
            ):
                return "" if response.status == 200 else await response.text()
        except aiohttp.ClientConnectorError as error:
            return str(error)

    async def until_healthy(self, name: str) -> None:
        async with asyncio.timeout(HEALTHY_WITHIN):
            while await self.check(name):
                await asyncio.sleep(0.1)

    async def _start_role(self, container: Container, name: str) -> None:
        environ = self.mapped(container, name)
        program = self._program(container.command)
        child = await Child.start(program, on_line=self._hear(name), env=environ, cwd=Path("/"))
        if container.command[-1] == "migrate":
            assert await child.wait() == 0, self._tail(name)
            return
        self.running[name] = container, child, environ
        if container.health or container.probe:
            await self.until_healthy(name)

    def mapped(self, container: Container, name: str) -> dict[str, str]:
        """Its environment, with folders, addresses and ports of this machine."""
        folders = {path: self.folder / "volumes" / volume for path, volume in container.mounts.items()}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        for path, secret in container.secrets.items():
            folders[path] = self.folder / "secrets" / f"{name}-{secret}"
            folders[path].parent.mkdir(exist_ok=True)
            folders[path].write_text(self._addresses((self.secrets / secret).read_text()))
        environ = {
            key: self._addresses(_with_folders(value, folders))
            for key, value in container.environ.items()
            if key not in ("PATH", "LD_LIBRARY_PATH")
        }
        self._must_be_writable(environ, folders)
        load(environ, Path("/nonexistent"))  # as in the container, with its addresses
        return environ | self._ports(environ) | self._here()

    def _must_be_writable(self, environ: dict[str, str], folders: dict[str, Path]) -> None:
        """The root of a container is read-only: what a role writes to has to be mounted."""
        for key in ("STT_STORAGE_URL", "HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"):
            path = environ.get(key, "").removeprefix("file://")
            inside = not path or any(Path(path).is_relative_to(folder) for folder in folders.values())
            assert inside or key == "STT_STORAGE_URL", f"{key}={path} is on the read-only root"

    def _ports(self, environ: dict[str, str]) -> dict[str, str]:
        first = free_ports(8)
        taken = {
            key: str(first + 4 * (key == "STT_PORT"))
            for key in PORTS
            if environ.get(key) or key == "STT_PORT"
        }
        return taken | dict.fromkeys(ADDRESSES, "127.0.0.1")

    def _here(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def _addresses(self, text: str) -> str:
        for name, server in (("postgres", self.postgres), ("redis", self.redis)):
            if server is not None:
                text = re.sub(rf"(?<![\w.-]){name}:\d+", f"127.0.0.1:{server.port}", text)
        return text

    def _program(self, command: list[str]) -> list[str]:
        entrypoint, *words = command
        assert entrypoint == "stt"
        return [sys.executable, "-P", "-m", self.program, *words]

    async def _start_postgres(self, container: Container) -> None:
        program, *flags = container.command
        assert program == "postgres"
        environ = {key: self._with_secrets(container, value) for key, value in container.environ.items()}
        self.postgres = debian.Postgres(self.folder / "postgres", flags=flags, user=environ["POSTGRES_USER"])
        password = environ.get("POSTGRES_PASSWORD") or Path(environ["POSTGRES_PASSWORD_FILE"]).read_text()
        await self.postgres.start(database=environ["POSTGRES_DB"], password=password)
        await self._run_scripts(container)
        health = {**environ, **self._here(), "PGPORT": str(self.postgres.port)}
        health["PGHOST"] = str(self.postgres.folder)  # where its socket is
        health["PATH"] = f"{debian.POSTGRES}:{health['PATH']}"
        assert await self.run(container.health, health) == ""

    async def _run_scripts(self, container: Container) -> None:
        connection = await asyncpg.connect(self.database_url)
        for to, source in container.sources.items():
            if to.startswith("/docker-entrypoint-initdb.d/"):
                await connection.execute((ROOT / source).read_text(encoding="utf-8"))
        await connection.close()

    async def _start_redis(self, container: Container) -> None:
        command = [self._with_secrets(container, word) for word in container.command]
        self.redis = debian.Redis(self.folder / "redis", command=command)
        real = {name: shutil.which(name) for name in ("redis-server", "redis-cli")}
        self._wrapper("redis-server", f'exec {real["redis-server"]} "$@" {" ".join(self.redis.options)}')
        self._wrapper("redis-cli", f'exec {real["redis-cli"]} -p {self.redis.port} "$@"')
        environ = {**container.environ, **self._here()}
        await self.redis.start(environ)
        assert (
            await self.run([self._with_secrets(container, word) for word in container.health], environ) == ""
        )

    def _with_secrets(self, container: Container, text: str) -> str:
        """Paths of secrets as they are on this machine."""
        for path, secret in container.secrets.items():
            text = text.replace(path, str(self.secrets / secret))
        return text

    def _wrapper(self, name: str, line: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{line}\n")
        (self.bin / name).chmod(0o755)

    async def run(self, command: list[str], environ: dict[str, str]) -> str:
        """Run a health check: an empty text if it ends with 0, else what it said."""
        if command[0] == "stt":
            command = [sys.executable, "-P", "-m", "stt", *command[1:]]
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return f"{process.returncode}: {output.decode()}" if process.returncode else ""

    def _hear(self, name: str) -> Callable[[str], None]:
        return lambda line: self.log.append(f"{name}: {line}")

    def _tail(self, name: str) -> str:
        return "\n".join([line for line in self.log if line.startswith(name)][-20:])


def _with_folders(value: str, folders: dict[str, Path]) -> str:
    for path in sorted(folders, key=len, reverse=True):
        if match := re.fullmatch(rf"(file://)?{re.escape(path)}(/.*)?", value):
            return f"{match[1] or ''}{folders[path]}{match[2] or ''}"
    return value


@asynccontextmanager
async def machine(folder: Path, secrets: Path, program: str = "stt") -> AsyncIterator[Machine]:
    running = Machine(folder, secrets, program)
    try:
        yield running
    finally:
        await running.close()
