"""What only the real engine can show: what it refuses, what it runs out of, what it does again."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import re
import signal
import wave
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs import lookup, results
from stt.jobs.model import Job, Status
from stt.settings import load
from stt.storage import Storage
from tests.support import hostile
from tests.support.faults import (
    LEASE,
    SHORT,
    SPAN,
    Environ,
    attempt,
    begun,
    completed,
    due,
    following_is_done,
    in_order,
    inside,
    pid,
    role,
    spans,
    told,
    until,
    waiting,
)
from tests.support.jobs import again
from tests.support.places import ROOT
from workers.attempt import Context
from workers.engine import rates
from workers.engine.progress import ENGINE_SHARE

pytestmark = [pytest.mark.engine, pytest.mark.process]


@pytest.fixture
def fake_engine() -> None:
    """None here: it stays the real one."""


@pytest.fixture
def model(real_model: str) -> str:
    return real_model


@pytest.fixture(scope="session")
def recording(long_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough speech for four spans."""
    path = tmp_path_factory.mktemp("recording") / "recording.wav"
    with wave.open(str(long_recording)) as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(40 * source.getframerate()))
    return path


async def test_what_could_never_be_transcribed_is_failed_at_once(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    (storage.root / job.file_path).write_text("no recording at all\n" * 50)
    await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 1, "not_media")
    assert "attempts" not in str(failed.error_message)


async def test_a_recording_that_turns_out_too_long_is_failed_at_once(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, tmp_path: Path
) -> None:
    """No probe has seen it, or its header did not tell."""
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000 * 40))
    job = await waiting(pool, storage, path, model)
    limited = load(environ | {"STT_MAX_DURATION_SECONDS": "20"}, Path("/nonexistent"))
    async with inside(limited, pool, redis, storage) as context:
        await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 1, "too_long")
    assert "at most 20 s" in str(failed.error_message)
    assert "STT_MAX_DURATION_SECONDS" in str(failed.error_message)


