"""The decoder process, the child's side: ``python -m workers.audio``.

`workers.audio.handle` is the parent's side: it starts this process, sends requests to its standard input, and
reads answers from its standard output. `workers.audio.protocol` defines the messages.

Each file is decoded in a process that is forked for it. Before that process opens the file, it gives up the
network, most of the memory, and all other files but those of Python and the list of the hardware.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from setproctitle import setproctitle

from stt import resources, tracebacks
from stt.media import errors, libav
from stt.process import launch, sandbox
from workers.audio.decode import Recording
from workers.audio.protocol import Answer, DecodeRequest, Facts, Failure, OpenRequest
from workers.audio.resampler import Resampler
from workers.audio.sound import RATE, Samples

# Limit of the CPU time, in seconds: the duration of the sound decoded so far (decoding takes a small part of
# that), plus `SPARE_SECONDS`, plus one second for each `BYTES_PER_SECOND` of the file: all of a film is read.
SPARE_SECONDS, BYTES_PER_SECOND = 60, 16 * 2**20
_WATCH_SECONDS = 1.0
# Folders that stay readable in the sandbox: some modules are imported after it was entered.
_CODE = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent, Path(libav.__file__).parent]
# onnxruntime, which detects speech in tracks and channels, reads the type of processor and looks for a GPU.
_HARDWARE = [Path(name) for name in ("/proc/cpuinfo", "/sys/devices", "/sys/bus/pci") if Path(name).exists()]


def main() -> None:
    """Serve one file after another, each in a forked process: so Python and its modules are loaded once."""
    setproctitle("stt decoder")
    # What libraries print to standard output goes to standard error, and so to the log.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        _warm_up()
        parent = os.getpid()
        while line := sys.stdin.readline():
            if child := os.fork():
                _, status = os.waitpid(child, 0)
                _end_like(os.waitstatus_to_exitcode(status))
            else:
                _serve(line, out, parent)


def _serve(line: str, out: BinaryIO, parent: int) -> NoReturn:
    """Answer the requests for one file, and end this process.

    Args:
        line: The first request, an `OpenRequest`. The second one is read from standard input.
        out: Where the answers go.
        parent: The process id of the process that forked this one, and with which this one ends.
    """
    code = 1
    try:
        launch.die_with(parent, signal.SIGKILL)
        ceiling = resources.decoding_ceiling()
        try:
            _answer(json.loads(line), out, ceiling)
        except errors.MediaError as error:
            _send(out, _refusal(error))
        except MemoryError:
            _send(out, _no_memory(ceiling))
        except OSError as error:
            _send(out, {"error": "file", "errno": error.errno, "strerror": error.strerror})
        code = 0
    except BrokenPipeError:  # the recording was closed, or its reader has ended
        code = 0
    except BaseException as error:  # noqa: BLE001  it goes to the log, and the exit code reports it
        _log(error, json.loads(line))
    finally:
        os._exit(code)


def _log(error: BaseException, request: OpenRequest) -> None:
    """Write a line as `stt.logs` makes it, which would take 0.1 s to import."""
    line = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": "error",
        "event": "decoding failed",
        "logger": __name__,
        "role": "decoder",
        **request.get("log", {}),
        "exception": tracebacks.text(error),
    }
    print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201


def _end_like(code: int) -> None:
    """End this process as the forked one has ended, so that the parent sees the cause. Exit code 0: go on."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    elif code:
        os._exit(code)


def _warm_up() -> None:
    """Compute a matrix product, so that numpy allocates its buffers before the memory limit applies.

    At the limit that allocation would end the process instead of raising MemoryError.
    """
    np.ones((2, 64), np.float32).T @ np.ones((2, 64), np.float32)


def _answer(request: OpenRequest, out: BinaryIO, ceiling: int) -> None:
    """Open and decode a file in the sandbox.

    Args:
        request: The file.
        out: Where the answers go.
        ceiling: Bytes of address space that this process may take.

    Raises:
        MediaError, OSError, MemoryError: see `workers.audio.decode.Recording`.
        BrokenPipeError: the parent does not read the answers any more.
    """
    path = Path(request["path"])
    spare = SPARE_SECONDS + path.stat().st_size // BYTES_PER_SECOND
    sandbox.enter(path, *_CODE, *_HARDWARE)
    sandbox.limit_memory(ceiling)
    _limit_cpu(spare)
    recording = Recording(path, request["longest"])
    _send(out, {"facts": facts(recording), "samples": 0})
    if not (line := sys.stdin.readline()):
        return  # the recording was closed before it was decoded
    threading.Thread(target=_watch, args=[spare], daemon=True).start()
    decode: DecodeRequest = json.loads(line)
    for block in recording.blocks(decode["start"]):
        _send(out, {"facts": facts(recording), "samples": len(block)}, block)
    _send(out, {"facts": facts(recording), "samples": 0, "end": True})


def facts(recording: Recording) -> Facts:
    """The public values of a recording."""
    return {
        "kept": recording.kept,
        "left_out": recording.left_out,
        "unreadable": recording.unreadable,
        "decoded": recording.decoded,
        "damaged": recording.damaged,
        "broken_off": recording.broken_off,
        "duration": recording.duration,
        "missing": recording.missing,
    }


def _send(out: BinaryIO, message: Answer, block: Samples | None = None) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    if block is not None:
        out.write(np.ascontiguousarray(block, np.float32).data)
    out.flush()


def _no_memory(ceiling: int) -> Failure:
    """The answer to a MemoryError, which is the file's fault if the process was at its own limit."""
    if not sandbox.is_own_limit(ceiling):
        return {"error": "memory"}
    return _refusal(errors.too_much_memory())


def _refusal(error: errors.MediaError) -> Failure:
    return {"error": "media", "code": error.code, "parameters": error.parameters}


def _watch(spare: int) -> None:
    """Raise the limit of the CPU time as more sound is decoded, including sound that is not sent."""
    while True:
        _limit_cpu(spare + Resampler.made // RATE)
        time.sleep(_WATCH_SECONDS)


def _limit_cpu(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = seconds if hard == resource.RLIM_INFINITY else min(seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
