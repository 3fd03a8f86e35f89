"""Everything breaks at random for a while, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import subprocess

import pytest

from tests.support.places import ROOT

SECONDS = 120
FAULTS = (
    "worker killed", "engine killed", "web killed", "maintenance killed", "worker frozen past its lease",
    "Valkey restarted", "Valkey flushed", "PostgreSQL restarted at once",
)  # fmt: skip


@pytest.mark.chaos
@pytest.mark.engine
@pytest.mark.process
@pytest.mark.timeout(SECONDS + 1000)
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
    expected = (*FAULTS, *([] if "none is filled" in output.decode() else ["disk filled"]))
    assert [fault for fault in expected if f"  {fault}\n" not in output.decode()] == []
