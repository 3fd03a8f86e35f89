"""A storage that is full, read-only or away costs a wait."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs.model import Status
from stt.settings import Settings
from stt.storage import Storage
from tests.support.faults import SHORT, Environ, attempt, completed, due, waiting
from tests.support.jobs import again
from tests.support.metrics import of_this_process
from tests.support.uploads import form, stored
from workers import maintenance
from workers.attempt import Context

pytestmark = pytest.mark.process


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")


@pytest.fixture
def small_disk(environ: Environ, tmp_path: Path) -> Iterator[Path]:
    """A storage with room for 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    environ["STT_STORAGE_URL"] = f"file://{folder}"
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def too_much(path: Path) -> aiohttp.FormData:
    path.write_bytes(SHORT.read_bytes() + bytes(8 * 2**20))
    return form(path, "big.flac")


@root_only
async def test_a_disk_that_fills_up_during_an_upload_is_507_and_the_service_lives(
    small_disk: Path, client: TestClient, tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stt.web.upload._check_size", lambda _: None)  # else it is refused before
    async with client.post("/api/jobs/upload", data=too_much(tmp_path / "big")) as response:
        assert response.status == 507
        assert (await response.json(content_type=None))["code"] == "disk_full"
    assert stored(storage) == []
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 201


@root_only
async def test_an_upload_for_which_there_is_no_room_is_507_at_once(
    small_disk: Path, client: TestClient, storage: Storage
) -> None:
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 507
    assert stored(storage) == []


@root_only
async def test_a_read_only_storage_is_503_with_a_time_to_come_back(
    small_disk: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stt.web.upload._check_size", lambda _: None)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    async with client.get("/health/ready") as response:
        assert response.status == 503
        assert "Read-only" in (await response.json())["checks"]["storage"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    async with client.post("/api/jobs/upload", data=form(SHORT)) as response:
        assert response.status == 201


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
async def test_a_result_that_finds_no_room_waits_and_spends_no_attempt(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, SHORT, model)
    write = context.storage.write

    async def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(context.storage, "write", full)
    for _ in range(3):  # more than there are attempts
        await due(pool, job)
        await attempt(context)
        waits = await again(pool, job)
        assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 0, "storage_failed")
        assert waits.retry_at
    monkeypatch.setattr(context.storage, "write", write)
    await due(pool, job)
    await attempt(context)
    assert (await completed(pool, job)).attempt == 1


async def test_a_waiting_job_whose_recording_is_gone_is_failed_with_that_reason(
    pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, settings: Settings, model: str
) -> None:
    kept = await waiting(pool, storage, SHORT, model)
    lost = await waiting(pool, storage, SHORT, model)
    (storage.root / lost.file_path).unlink()
    before = of_this_process()
    await asyncio.gather(*(maintenance.fail_lost(pool, redis, storage, settings) for _ in range(2)))
    gone = {"status": "failed", "error_code": "file_gone"}
    counted = [metrics.sum("stt_jobs_ended_total", **gone) for metrics in (before, of_this_process())]
    assert counted[1] - counted[0] == 1
    failed = await again(pool, lost)
    assert (failed.status, failed.error_code) == (Status.FAILED, "file_gone")
    assert (await again(pool, kept)).status is Status.PENDING


async def test_no_job_is_failed_while_the_whole_storage_is_away(
    pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, settings: Settings, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    storage.root.rename(storage.root.with_name("unmounted"))
    await maintenance.fail_lost(pool, redis, storage, settings)
    assert (await again(pool, job)).status is Status.PENDING


async def test_no_job_is_failed_where_the_storage_was_not_mounted_at_the_start(
    context: Context, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, settings: Settings, model: str
) -> None:
    waits = [await waiting(pool, storage, SHORT, model) for _ in range(2)]
    storage.root.rename(storage.root.with_name("unmounted"))
    Storage(storage.root)  # a process that starts makes its folders where they are missing
    await maintenance.fail_lost(pool, redis, storage, settings)
    await attempt(context)
    for job in [await again(pool, one) for one in waits]:
        assert (job.status, job.attempt) == (Status.PENDING, 0)
    shutil.rmtree(storage.root)
    storage.root.with_name("unmounted").rename(storage.root)
    for job in waits:
        await due(pool, job)
        await attempt(context)
    for job in waits:
        await completed(pool, job)


async def test_a_worker_that_finds_no_recording_fails_the_job_at_once(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    (storage.root / job.file_path).unlink()
    await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.error_code) == (Status.FAILED, "file_gone")
