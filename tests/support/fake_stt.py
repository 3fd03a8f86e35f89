"""The `stt` command, whose workers have the fake engine: `python -m tests.support.fake_stt worker`."""

from __future__ import annotations

from stt import cli
from stt.ops import workers

workers.PROGRAM = "tests.support.fake_worker"

if __name__ == "__main__":
    cli.main()
