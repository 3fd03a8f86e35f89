"""The worker's program with the fake engine: `python -m tests.support.fake_worker`."""

from __future__ import annotations

from workers import transcriber
from workers.engine import handle

handle.PROGRAM = "tests.support.fake_engine"

if __name__ == "__main__":
    transcriber.main()
