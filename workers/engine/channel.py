"""The engine's process: reads requests from a socket and writes events to it.

``python -m workers.engine FD`` reads requests from the socket FD and writes events to it, one JSON object
a line. The parent kills it whenever it likes, so nothing here has to be undone.
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
from typing import Any

from setproctitle import setproctitle

from stt import logs, settings
from stt.media.errors import MediaError
from workers.audio import handle
from workers.audio.handle import DecoderDied
from workers.engine.hypothesis import UnsupportedLanguage
from workers.engine.models import ModelUnavailable
from workers.engine.runtime import SMALLER, Engine, _out_of_memory
from workers.engine.transcription import Event, Job, Send

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0


class Wire:
    """The socket to the worker: requests in, events out, and a beat while there is work."""

    def __init__(self, connection: socket.socket) -> None:
        self._in = connection.makefile("r", encoding="utf-8")
        self._out = connection.makefile("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._busy = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def requests(self) -> Iterator[dict[str, Any]]:
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


def answer(engine: Engine, request: dict[str, Any], send: Send) -> None:
    """Do what a request asks; its end is a "done" or an "error" event."""
    try:
        Job(engine, request, send).run()
    except MediaError as error:
        send(_error("permanent", error.code, str(error)))
    except UnsupportedLanguage as error:
        send(_error("permanent", "unsupported_language", str(error)))
    except ModelUnavailable as error:
        send(_error("transient", "model_unavailable", str(error)))
    except DecoderDied as error:
        send(_error("transient", "decoder_died", str(error)))
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and not _out_of_memory(error):
            log.exception("the recording cannot be read")
            message = f"The recording cannot be read: {error.strerror}."
            send(_error("transient", "storage_unreachable", message))
            return
        if not _out_of_memory(error):
            raise
        log.exception("out of memory")
        told = _error(
            "transient", "out_of_memory",
            "The machine has too little memory for this model. Please choose a smaller one, or "
            "set STT_COMPUTE_TYPE=int8.",
        )  # fmt: skip
        smaller = engine.compute_type in SMALLER and not request.get("less_memory")
        send(told | {"less_memory": smaller})  # whether another try with less may help


def main() -> None:
    """Serve requests until the worker closes its end of the socket."""
    handle.prepare()
    setproctitle("stt engine")
    chosen = settings.load(dotenv=Path(os.devnull))  # the worker has read it already
    logs.setup(chosen)
    logging.getLogger("whisperx").setLevel(logging.WARNING)
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    engine = Engine(chosen)
    for request in wire.requests():
        try:
            answer(engine, request, wire.send)
        except Exception:
            # What is not foreseen may have left the models in any state: a new process has a clean one.
            log.exception("the engine failed")
            wire.send(_error("transient", "engine_failed", "The engine failed. Its log says why."))
            raise
        handle.prepare()


def _error(kind: str, code: str, message: str) -> Event:
    return {"type": "error", "kind": kind, "code": code, "message": message}
