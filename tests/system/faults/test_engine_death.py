"""The engine dies or gets no further: the job waits, and the next one goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiohttp.test_utils import TestClient
from arq import ArqRedis

from stt.jobs.model import Status
from stt.settings import load
from stt.storage import Storage
from stt.transcript import formats, speakers
from tests.support.faults import (
    SHORT,
    Environ,
    attempt,
    completed,
    due,
    inside,
    pid,
    script,
    spans,
    spans_beyond,
    until,
    waiting,
)
from tests.support.jobs import again
from workers.attempt import Context
from workers.transcriber import _end_when_idle

pytestmark = pytest.mark.process


async def test_a_file_that_kills_its_engine_each_time_is_failed_and_the_next_one_goes_on(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path
) -> None:
    job = await waiting(pool, storage, recording, model)
    for number in (1, 2):
        await due(pool, job)
        running = attempt(context)
        await until(lambda before=number: spans_beyond(pool, job, before - 1))
        os.kill(pid(context), signal.SIGKILL)
        await running
    failed = await again(pool, job)
    assert (failed.status, failed.attempt, failed.error_code) == (Status.FAILED, 2, "engine_died")
    assert failed.error_message
    assert "killed" in failed.error_message
    assert "2 attempts" in failed.error_message
    following = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    await completed(pool, following)


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGSEGV, "engine_died", "SIGSEGV"),
        (signal.SIGABRT, "engine_died", "SIGABRT"),  # how a fatal error of Python ends
        (signal.SIGSTOP, "engine_hung", "got no further"),
    ],
)
async def test_an_engine_that_crashes_or_hangs_is_told_in_a_sentence_and_replaced(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, recording: Path,
    number: signal.Signals, code: str, sentence: str,
) -> None:  # fmt: skip
    job = await waiting(pool, storage, recording, model)
    context.engine.silent_seconds = 3.6  # three beats
    running = attempt(context)
    await until(lambda: spans(pool, job))
    old = pid(context)
    os.kill(old, number)
    await asyncio.wait_for(running, 30)
    waits = await again(pool, job)
    assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 1, code)
    assert sentence in str(waits.error_message)
    assert "model" in str(waits.error_log)  # its last lines: it had loaded one
    assert not psutil.pid_exists(old)
    await due(pool, job)
    await attempt(context)
    assert (await completed(pool, job)).attempt == 2


async def test_an_engine_that_lives_but_gets_no_further_is_replaced(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, tmp_path: Path
) -> None:
    stuck = await waiting(pool, storage, script(tmp_path, spans=1, stuck=True), model)
    await context.engine.start()
    context.engine.stuck_seconds = 3  # two beats
    old = pid(context)
    await asyncio.wait_for(attempt(context), 30)
    waits = await again(pool, stuck)
    assert (waits.status, waits.error_code) == (Status.PENDING, "engine_hung")
    assert not psutil.pid_exists(old)


async def test_a_result_that_cannot_be_rendered_is_kept_all_the_same(
    context: Context, client: TestClient, pool: asyncpg.Pool, storage: Storage, model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    job = await waiting(pool, storage, SHORT, model)
    with monkeypatch.context() as broken:
        broken.setattr(formats, "to_json", fail)
        await attempt(context)
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["rendering_failed"]
    assert "demonstration" in str(done.transcription_text).lower()  # processors differ in capitals
    for format_ in ("json", "srt"):
        async with client.get(f"/api/jobs/{job.id}/download?format={format_}") as response:
            assert response.status == 200
            assert "demonstration" in (await response.text()).lower()


async def test_an_engine_without_work_ends_after_a_while(
    environ: Environ, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage, model: str
) -> None:
    settings = load(environ | {"STT_MODEL_IDLE_SECONDS": "1"}, Path("/nonexistent"))
    async with inside(settings, pool, redis, storage) as context:
        await context.engine.start()
        context.idle_since = time.monotonic()
        idle = asyncio.create_task(_end_when_idle(context))
        await until(lambda: not context.engine.running)
        job = await waiting(pool, storage, SHORT, model)
        running = attempt(context)
        await until(lambda: context.attempt and context.engine.running)
        context.idle_since = 0.0  # long ago, but it has work now
        await running
        assert await completed(pool, job)
        await until(lambda: not context.engine.running)
        idle.cancel()


async def test_an_engine_that_cannot_be_started_costs_an_attempt_and_says_so(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(context.engine, "start", fail)
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    waits = await again(pool, job)
    assert (waits.status, waits.attempt, waits.error_code) == (Status.PENDING, 1, "engine_died")
    assert "could not be started" in str(waits.error_message)


async def test_words_that_cannot_be_given_to_speakers_are_kept_without(
    context: Context, pool: asyncpg.Pool, storage: Storage, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(speakers, "assign", fail)
    job = await waiting(pool, storage, SHORT, model)
    await attempt(context)
    done = await completed(pool, job)
    assert [warning["code"] for warning in done.warnings] == ["speakers_failed"]
