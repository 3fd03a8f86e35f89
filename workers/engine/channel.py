"""The engine's process: reads requests from a socket and writes events to it.

``python -m workers.engine FD`` reads requests from the socket FD and writes events to it, one JSON object
a line. The worker may kill it at any time, so nothing here needs to be cleaned up.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import structlog
from setproctitle import setproctitle

from stt import logs, settings
from stt.codes import ErrorCode, message
from stt.media.errors import MediaError
from stt.telemetry import sentry
from workers.audio.handle import DecoderDied, start_spare
from workers.engine.hypothesis import UnsupportedLanguage
from workers.engine.models import ModelUnavailable
from workers.engine.protocol import BEAT_SECONDS, ErrorEvent, Event, TranscribeRequest
from workers.engine.runtime import SMALLER_COMPUTE_TYPE, Runtime, is_out_of_memory
from workers.engine.transcription import Send, Transcription

log = structlog.stdlib.get_logger(__name__)


class EngineChannel:
    """The socket to the worker: it brings requests and takes events, "alive" among them."""

    def __init__(self, connection: socket.socket) -> None:
        self._in = connection.makefile("r", encoding="utf-8")
        self._out = connection.makefile("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._busy = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def requests(self) -> Iterator[TranscribeRequest]:
        """Requests until the worker closes its end."""
        for line in self._in:
            self._busy.set()
            yield json.loads(line)
            self._busy.clear()

    def send(self, event: Event) -> None:
        """Send an event."""
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def _beat(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(BEAT_SECONDS)
            if self._busy.is_set():
                self.send({"type": "alive"})


def answer(runtime: Runtime, request: TranscribeRequest, send: Send) -> None:
    """Serve a request; the last event is "done" or "error".

    Args:
        runtime: The models, and what they run on.
        request: What to do.
        send: Sends an event to the worker; any thread may call it.

    Raises:
        Exception: A failure that is not foreseen; no "error" was sent for it.
    """
    try:
        Transcription(runtime, request, send).run()
    except (MediaError, UnsupportedLanguage) as error:
        send(_error("permanent", error.code, **error.parameters))
    except (ModelUnavailable, DecoderDied) as error:
        send(_error("transient", error.code, **error.parameters))
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and not is_out_of_memory(error):
            log.exception("the recording cannot be read")
            send(_error("transient", ErrorCode.STORAGE_UNREACHABLE, error=str(error.strerror)))
            return
        if not is_out_of_memory(error):
            raise
        log.exception("out of memory")
        smaller = runtime.compute_type in SMALLER_COMPUTE_TYPE and not request.get("less_memory")
        event = _error("transient", ErrorCode.OUT_OF_MEMORY)
        event["less_memory"] = smaller
        send(event)


def main() -> None:
    """Serve requests until the worker closes its end of the socket."""
    start_spare()
    setproctitle("stt engine")
    chosen = settings.load(dotenv=Path(os.devnull))  # the worker has read the .env file
    logs.setup(chosen, "engine", as_json=True)  # the worker reads the lines
    sentry.setup(chosen, "engine")
    _keep_texts_out()
    channel = EngineChannel(socket.socket(fileno=int(sys.argv[1])))
    runtime = Runtime(chosen)
    for request in channel.requests():
        logs.bind_process(**request.get("log", {}))
        try:
            answer(runtime, request, channel.send)
        except Exception:
            # What is not foreseen may have left the models in any state: a new process has a clean one.
            log.exception("the engine failed")
            channel.send(_error("transient", ErrorCode.ENGINE_FAILED))
            sys.exit(1)
        start_spare()
        logs.bind_process(**dict.fromkeys(request.get("log", {})))


def _keep_texts_out() -> None:
    """Keep warnings of WhisperX that quote the text out of the log.

    Without a handler of its own, WhisperX would set up logging of its own, to standard output.
    """
    logger = logging.getLogger("whisperx")
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.ERROR)


def _error(kind: Literal["permanent", "transient"], code: ErrorCode, **parameters: Any) -> ErrorEvent:
    sentence = message(code, **parameters)
    return {"type": "error", "kind": kind, "code": code, "message": sentence, "parameters": parameters}
