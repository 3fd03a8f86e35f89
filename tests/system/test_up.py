"""`stt up`: one process tree that starts, heals itself, and ends without a trace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import asyncpg
import psutil
import pytest
import redis.asyncio

from stt.ops import gpus, roles, supervisor
from stt.ops.embedded.servers import Servers
from stt.ops.lock import hold
from stt.process.child import Child
from stt.settings import load
from tests.support.up import Up, gone, prepared, private_folder, stt, up

pytestmark = pytest.mark.process

ROLES = ("stt web", "stt maintenance", "stt worker", "postgres", "valkey-server")


@pytest.fixture(name="tmp_path")
def _private_folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


async def healthy(running: Up) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{running.url}/health/ready") as answer:
        return answer.status == 200


async def ended_child(running: Up, name: str, number: signal.Signals) -> psutil.Process:
    """Wait until that child runs, and end it by a signal."""
    process = await running.until_child(name)
    process.send_signal(number)
    await gone([process])
    return process


async def until(what: str, true: object) -> None:
    async with asyncio.timeout(30):
        while not await true():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def answers(running: Up) -> bool:
    try:
        return await healthy(running)
    except (aiohttp.ClientError, OSError):
        return False


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Up]:
    """One that several tests hurt and that heals."""
    with private_folder() as folder:
        async with up(folder / "data") as started:
            yield started


async def test_ready_means_that_every_part_runs_and_the_app_answers(running: Up) -> None:
    assert running.url.startswith("http://127.0.0.1:")
    assert await healthy(running)
    for name in ROLES:
        await running.until_child(name)


async def test_the_data_folder_is_private_and_says_who_holds_it(running: Up) -> None:
    assert stat.S_IMODE(running.data_dir.stat().st_mode) & 0o067 == 0
    lock = json.loads((running.data_dir / "stt.lock").read_text())
    assert lock["pid"] == running.process.pid
    assert lock["url"] == running.url


async def test_a_second_one_says_who_holds_the_data_folder(running: Up) -> None:
    code, out, err = await stt("up", data_dir=running.data_dir)
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert f"process {running.process.pid}" in line
    assert running.url in line
    assert str(running.data_dir) in line


async def test_a_web_app_that_dies_is_back_at_the_same_address(running: Up) -> None:
    await ended_child(running, "stt web", signal.SIGKILL)
    line = await running.until_logged("process=web")
    assert all(part in line for part in ("a process ended", "role=up", "restart_seconds=1.0", "SIGKILL"))
    await until("the app answers", lambda: answers(running))
    await running.until_child("stt web")


@pytest.mark.parametrize(("name", "title"), [("postgres", "PostgreSQL"), ("valkey-server", "Valkey")])
async def test_a_server_that_dies_is_back(running: Up, name: str, title: str) -> None:
    old = await ended_child(running, name, signal.SIGKILL)
    assert "SIGKILL" in await running.until_logged(f"process={title}")
    await until("the app answers", lambda: answers(running))
    assert (await running.until_child(name)).pid != old.pid


async def test_the_doctor_finds_it_well(running: Up) -> None:
    code, out, _ = await stt("doctor", data_dir=running.data_dir)
    assert "wrong database" not in out
    assert "PostgreSQL 18" in out
    assert "valkey" in out
    assert (code == 0) == ("wrong" not in out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    async with up(prepared(tmp_path / "data")) as running:
        children = running.children()
        running.process.send_signal(number)
        assert await running.ended() == 0
        await gone(children, within=0)


async def test_a_second_signal_does_not_wait_for_a_child_that_hangs(tmp_path: Path) -> None:
    async with up(prepared(tmp_path / "data")) as running:
        children = running.children()
        running.child("stt web").suspend()
        running.process.send_signal(signal.SIGINT)
        await running.until_logged("signal=SIGINT")
        running.process.send_signal(signal.SIGINT)
        await running.until_logged("hurrying")
        async with asyncio.timeout(4):  # less than the patience with one that hangs
            assert await running.process.wait() == 0
        await gone(children, within=0)


async def test_a_child_that_hangs_is_gone_within_ten_seconds(tmp_path: Path) -> None:
    async with up(prepared(tmp_path / "data")) as running:
        children = running.children()
        running.child("stt web").suspend()
        running.child("postgres").suspend()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        await gone(children, within=1)


async def test_kill_minus_nine_leaves_nothing_behind(tmp_path: Path) -> None:
    async with up(prepared(tmp_path / "data")) as running:
        children = running.children()
        assert len(children) > 5
        running.process.kill()
        await gone(children)
    async with up(tmp_path / "data") as again:
        assert await healthy(again)


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    settings = load({"STT_DATA_DIR": str(tmp_path / "data")}, Path("/nonexistent"))
    urls = Servers(settings)
    async with up(prepared(tmp_path / "data")):
        connection = await asyncpg.connect(urls.database_url)
        await connection.execute("create table kept as select 'safe' as word")
        await connection.close()
        client = redis.asyncio.Redis.from_url(urls.redis_url, decode_responses=True)
        await client.set("kept", "safe")
        await client.aclose()
    async with up(tmp_path / "data"):
        connection = await asyncpg.connect(urls.database_url)
        assert await connection.fetchval("select word from kept") == "safe"
        await connection.close()
        client = redis.asyncio.Redis.from_url(urls.redis_url, decode_responses=True)
        assert await client.get("kept") == "safe"
        await client.aclose()


async def test_a_taken_port_is_one_clear_line_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, err = await stt("up", data_dir=tmp_path / "data", PORT=port)
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "STT_PORT" in line


async def test_a_taken_port_of_metrics_is_one_clear_line_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = await stt("up", data_dir=tmp_path / "data", METRICS_PORT=str(port - 2))
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert f"127.0.0.1:{port} for metrics and health" in line  # that of the first worker
    assert "STT_METRICS_PORT" in line
    assert not (tmp_path / "data" / "postgres").exists()


async def test_a_bad_setting_is_one_line_that_names_it(tmp_path: Path) -> None:
    code, _, err = await stt("up", data_dir=tmp_path / "data", LEASE_SECONDS="soon")
    assert code == 2
    [line] = err.splitlines()
    assert "STT_LEASE_SECONDS" in line


@pytest.mark.parametrize("command", ["up", "migrate"])
async def test_a_database_that_cannot_be_reached_is_one_line(tmp_path: Path, command: str) -> None:
    urls = {
        "DATABASE_URL": f"postgresql://stt:hidden@/stt?host={tmp_path}",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    code, _, err = await stt(command, data_dir=tmp_path / "data", **urls)
    [line] = [line for line in err.splitlines() if "warning" not in line]
    assert code == 1
    assert line.startswith(f"stt {command}: STT_DATABASE_URL: PostgreSQL does not answer: ")
    assert "hidden" not in err


async def test_a_role_alone_asks_for_the_servers(tmp_path: Path) -> None:
    for role in ("web", "worker", "maintenance", "migrate"):
        code, _, err = await stt(role, data_dir=tmp_path / "data")
        assert code == 2
        assert "STT_DATABASE_URL" in err


class Dying:
    """A service that ends at once, and now and then does not start."""

    name = "dying"

    def __init__(self, refuses: int = 0) -> None:
        self.starts, self.refuses = 0, refuses

    async def start(self) -> None:
        if self.refuses:
            self.refuses -= 1
            raise OSError("no memory")
        self.starts += 1

    async def wait(self) -> str:
        return "exit code 1"

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        raise AssertionError("it is not stopped")


async def delays(service: Dying, count: int) -> list[float]:
    """How long the supervisor waits before each of `count` starts, told without waiting."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == count:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await roles.keep(service, sleep)
    return waited


