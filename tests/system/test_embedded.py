"""The embedded servers: private, kept alive by nobody but us, and never losing data."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from asyncio import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from stt.ops.embedded import folders
from stt.ops.embedded import servers as embedded
from stt.ops.embedded.postgres import SYSTEM_USER
from stt.ops.embedded.server import ServersError
from stt.ops.embedded.valkey import Valkey
from stt.ops.lock import Held
from stt.settings import Settings, load
from tests.support.up import environment, gone, prepared, private_folder

pytestmark = pytest.mark.process

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="what root has to mind")

# Starts the servers as a program that may be killed; says their process ids when they answer.
PROGRAM = """
import asyncio
from stt import logs, settings
from stt.ops.embedded import servers as embedded
from stt.ops.lock import hold

async def main():
    loaded = settings.load()
    logs.setup(loaded, "test")  # to standard error
    with hold(loaded.data_dir):
        servers = embedded.Servers(loaded)
        await servers.start()
        print(*(server.child.process.pid for server in servers.running), flush=True)
        await asyncio.Event().wait()

{before}
asyncio.run(main())
"""
# As on a system whose kernel knows no parent-death signal.
NO_DEATH_SIGNAL = "embedded.Postgres.death_signal = embedded.Valkey.death_signal = 0"


@pytest.fixture(name="tmp_path")
def _private_folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


def settings_for(data_dir: Path) -> Settings:
    return load({"STT_DATA_DIR": str(data_dir)}, Path("/nonexistent"))


async def killed_program(data_dir: Path, before: str = "") -> list[psutil.Process]:
    """The servers of a program that was killed by SIGKILL as soon as they answered."""
    process = await subprocess.create_subprocess_exec(
        sys.executable, "-c", PROGRAM.format(before=before),
        env=environment(data_dir), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    pids = (await asyncio.wait_for(process.stdout.readline(), 30)).split()
    assert len(pids) == 2, "the program did not start its servers"
    servers = [psutil.Process(int(pid)) for pid in pids]
    process.kill()
    await process.wait()
    return servers


@asynccontextmanager
async def connected(
    data_dir: Path,
) -> AsyncIterator[tuple[asyncpg.Connection, redis.asyncio.Redis]]:
    async with embedded.servers(settings_for(data_dir)) as (database_url, redis_url):
        connection = await asyncpg.connect(database_url)
        client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
        try:
            yield connection, client
        finally:
            await connection.close()
            await client.aclose()


async def write(data_dir: Path) -> None:
    async with connected(data_dir) as (connection, client):
        await connection.execute("create table kept (word text); insert into kept values ('safe')")
        await client.set("kept", "safe")


async def read(data_dir: Path) -> tuple[str, str]:
    async with connected(data_dir) as (connection, client):
        return await connection.fetchval("select word from kept"), await client.get("kept")


def server_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.name() in ("postgres", "valkey-server")
    ]


async def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    await write(tmp_path)
    assert await read(tmp_path) == ("safe", "safe")


async def test_no_process_is_left_behind(tmp_path: Path) -> None:
    prepared(tmp_path)
    before = server_processes()
    async with connected(tmp_path):
        started = [process for process in server_processes() if process not in before]
        assert {process.name() for process in started} == {"postgres", "valkey-server"}
    await gone(started)


async def test_they_listen_on_private_sockets_and_on_no_port(tmp_path: Path) -> None:
    prepared(tmp_path)
    before = server_processes()
    async with connected(tmp_path):
        ours = [process for process in server_processes() if process not in before]
        assert not [c for process in ours for c in process.net_connections(kind="inet")]
        for socket in tmp_path.glob("*/*"):
            if socket.is_socket():
                assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert len(list(tmp_path.glob("*/.s.PGSQL.5432"))) == 1
        assert (tmp_path / "valkey" / "valkey.sock").is_socket()


async def test_they_are_set_up_to_lose_nothing(tmp_path: Path) -> None:
    prepared(tmp_path)
    async with connected(tmp_path) as (connection, client):
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await connection.fetchval("select current_setting($1)", name) == "on"
        assert await connection.fetchval("select current_setting('server_encoding')") == "UTF8"
        given = await client.config_get("append*") | await client.config_get("maxmemory-policy")
        assert given["appendonly"] == "yes"
        assert given["appendfsync"] == "everysec"
        assert given["maxmemory-policy"] == "noeviction"


async def test_they_die_with_a_killed_parent(tmp_path: Path) -> None:
    prepared(tmp_path)
    await gone(await killed_program(tmp_path))


async def test_a_start_stops_what_an_earlier_one_left_running(tmp_path: Path) -> None:
    prepared(tmp_path)
    await write(tmp_path)
    orphans = await killed_program(tmp_path, NO_DEATH_SIGNAL)
    assert all(orphan.is_running() for orphan in orphans)
    assert await read(tmp_path) == ("safe", "safe")
    await gone(orphans)


async def test_a_start_follows_a_power_cut(tmp_path: Path) -> None:
    """Pid files and sockets that nobody serves are no obstacle."""
    prepared(tmp_path)
    await write(tmp_path)
    orphans = await killed_program(tmp_path, NO_DEATH_SIGNAL)
    family = [child for orphan in orphans for child in orphan.children()] + orphans
    for process in orphans:
        process.kill()
    await gone(family)
    assert (tmp_path / "postgres" / "postmaster.pid").exists()
    assert await read(tmp_path) == ("safe", "safe")


async def test_a_pid_file_that_names_a_stranger_is_no_obstacle(tmp_path: Path) -> None:
    prepared(tmp_path)
    await write(tmp_path)
    orphans = await killed_program(tmp_path)
    await gone(orphans)
    # PostgreSQL sees a living process of its own user: a forked child of its last run, it thinks.
    user = tmp_path.joinpath("postgres").stat()
    stranger = await subprocess.create_subprocess_exec(
        "sleep", "60", user=user.st_uid if os.geteuid() == 0 else None
    )
    file = tmp_path / "postgres" / "postmaster.pid"
    lines = [str(stranger.pid), str(file.parent), "1700000000", "5432", str(file.parent), "", "", "ready"]
    file.write_text("\n".join(lines) + "\n")
    os.chown(file, user.st_uid, user.st_gid)
    try:
        assert await read(tmp_path) == ("safe", "safe")
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_data_of_another_major_version_is_named_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("14\n")
    with pytest.raises(ServersError, match=r"PostgreSQL 14, and this stt brings \d\d: .*pg_dump"):
        async with embedded.servers(settings_for(tmp_path)):
            pass
    assert [path.name for path in folder.iterdir()] == ["PG_VERSION"]


async def test_an_interrupted_first_start_is_begun_again(tmp_path: Path) -> None:
    draft = tmp_path / "postgres.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("half")
    await write(tmp_path)
    assert not draft.exists()


async def test_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 25) / "with space"
    await write(data_dir)
    assert await read(data_dir) == ("safe", "safe")


async def test_one_data_folder_has_one_holder(tmp_path: Path) -> None:
    prepared(tmp_path)
    settings = settings_for(tmp_path)
    async with embedded.servers(settings):
        with pytest.raises(Held, match=f"process {os.getpid()}"):
            async with embedded.servers(settings):
                pass
    async with embedded.servers(settings):
        pass


async def test_a_server_that_was_given_by_url_is_not_started(tmp_path: Path) -> None:
    environ = {"STT_DATA_DIR": str(tmp_path), "STT_DATABASE_URL": "postgresql://elsewhere/stt"}
    async with embedded.servers(load(environ, Path("/nonexistent"))) as (database_url, redis_url):
        assert database_url == "postgresql://elsewhere/stt"
        assert redis_url.startswith("unix://")
        assert not (tmp_path / "postgres").exists()


async def test_one_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    prepared(tmp_path)
    await write(tmp_path)
    (tmp_path / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    before = server_processes()
    with pytest.raises(ServersError, match="Valkey did not start: exit code 1"):
        async with embedded.servers(settings_for(tmp_path)):
            pass
    await gone([process for process in server_processes() if process not in before])


async def test_a_socket_folder_that_a_stranger_made_first_is_refused(tmp_path: Path) -> None:
    squatted = tmp_path / "stt-0123456789abcdef"
    squatted.mkdir()
    squatted.chmod(0o777)
    with pytest.raises(ServersError, match="open to other users"):
        folders.make_private(squatted, None)


@ROOT_ONLY
async def test_root_runs_postgres_as_its_own_user_and_opens_parents_for_passage_only(
    tmp_path: Path,
) -> None:
    parent = tmp_path / "private"
    parent.mkdir(mode=0o700)
    before = server_processes()
    async with connected(parent / "data"):
        [postgres] = [
            process
            for process in server_processes()
            if process not in before and process.parent() == psutil.Process()
            and process.name() == "postgres"
        ]  # fmt: skip
        assert postgres.uids().real != 0
        assert postgres.username() == SYSTEM_USER
    assert stat.S_IMODE(parent.stat().st_mode) == 0o701
    assert stat.S_IMODE((parent / "data").stat().st_mode) == 0o710
    assert stat.S_IMODE((parent / "data" / "postgres").stat().st_mode) == 0o700


async def test_a_signal_to_the_terminals_group_does_not_reach_them(tmp_path: Path) -> None:
    """Ctrl-C ends web and workers first; the servers have a session of their own."""
    prepared(tmp_path)
    before = server_processes()
    async with connected(tmp_path):
        for process in server_processes():
            if process not in before:
                assert os.getsid(process.pid) != os.getsid(0)


async def test_a_server_that_ended_tells_how(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey")
    await valkey.start()
    assert valkey.child is not None
    valkey.child.process.send_signal(signal.SIGKILL)
    assert (await valkey.wait()).startswith("SIGKILL")
