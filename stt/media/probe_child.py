"""The probe, the child's side: ``python -m stt.media.probe_child PATH LONGEST`` inspects a file, prints JSON.

:mod:`stt.media.probe` starts it. Before it opens the file, it gives up all other files, the network, and most
of the memory. Every upload waits for it to start, so it imports libav and nothing of the web application.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from stt import resources
from stt.media import errors, libav
from stt.process import sandbox

_CPU_SECONDS = 20  # opening and decoding the first second of the largest real file takes a fraction of it
# Packets that are decoded of each track: enough to get past a damaged start, and few enough to be quick.
_PACKETS = 500

Answer = dict[str, object]


def _main(path: Path, longest: float) -> None:
    ceiling = resources.decoding_ceiling()
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    given_up = sandbox.enter(path)
    sandbox.limit_memory(ceiling)
    try:
        answer = _look(path, longest)
    except MemoryError:
        # Too little memory of the machine may pass. A file that takes too much never will.
        answer = _refusal(errors.too_much_memory()) if sandbox.is_own_limit(ceiling) else {"no_memory": True}
    print(json.dumps(answer | {"given_up": sorted(given_up)}))  # noqa: T201  this is the answer


def _look(path: Path, longest: float) -> Answer:
    try:
        kind, duration = libav.inspect(path, packets=_PACKETS, longest=longest)
    except errors.MediaError as error:
        return _refusal(error)
    # The fields of stt.media.probe.Media, whose module takes long to import.
    return {"file_type": kind, "duration_seconds": duration}


def _refusal(error: errors.MediaError) -> Answer:
    return {"code": error.code, "parameters": error.parameters}


if __name__ == "__main__":
    _main(Path(sys.argv[1]), float(sys.argv[2]))