async def test_a_child_that_keeps_dying_is_started_less_and_less_often() -> None:
    assert await delays(Dying(), 8) == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_child_that_cannot_be_started_is_tried_again() -> None:
    service = Dying(refuses=2)
    assert await delays(service, 4) == [1, 2, 4, 8]
    assert service.starts == 1


async def test_a_life_of_a_minute_forgives_earlier_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 61))
    monkeypatch.setattr(roles, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert await delays(Dying(), 3) == [1, 1, 1]


async def test_the_last_words_of_a_child_are_kept() -> None:
    lines: list[str] = []
    program = ["/bin/sh", "-c", "echo first; echo out of memory >&2; exit 3"]
    child = await Child.start(program, on_line=lines.append)
    assert await child.wait() == 3
    assert child.how_it_ended() == "exit code 3\n  first\n  out of memory"
    assert lines == ["first", "out of memory"]


def gpu_machine(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A machine whose driver lists so many GPUs."""
    listing = "".join(f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{n}{n}-aa)\n" for n in range(count))
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_every_gpu_gets_a_worker_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({}, Path("/nonexistent"))
    gpu_machine(tmp_path, monkeypatch, 3)
    assert gpus.usable(settings) == ["GPU-00-aa", "GPU-11-aa", "GPU-22-aa"]
    for chosen, expected in (
        ("0,2", ["0", "2"]), ("GPU-11-aa", ["GPU-11-aa"]), ("", []), ("-1", []), ("1,-1,0", ["1"]),
    ):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert gpus.usable(settings) == expected


def test_without_a_gpu_nothing_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_machine(tmp_path, monkeypatch, 0)
    assert gpus.usable(load({}, Path("/nonexistent"))) == []
    gpu_machine(tmp_path, monkeypatch, 2)
    assert gpus.usable(load({"STT_DEVICE": "cpu"}, Path("/nonexistent"))) == []


async def test_each_worker_sees_only_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_machine(tmp_path, monkeypatch, 2)
    with hold(tmp_path / "data") as lock:
        settings = load({"STT_DATA_DIR": str(tmp_path / "data")}, Path("/nonexistent"))
        supervised = supervisor.Supervisor(settings, lock)
        supervised.make_roles()
    assert {role.name: role.env.get("CUDA_VISIBLE_DEVICES") for role in supervised.roles} == {
        "web": None,
        "maintenance": None,
        "worker 1": "GPU-00-aa",
        "worker 2": "GPU-11-aa",
    }


async def test_as_many_workers_as_asked_for(tmp_path: Path) -> None:
    async with up(prepared(tmp_path / "data"), WORKERS="2") as running:
        await until("both workers run", lambda: workers(running, 2))


async def workers(running: Up, count: int) -> bool:
    return list(running.titles().values()).count("stt worker") == count
