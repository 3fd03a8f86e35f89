"""Debian's PostgreSQL 15 and Redis 7, started in private folders; containers run the same major versions."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
from asyncio import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import redis.asyncio
from redis.exceptions import AuthenticationError, RedisError

from stt.process.child import Child

POSTGRES = Path("/usr/lib/postgresql/15/bin")
SYSTEM_USER = "postgres"  # Debian's; PostgreSQL refuses to run as root
STARTS_WITHIN = 30.0  # seconds
STOP = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 2.0))


def missing() -> str:
    """What has to be installed first, or an empty text."""
    found = {
        "postgresql-15": (POSTGRES / "postgres").exists(),
        "redis-server": shutil.which("redis-server") is not None,
    }
    packages = [name for name, there in found.items() if not there]
    return (
        f"apt-get install {' '.join(packages)} (Debian 12; as root `make test` does it)" if packages else ""
    )


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """PostgreSQL 15 on a socket in its folder and on a port of loopback.

    `url` names the database over the socket, where everybody is trusted; over TCP the password is asked for.
    """

    def __init__(self, folder: Path, *, flags: Sequence[str] = (), user: str = "postgres") -> None:
        self.folder, self.flags, self.user = folder, flags, user
        self.port = free_port()
        self.log: list[str] = []
        self.url = f"postgresql://{user}@/stt?host={folder}&port={self.port}"
        self._owner = _owner()

    async def start(self, *, database: str = "stt", password: str = "") -> None:
        """Make the data folder and the database, and return when it answers.

        Args:
            database: The database to create.
            password: Of the superuser, for connections over TCP.

        Raises:
            AssertionError: It did not start; the text has its output.
        """
        self.folder.mkdir(mode=0o700, parents=True)
        secret = self.folder / "password"
        secret.write_text((password or "unused") + "\n")
        if self._owner:
            os.chown(self.folder, *self._owner)
            os.chown(secret, *self._owner)
        data = self.folder / "data"
        await _run(
            POSTGRES / "initdb", "-D", data, "-U", self.user, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
            "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}", owner=self._owner,
        )  # fmt: skip
        ours = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        options = [part for name, value in ours.items() for part in ("-c", f"{name}={value}")]
        self._child = await Child.start(
            [str(POSTGRES / "postgres"), "-D", str(data), *self.flags, *options],
            on_line=self.log.append, death_signal=signal.SIGINT, user=self._owner, cwd=Path("/"),
        )  # fmt: skip
        await _until(self._answers, self._child)
        connection = await asyncpg.connect(self.admin)
        if database != "postgres":
            await connection.execute(f'create database "{database}"')
        await connection.close()

    @property
    def admin(self) -> str:
        """The URL of the database that is always there."""
        return self.url.replace("/stt?", "/postgres?")

    async def stop(self) -> None:
        await self._child.stop(STOP)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.admin)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True


class Redis:
    """Redis 7 on a port of loopback."""

    def __init__(self, folder: Path, *, command: Sequence[str] = ("redis-server", "--save", "")) -> None:
        self.folder, self.command = folder, command
        self.port = free_port()
        self.options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.log: list[str] = []

    async def start(self, environ: Mapping[str, str] | None = None) -> None:
        """Return when it answers.

        Args:
            environ: Its environment; if given, a `redis-server` on its PATH adds `options`.

        Raises:
            AssertionError: It did not start; the text has its output.
        """
        self.folder.mkdir(mode=0o700, parents=True)
        program = shutil.which(self.command[0], path=environ["PATH"] if environ else None)
        assert program
        options = [] if environ else self.options
        self._child = await Child.start(
            [program, *self.command[1:], *options],
            on_line=self.log.append, death_signal=signal.SIGTERM, env=environ,
        )  # fmt: skip
        await _until(self._answers, self._child)

    async def stop(self) -> None:
        await self._child.stop(((signal.SIGTERM, 10.0),))

    async def _answers(self) -> bool:
        try:
            async with redis.asyncio.Redis.from_url(self.url) as client:
                return bool(await client.ping())
        except AuthenticationError:
            return True
        except (RedisError, OSError):
            return False


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Both, with an empty database, while the block lasts. Yields (database URL, Redis URL)."""
    folder.chmod(0o711)  # PostgreSQL's user passes through
    postgres, cache = Postgres(folder / "postgres"), Redis(folder / "redis")
    await asyncio.gather(postgres.start(), cache.start())
    try:
        yield postgres.url, cache.url
    finally:
        await asyncio.gather(postgres.stop(), cache.stop())


def _owner() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(SYSTEM_USER)
    return entry.pw_uid, entry.pw_gid


async def _run(program: Path, *arguments: object, owner: tuple[int, int] | None) -> None:
    uid, gid = owner or (None, None)
    process = await subprocess.create_subprocess_exec(
        program, *map(str, arguments), user=uid, group=gid, extra_groups=[] if owner else None, cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def _until(answers: object, child: Child) -> None:
    async with asyncio.timeout(STARTS_WITHIN):
        while not await answers():  # type: ignore[operator]
            assert child.running, child.how_it_ended()
            await asyncio.sleep(0.02)