async def test_only_a_file_that_takes_too_much_memory_by_itself_is_failed_at_once(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The engine's process is not ended by it: it goes on with the next job."""
    hungry = tmp_path / "hungry.flac"
    hungry.write_bytes(hostile.flac(1_000, 8))
    lines = (
        "from stt import resources\nfrom stt.process import sandbox\n"
        "resources.decoding_ceiling = lambda: 350 * 2**20\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    (tmp_path / "sitecustomize.py").write_text(lines)  # every process begins with it
    job = await waiting(pool, storage, hungry, model)
    await attempt(context)
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 1, "too_much_memory")
    assert context.engine.running
    await context.engine.close()
    (tmp_path / "sitecustomize.py").write_text(lines + "sandbox.is_own_limit = lambda ceiling: False\n")
    job = await waiting(pool, storage, hungry, model)
    await attempt(context)
    waits = await again(pool, job)
    assert (waits.status, waits.error_code) == (Status.PENDING, "out_of_memory")


async def test_an_engine_that_cannot_import_its_libraries_says_which(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "ctranslate2.py").write_text("raise ImportError('libcublas.so.12 is missing')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    waits = await again(pool, job)
    assert (waits.status, waits.error_code) == (Status.PENDING, "engine_died")
    assert "ImportError: libcublas.so.12 is missing" in str(waits.error_message)
    assert "\n" not in str(waits.error_message)


async def test_a_try_after_one_without_enough_memory_computes_with_smaller_numbers_and_says_so(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    settings = load(environ | {"STT_COMPUTE_TYPE": "float32"}, Path("/nonexistent"))
    job = await waiting(pool, storage, SHORT, model)
    async with inside(settings, pool, redis, storage) as context:
        await context.engine.start()
        process = psutil.Process(pid(context))
        await until(lambda: process.cmdline()[:1] == ["stt engine"])  # its libraries are loaded
        room = process.memory_info().vms + 2**26
        process.rlimit(psutil.RLIMIT_AS, (room, room))
        await attempt(context)
        waits = await again(pool, job)
        assert (waits.status, waits.error_code) == (Status.PENDING, "out_of_memory")
        assert not process.is_running()  # the memory that it holds is given back
        await due(pool, job)
        await attempt(context)
        done = await completed(pool, job)
    told = {warning["code"]: warning["message"] for warning in done.warnings}
    assert "int8 instead of float32" in told["smaller_compute_type"]


async def test_only_the_speakers_are_told_apart_where_only_they_are_missing(
    context: Context, client: TestClient, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model, diarize=True)
    running = attempt(context)
    await until(lambda: context.engine.pid and telling_speakers(context.engine.pid))
    for child in telling_speakers(pid(context)):
        child.kill()
    await running
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["speakers_failed"]
    kept = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
    assert len(kept) > 1
    # First as it was asked for, then for other speakers.
    for version, asked in ((2, {}), (3, {"max_speakers": 1})):
        async with client.post(f"/api/jobs/{job.id}/retry", json=asked) as response:
            assert response.status == 200
        caplog.clear()
        with caplog.at_level(logging.INFO, "workers.engine"):
            await attempt(context)
            await until(lambda: "'audio_seconds': 0.0" in caplog.text)  # nothing was decoded
        again_ = await again(pool, job)
        assert (again_.status, again_.warnings) == (Status.COMPLETED, [])
        assert (again_.transcription_text, again_.language) == (done.transcription_text, "en")
        assert again_.duration_seconds == done.duration_seconds
        assert await pool.fetch("select * from spans where job_id = $1 order by number", job.id) == kept
        newest = await results.latest_transcript(pool, again_)
        assert newest
        assert newest["version"] == version
        assert {segment["speaker"] for segment in newest["segments"]} >= {"SPEAKER_00"}


def telling_speakers(engine: int) -> list[psutil.Process]:
    """The engine's children that tell speakers apart; others decode."""
    family = psutil.Process(engine).children()
    return [child for child in family if re.search("diarize|stt speakers", " ".join(child.cmdline()))]


async def test_speakers_that_cannot_be_started_beside_cost_no_text(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    threads = {"STT_THREADS": "1", "STT_WORKERS": "1"}
    settings = load(environ | threads, Path("/nonexistent"))
    folder = settings.data_dir / "models" / "speakers"
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")
    job = await waiting(pool, storage, SHORT, model, diarize=True)
    async with inside(settings, pool, redis, storage) as context:
        await attempt(context)
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["speakers_failed"]


async def test_a_long_recording_whose_worker_is_killed_runs_elsewhere_in_time_and_does_one_span_again(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str, long_recording: Path
) -> None:
    """One span at most; and in time is within the lease and five seconds, by PostgreSQL's clock."""
    async with (
        role(environ, "workers.transcriber") as one,
        role(environ, "workers.transcriber") as other,
        role(environ, "workers.maintenance"),
    ):
        job = await begun(pool, redis, storage, long_recording, model)
        first, second = await in_order(pool, job, one, other)
        await until(lambda: is_at(pool, job, 0.8))
        killed_at = await lookup.server_time(pool)
        first.process.kill()
        assert await first.ended() == -signal.SIGKILL
        left = await again(pool, job)
        kept = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
        taken = await until(lambda: claimed_after(pool, left))
        await completed(pool, job)
        assert second.logged(str(job.id))
    assert left.status is Status.PROCESSING
    assert taken.claimed_at - killed_at <= dt.timedelta(seconds=LEASE + 5)
    rows = await pool.fetch("select * from spans where job_id = $1 order by number", job.id)
    assert rows[: len(kept)] == kept  # not one that was saved was done again
    assert rows[-1]["last"]
    # What is decoded ahead, by two spans at most, counts a little in the progress.
    guesses = rates.FIRST_GUESSES["cpu"]
    decoding = guesses["decode"] / (guesses["decode"] + guesses["recognise"])
    heard = left.progress / ENGINE_SHARE * rows[-1]["end"] - decoding * 2 * SPAN
    assert heard - kept[-1]["end"] <= SPAN


async def is_at(pool: asyncpg.Pool, job: Job, progress: float) -> bool:
    return (await again(pool, job)).progress >= progress


async def claimed_after(pool: asyncpg.Pool, before: Job) -> Job | None:
    found = await again(pool, before)
    return found if found.claim > before.claim else None


async def test_a_cancelled_jobs_engine_ends_within_two_seconds_and_nothing_comes_after(
    context: Context, client: TestClient, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str,
    recording: Path,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model)
    async with told(redis) as events:
        running = attempt(context)
        await until(lambda: spans(pool, job))
        async with client.post(f"/api/jobs/{job.id}/cancel") as response:
            assert response.status == 200
        await until(lambda: not context.engine.running, 2)
        await asyncio.wait_for(running, 5)
        cancelled = await again(pool, job)
        await following_is_done(context, events, model)
    assert (cancelled.status, cancelled.transcription_text) == (Status.CANCELLED, None)
    assert await again(pool, job) == cancelled
    own = [event for whose, event in events if whose == str(job.id)]
    assert own.index("cancelled") == len(own) - 1


async def test_an_engine_that_waits_at_a_pipe_into_which_nobody_writes_is_replaced(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str
) -> None:
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)  # its libraries are loaded now
    await completed(pool, job)
    stuck = await waiting(pool, storage, SHORT, model)
    (storage.root / stuck.file_path).unlink()
    os.mkfifo(storage.root / stuck.file_path)
    context.engine.stuck_seconds = 5  # two beats
    old = pid(context)
    await asyncio.wait_for(attempt(context), 30)
    waits = await again(pool, stuck)
    assert (waits.status, waits.error_code) == (Status.PENDING, "engine_hung")
    assert not psutil.pid_exists(old)
