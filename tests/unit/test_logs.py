"""Lines of the log: their form, and what may not be in them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest

from stt import logs, tracebacks
from stt.settings import Settings, SettingsError, load
from tests.support.places import ROOT
from workers.engine import output

PROGRAM = """
import logging, sys, threading, warnings
import structlog
from structlog.contextvars import bound_contextvars
from stt import logs, settings
logs.setup(settings.load({{"STT_LOG_FORMAT": "{form}"}}), "worker")
log = structlog.stdlib.get_logger("stt.here")
with bound_contextvars(job_id="j"):
    log.info("one", number=1)
    logging.getLogger("library").warning("it %s", "says")
log.debug("not shown")
warnings.warn("old")
try:
    raise OSError(2, "No such file", "secret.wav")
except OSError:
    log.exception("two")
threading.Thread(target=lambda: 1 / 0).start()
raise RuntimeError("three")
"""
TIME = "2026-01-31T12:00:00.123Z"
KEYS = {"timestamp", "level", "event", "logger", "role"}


def run(form: str) -> list[str]:
    program = [sys.executable, "-c", PROGRAM.format(form=form)]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False).stderr.splitlines()


def test_every_line_is_an_object_also_of_libraries_warnings_threads_and_a_crash() -> None:
    lines = [json.loads(line) for line in run("json")]
    assert all(line.keys() >= KEYS and line["role"] == "worker" for line in lines)
    one, library, warning, two, thread, crash = lines
    assert (one["event"], one["number"], one["job_id"], one["level"]) == ("one", 1, "j", "info")
    assert (library["event"], library["logger"], library["job_id"]) == ("it says", "library", "j")
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert two["exception"].endswith("FileNotFoundError: No such file")
    assert "job_id" not in two
    assert thread["exception"].endswith("ZeroDivisionError: division by zero")
    assert (crash["level"], crash["exception"].splitlines()[-1]) == ("critical", "RuntimeError: three")


def test_the_console_has_time_level_event_and_keys_and_no_colours_in_a_file() -> None:
    first, *others = run("console")
    time, *words = first.split(" ")
    assert re.fullmatch(r"[0-9-]{10}T[0-9:.]{12}Z", time)
    assert words[:3] == ["[info]", "one", "[stt.here]"]
    assert set(words[3:]) == {"role=worker", "job_id=j", "number=1"}
    assert "Traceback (most recent call last):" in others
    assert "\x1b" not in "".join([first, *others])


class Quoting(ValueError):
    pass


@pytest.mark.parametrize("kind", [ValueError, KeyError, Quoting], ids=lambda kind: kind.__name__)
def test_errors_that_quote_a_value_are_written_without_it(kind: type[Exception]) -> None:
    try:
        try:
            raise kind("secret")
        except kind as first:
            raise RuntimeError("next") from first
    except RuntimeError as error:
        text = tracebacks.text(error)
    before, after = text.split("direct cause")
    assert before.splitlines()[-3] == kind.__name__
    assert after.endswith("RuntimeError: next")
    assert "secret\n" not in text


def test_all_errors_of_a_group_are_in_its_text() -> None:
    text = tracebacks.text(ExceptionGroup("both", [RuntimeError("one"), OSError(2, "two", "secret")]))
    assert "RuntimeError: one" in text
    assert "FileNotFoundError: two" in text
    assert "secret" not in text


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "STORAGE_URL", "SERVER", "SENTRY_DSN"])
def test_a_bad_address_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({f"STT_{name}": "wrong://me:pa55word@host"})
    assert str(caught.value).startswith(f"STT_{name}: must be empty or start with ")
    assert "pa55word" not in str(caught.value)
    assert "pa55word" not in repr(Settings(hf_token="pa55word"))


def line(**keys: Any) -> str:
    given = {
        "timestamp": "2026-01-31T12:00:00.123Z",
        "level": "info",
        "event": "ready",
        "logger": "workers.x",
    }
    return json.dumps({**given, **keys})


def test_a_line_of_the_engine_keeps_its_level_logger_and_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    output.relay(line(level="error", job_id="of the engine", pid=1), {"job_id": "of the worker"})
    output.relay('{"a library": "says"}', {"job_id": "of the worker"})
    output.relay("", {})
    own, other = caplog.records
    assert (own.levelname, own.name) == ("ERROR", "workers.x")
    kept = {"event": "ready", "role": "engine", "job_id": "of the engine", "pid": 1}
    assert {key: own.msg[key] for key in kept} == kept
    kept = {"event": "engine output", "role": "engine", "job_id": "of the worker"}
    assert other.msg == {**kept, "text": '{"a library": "says"}'}


def test_the_last_lines_of_an_engine_are_text() -> None:
    lines = ["plain", line(job_id="j", device="cpu"), line(level="error", exception="Traceback\nOops: no")]
    assert output.readable(lines).splitlines() == [
        "plain",
        "2026-01-31T12:00:00.123Z INFO workers.x ready device=cpu",
        "2026-01-31T12:00:00.123Z ERROR workers.x ready",
        "Traceback",
        "Oops: no",
    ]
    assert output.last_error(lines) == "Oops: no"
    assert output.last_error(lines[:2]) == "plain"
    assert output.last_error(lines[1:2]) == ""


def test_keys_of_the_process_are_in_the_context_until_they_are_removed() -> None:
    logs.bind_process(job_id="j")
    assert logs.context()["job_id"] == "j"
    logs.bind_process(job_id=None)
    assert "job_id" not in logs.context()
