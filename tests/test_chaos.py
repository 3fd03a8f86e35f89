"""Everything breaks at random for a while, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import subprocess

from tests.conftest import ROOT

SECONDS = 60


async def test_nothing_is_lost_done_twice_or_left_over_whatever_breaks() -> None:
    process = await subprocess.create_subprocess_exec(
        sys.executable, "bench/chaos.py", "--seconds", str(SECONDS), "--seed", "1",
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS + 900)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    print(output.decode())  # shown where it fails
    assert process.returncode == 0
    assert "PostgreSQL restarted at once" in output.decode()
