"""Decodes one recording in a process of its own: ``python -m workers.audio``.

`workers.audio.handle` starts it and sends requests. Before it opens the file, it gives up the network, most
of the memory, and all other files but those of Python and the list of the hardware.

A request is a JSON line on standard input: {"path", "longest"} opens a file, {"start"} decodes it. An answer
is a JSON line on standard output: {"facts", "samples"}, followed by that number of float32 samples, or
{"error"}. The last answer has {"end"}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from setproctitle import setproctitle

from stt import resources
from stt.media import errors, libav
from stt.process import launch, sandbox
from workers.audio.decode import Recording
from workers.audio.resampler import Resampler
from workers.audio.sound import RATE, Samples

# Decoding takes a small part of the time of playing. These seconds of processor time are allowed beyond that
# time; the second for each so many bytes, as all of a film has to be read.
SPARE_SECONDS, BYTES_PER_SECOND = 60, 16 * 2**20
_WATCH_SECONDS = 1.0
# Folders from which modules are imported, some of them after the sandbox was entered.
_CODE = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent, Path(libav.__file__).parent]
# onnxruntime (voice activity of tracks and channels) looks at the processor, and for a GPU.
_HARDWARE = [Path(name) for name in ("/proc/cpuinfo", "/sys/devices", "/sys/bus/pci") if Path(name).exists()]

Message = dict[str, Any]


def main() -> None:
    """Serve one file after the other, each in a process forked for it: that costs no start and no imports."""
    setproctitle("stt decoder")
    # What libraries print goes to the log.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        _warm_up()
        me = os.getpid()
        while line := sys.stdin.readline():
            if child := os.fork():
                _, status = os.waitpid(child, 0)
                _end_like(os.waitstatus_to_exitcode(status))
            else:
                _serve(line, out, me)


def _serve(line: str, out: BinaryIO, parent: int) -> NoReturn:
    """Answer the requests for one file, and end this process."""
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
    except BaseException:  # noqa: BLE001  it goes to the log, and the exit code reports it
        traceback.print_exc()
    finally:
        os._exit(code)


def _end_like(code: int) -> None:
    """End as the child has ended, unless it ended well: so the reader of this process sees why."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    elif code:
        os._exit(code)


def _warm_up() -> None:
    """Let numpy allocate what its first product needs: at the ceiling that would end the process."""
    np.ones((2, 64), np.float32).T @ np.ones((2, 64), np.float32)


def _answer(request: Message, out: BinaryIO, ceiling: int) -> None:
    path = Path(request["path"])
    spare = SPARE_SECONDS + path.stat().st_size // BYTES_PER_SECOND
    sandbox.enter(path, *_CODE, *_HARDWARE)
    sandbox.limit_memory(ceiling)
    _allow(spare)
    recording = Recording(path, request["longest"])
    _send(out, {"facts": facts(recording), "samples": 0})
    if not (line := sys.stdin.readline()):
        return  # the recording was closed before it was decoded
    threading.Thread(target=_watch, args=[spare], daemon=True).start()
    for block in recording.blocks(json.loads(line)["start"]):
        _send(out, {"facts": facts(recording), "samples": len(block)}, block)
    _send(out, {"facts": facts(recording), "samples": 0, "end": True})


def facts(recording: Recording) -> Message:
    """Every public value of a recording by its name."""
    names = [name for name in dir(recording) if not name.startswith("_")]
    values = {name: getattr(recording, name) for name in names}
    return {name: value for name, value in values.items() if not callable(value)}


def _send(out: BinaryIO, message: Message, block: Samples | None = None) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    if block is not None:
        out.write(np.ascontiguousarray(block, np.float32).data)
    out.flush()


def _no_memory(ceiling: int) -> Message:
    """The answer to a MemoryError: the file's fault if the process was at its limit, else the machine's."""
    if not sandbox.is_own_limit(ceiling):
        return {"error": "memory"}
    return _refusal(errors.too_much_memory())


def _refusal(error: errors.MediaError) -> Message:
    return {"error": "media", "code": error.code, "parameters": error.parameters}


def _watch(spare: int) -> None:
    """Allow more processor time as more sound is decoded, also of sound that is not returned."""
    while True:
        _allow(spare + Resampler.made // RATE)
        time.sleep(_WATCH_SECONDS)


def _allow(seconds: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = seconds if most == resource.RLIM_INFINITY else min(seconds, most)
    resource.setrlimit(resource.RLIMIT_CPU, (wanted, most))


if __name__ == "__main__":
    main()
