"""An engine without models: `python -m tests.support.fake_engine FD` speaks the protocol of workers.engine.

The recording is its script, a JSON object:

    spans: how many the recording has, of ten seconds each
    seconds: what each span takes
    text: what is said in each
    stuck: beat for ever after the spans, and send nothing more

Any other recording has one span. A request that resumes gets the spans that are missing.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from stt import logs
from stt.codes import ErrorCode, message
from stt.settings import Settings

log = structlog.stdlib.get_logger(__name__)

BEAT_SECONDS = 1.2  # longer than the worker waits before it looks whether the engine hangs
LENGTH = 10.0  # seconds of sound in a span
SCRIPT: dict[str, Any] = {"spans": 1, "seconds": 0.0, "text": " demonstration", "stuck": False}

Send = Callable[[dict[str, Any]], None]


def play(request: dict[str, Any], send: Send) -> None:
    """Answer one request as its recording says."""
    try:
        script = SCRIPT | _script(Path(request["path"]))
    except OSError as error:
        parameters = {"error": str(error.strerror)}
        code = ErrorCode.STORAGE_UNREACHABLE
        sentence = message(code, **parameters)
        kind = {"type": "error", "kind": "transient"}
        send({**kind, "code": code, "message": sentence, "parameters": parameters})
        return
    duration = LENGTH * script["spans"]
    _stage(send, request["resume"]["end"], duration)
    send({"type": "language", "language": "en", "probability": 1.0})
    send({"type": "model", "seconds": 0.5})
    for number in range(request["resume"]["spans"], script["spans"]):
        time.sleep(script["seconds"])
        _stage(send, LENGTH * (number + 1), duration)
        send(_span(number, script["text"], last=number + 1 == script["spans"]))
    while script["stuck"]:
        time.sleep(BEAT_SECONDS)
    send({"type": "done", "language": "en", "duration": duration, "seconds": {"transcribe": 2.0}})


def _script(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return dict(json.loads(content)) if content.startswith(b"{") else {}


def _stage(send: Send, done: float, duration: float) -> None:
    progress = 0.9 * done / duration if duration else 0.0
    send({"type": "stage", "stage": "transcribe", "progress": progress, "duration": duration, "left": None})


def _span(number: int, text: str, *, last: bool) -> dict[str, Any]:
    start, end = LENGTH * number, LENGTH * (number + 1)
    word = {"word": text.strip(), "start": start, "end": end, "score": 1.0}
    segment = {"start": start, "end": end, "text": text, "avg_logprob": -0.1, "words": [word]}
    return {
        "type": "span", "number": number, "start": start, "end": end, "segments": [segment], "last": last,
        "peaks": base64.b64encode(bytes(100)).decode(), "unsure": False,
    }  # fmt: skip


def main() -> None:
    logs.setup(Settings(), "engine", as_json=True)
    connection = socket.socket(fileno=int(sys.argv[1]))
    requests, events = connection.makefile("r"), connection.makefile("w")
    lock, busy = threading.Lock(), threading.Event()

    def send(event: dict[str, Any]) -> None:
        with lock:
            events.write(json.dumps(event) + "\n")
            events.flush()

    def beat() -> None:
        while busy.wait():
            send({"type": "alive"})
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, daemon=True).start()
    for line in requests:
        request = json.loads(line)
        logs.bind_process(**request.get("log", {}))
        log.info("model loaded", model=request["model"])
        print("a library's line")
        busy.set()
        play(request, send)
        busy.clear()
        logs.bind_process(**dict.fromkeys(request.get("log", {})))


if __name__ == "__main__":
    main()
