"""What :mod:`stt.probe` asks of a child process: ``python -m stt.probe_child PATH`` prints one line of JSON.

Every upload waits for it to start, so it imports libav and nothing of the web application.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from stt import media

# Opening and decoding the first frames of the largest real file takes a fraction of these.
_CPU_SECONDS, _MEMORY = 20, 4 * 2**30
# Enough packets to get past a damaged start, few enough to answer at once.
_PACKETS = 500


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    if sys.platform == "linux":  # macOS refuses a limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _main(path: Path) -> None:
    _limit()
    try:
        kind, duration = media.inspect(path, packets=_PACKETS)
    except media.MediaError as error:
        status = 422 if error.code == "empty_audio" else 415
        answer: dict[str, object] = {"status": status, "code": error.code, "message": str(error)}
    else:
        # The fields of stt.probe.Media, whose module imports the web application.
        answer = {"file_type": kind, "duration_seconds": duration}
    print(json.dumps(answer))  # noqa: T201  this is the answer


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
