"""What would be sent to Sentry: errors of ours, without data."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sentry_sdk
import structlog
from aiohttp.test_utils import TestClient
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from structlog.contextvars import bound_contextvars

from stt import __version__, logs
from stt.outages import UNAVAILABLE, DatabaseUnavailable
from stt.settings import Settings
from stt.telemetry import sentry
from tests.support.places import ROOT
from tests.support.uploads import form, send
from workers.engine import output

MARK = "Zw3rg"
DSN = "https://public@sentry.invalid/1"
PARTS = {
    "event_id", "timestamp", "platform", "level", "logger", "release", "environment", "sdk", "server_name",
    "logentry", "tags", "exception",
}  # fmt: skip
log = structlog.stdlib.get_logger(__name__)


class Kept(Transport):
    """Keeps what would be sent."""

    sent: ClassVar[list[dict[str, Any]]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            assert item.type == "event"
            self.sent.append(json.loads(item.get_bytes()))


Start = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    def started(role: str) -> list[dict[str, Any]]:
        given = settings.model_copy(update={"sentry_dsn": DSN})
        logs.bind_process(role=role)
        sentry.setup(given, role, outages=UNAVAILABLE, transport=Kept)
        return Kept.sent

    Kept.sent.clear()
    yield started
    sentry_sdk.get_global_scope().set_client(None)
    logs.bind_process(role=None)


def check(event: dict[str, Any]) -> None:
    assert event.keys() <= PARTS, event.keys()
    assert MARK not in json.dumps(event)
    assert event["release"] == f"stt@{__version__}"
    for error in event.get("exception", {}).get("values", []):
        assert error.keys() <= {"type", "module", "value", "stacktrace"}
        assert not [
            frame for frame in error["stacktrace"]["frames"] if "vars" in frame or "abs_path" in frame
        ]


async def test_a_fault_in_an_upload_is_sent_without_the_request(
    start: Start, client: TestClient, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = start("web")

    async def fail(_pool: object, new: Any) -> None:
        raise ValueError(f"{new.original_filename} is not what it was")

    monkeypatch.setattr("stt.jobs.lifecycle.create", fail)
    headers = {"X-Request-ID": "r-1", "Cookie": MARK, "Authorization": MARK}
    status, _ = await send(client, form(tone, f"{MARK}.wav", hotwords=MARK), headers=headers)
    assert status == 500
    [event] = events
    check(event)
    assert (event["level"], event["logentry"]["message"]) == ("error", "the row could not be inserted")
    assert (event["tags"]["role"], event["tags"]["request_id"]) == ("web", "r-1")
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "")
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"


async def test_mistakes_of_clients_and_outages_are_not_sent(
    start: Start, client: TestClient, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = start("web")
    assert (await send(client, form(tone, task=MARK)))[0] == 422
    assert (await send(client, form(None)))[0] == 422

    async def fail(*_: object) -> None:
        raise DatabaseUnavailable("PostgreSQL does not answer")

    monkeypatch.setattr("stt.jobs.lifecycle.create", fail)
    assert (await send(client, form(tone)))[0] == 503
    assert events == []


def test_a_failed_attempt_is_sent_with_its_job(start: Start) -> None:
    events = start("worker")
    with bound_contextvars(job_id="j-1", request_id="r-1", owner=MARK, attempt=2):
        try:
            raise OSError(28, "No space left on device", f"/data/{MARK}.wav")
        except OSError:
            log.exception("the attempt failed", text=MARK)
        logging.getLogger("library").error("it said %s", MARK)
        log.warning("attempt failed", code="internal")
    first, second = events
    for event in events:
        check(event)
        assert event["tags"] == {"role": "worker", "job_id": "j-1", "request_id": "r-1"}
    assert first["logentry"]["message"] == "the attempt failed"
    assert first["exception"]["values"][0]["value"] == "No space left on device"
    assert second["logentry"]["message"] == "an error of a library"


def test_an_error_of_the_engine_is_sent_by_the_engine_alone(start: Start) -> None:
    events = start("worker")
    line = {"timestamp": "t", "level": "error", "event": "the engine failed", "logger": "workers.engine"}
    output.relay(json.dumps({**line, "role": "engine"}), {})
    assert events == []
    start("engine")
    logs.bind_process(job_id="j-1", request_id="r-1")
    try:
        raise RuntimeError(f"cannot align {MARK}")
    except RuntimeError:
        log.exception("the engine failed")
    finally:
        logs.bind_process(job_id=None, request_id=None)
    [event] = events
    check(event)
    assert event["tags"] == {"role": "engine", "job_id": "j-1", "request_id": "r-1"}


async def test_a_task_that_nobody_waits_for_is_sent(start: Start) -> None:
    events = start("web")
    asyncio.get_running_loop().call_exception_handler({"message": MARK, "exception": RuntimeError(MARK)})
    [event] = events
    check(event)


def test_without_a_dsn_the_library_is_not_loaded() -> None:
    program = (
        "import sys; from stt import settings, logs; from stt.telemetry import sentry; "
        "sentry.setup(settings.Settings(), 'web'); sys.exit('sentry_sdk' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
