"""`stt transcribe`: from files on disk to text, against a running service or one started for it."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from click.testing import CliRunner
from rich.progress import Progress

from stt import __version__
from stt.cli import cli
from stt.client.http import Client, Event, events
from stt.client.transcribe import FileRun, Target
from stt.jobs.options import JobOptions
from tests.support.places import SAMPLES
from tests.support.up import Up, environment, prepared, private_folder, stt, up

pytestmark = [pytest.mark.engine, pytest.mark.process]

ENGLISH = SAMPLES / "en-demo-abouttotry.flac"
RUSSIAN = SAMPLES / "ru-tt-allbusy.flac"


@pytest.fixture(name="tmp_path")
def _private_folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Up]:
    with private_folder() as folder:
        async with up(prepared(folder / "data"), MAX_UPLOAD_BYTES="1000000") as started:
            yield started


async def transcribe(running: Up, *arguments: object) -> tuple[int, str, str]:
    return await stt("transcribe", *map(str, arguments), data_dir=running.data_dir)


def words(text: str) -> set[str]:
    return {word.strip(".,").lower() for word in text.split()}


async def test_the_text_is_printed_and_nothing_else(running: Up) -> None:
    code, out, _ = await transcribe(running, ENGLISH, "--language", "en")
    assert code == 0
    assert {"please", "wait", "moment", "connection", "internet"} <= words(out)


async def test_results_are_files_named_after_the_input(running: Up, tmp_path: Path) -> None:
    code, out, _ = await transcribe(
        running, ENGLISH, RUSSIAN, "--format", "srt,vtt", "--output", tmp_path / "new"
    )
    assert (code, out) == (0, "")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        f"{sample.stem}.{name}" for sample in (ENGLISH, RUSSIAN) for name in ("srt", "vtt")
    }
    assert "-->" in (tmp_path / "new" / "en-demo-abouttotry.srt").read_text(encoding="utf-8")


async def test_one_that_fails_does_not_stop_the_others(running: Up, tmp_path: Path) -> None:
    letter = tmp_path / "letter.mp3"
    letter.write_text("Dear Sir or Madam")
    code, out, err = await transcribe(running, letter, ENGLISH)
    assert code == 1
    assert "connection" in words(out)
    [line] = [line for line in err.splitlines() if line.startswith(str(letter))]
    assert len(line) > len(str(letter)) + 10
    assert "Traceback" not in err


async def test_a_file_over_the_limit_is_told_in_the_middle_of_its_upload(running: Up, tmp_path: Path) -> None:
    film = tmp_path / 'a "long" film ä.mkv'
    with film.open("wb") as file:
        file.truncate(50_000_000)
    code, _, err = await transcribe(running, film)
    assert code == 1
    assert "larger than 1000000 bytes" in err


async def test_a_bad_option_is_told_as_the_service_tells_it(running: Up) -> None:
    code, _, err = await transcribe(running, ENGLISH, "--model", "enormous")
    assert code == 1
    assert "model: 'enormous' is not one of" in err


async def test_a_server_may_be_named(running: Up, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    arguments = ("transcribe", str(ENGLISH), "--server", running.url)
    code, out, _ = await stt(*arguments, data_dir=elsewhere)
    assert code == 0
    assert "connection" in words(out)
    assert not elsewhere.exists()


async def test_a_server_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    arguments = ("transcribe", str(ENGLISH), "--server", "http://127.0.0.1:9")
    code, _, err = await stt(*arguments, data_dir=tmp_path / "data")
    assert code == 1
    assert "127.0.0.1:9" in err
    assert "Traceback" not in err


async def test_control_c_cancels_the_job(running: Up) -> None:
    worker = await running.until_child("stt worker")
    worker.suspend()  # so that the job waits
    try:
        process = await subprocess.create_subprocess_exec(
            sys.executable, "-m", "stt", "transcribe", str(ENGLISH),
            env=environment(running.data_dir), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        job = await newest_job(running, status="pending")
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 130
        assert (await newest_job(running))["id"] == job["id"]
        assert (await newest_job(running))["status"] == "cancelled"
    finally:
        worker.resume()


class Slow:
    """A service that has an upload and has not said so yet."""

    def __init__(self) -> None:
        self.has_it, self.answers = asyncio.Event(), asyncio.Event()
        self.cancelled: list[str] = []

    async def upload(self, _name: str, file: Any, _fields: Any) -> dict[str, str]:
        while file.read(2**16):
            pass
        self.has_it.set()
        await self.answers.wait()
        return {"id": "1"}

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)


async def test_control_c_cancels_a_job_whose_id_is_still_on_its_way() -> None:
    service = Slow()
    with Progress(disable=True) as bars:
        run = FileRun(cast(Client, service), bars, ENGLISH, {})
        task = asyncio.create_task(run.run({}, asyncio.Lock()))
        await service.has_it.wait()
        task.cancel()
        service.answers.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert service.cancelled == ["1"]


async def newest_job(running: Up, **query: str) -> dict[str, str]:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{running.url}/api/jobs", params=query) as answer:
                jobs = (await answer.json())["jobs"]
            if jobs:
                return dict(jobs[0])
            await asyncio.sleep(0.02)


async def test_without_a_service_one_is_started_for_the_run(tmp_path: Path) -> None:
    process = await subprocess.create_subprocess_exec(
        sys.executable, "-m", "stt", "transcribe", str(ENGLISH),
        env=environment(tmp_path / "data"), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, err.decode()
    assert "connection" in words(out.decode())
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_every_option_field_of_an_upload_is_an_option() -> None:
    text = CliRunner().invoke(cli, ["transcribe", "--help"]).output
    for name in JobOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_help_has_a_line_for_each_command() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    for name in ("up", "web", "worker", "maintenance", "migrate", "transcribe", "doctor"):
        assert f"\n  {name} " in text
    assert __version__ in CliRunner().invoke(cli, ["--version"]).output


def test_an_unknown_format_is_named() -> None:
    result = CliRunner().invoke(cli, ["transcribe", str(ENGLISH), "--format", "srt,pdf"])
    assert result.exit_code == 2
    assert "'pdf' is not one of" in result.output


def test_no_result_overwrites_another_inputs_result_or_an_input(tmp_path: Path) -> None:
    inputs = [tmp_path / name for name in ("a.mp3", "a.wav", "b/a.wav", "c.txt")]
    target = Target(("txt",), tmp_path, {path.resolve() for path in inputs})
    names = [target.reserve(path)["txt"].name for path in inputs]
    assert names == ["a.txt", "a.wav.txt", "a.wav-2.txt", "c.txt.txt"]


async def parsed(text: str) -> list[Event]:
    stream = aiohttp.StreamReader(aiohttp.base_protocol.BaseProtocol(asyncio.get_running_loop()), 2**16)
    stream.feed_data(text.encode())
    stream.feed_eof()
    return [event async for event in events(stream)]


async def test_events_are_parsed_as_browsers_do() -> None:
    text = (
        ": a comment\r\n\r\nid: 7\r\nevent: segment\r\ndata: {}\r\n\r\n"
        "data:first\ndata: second\n\nevent: empty\n\ndata: cut off"
    )
    assert await parsed(text) == [
        Event("segment", "7", "{}"),
        Event("message", "7", "first\nsecond"),
    ]
