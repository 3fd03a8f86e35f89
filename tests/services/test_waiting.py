"""A role that waits at its start, as in a cluster that starts everything at once."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import Urls
from tests.support.up import environment

SECONDS = 60  # for a busy machine
WAITS = b"waiting for migrations: run `stt migrate`"


@pytest.mark.parametrize("module", ["stt web", "workers.maintenance", "workers.transcriber"])
async def test_a_role_that_waits_for_migrations_says_so_and_ends_when_told_to(
    module: str, empty_database: str, servers: Urls, tmp_path: Path
) -> None:
    environ = environment(tmp_path, DATABASE_URL=empty_database, REDIS_URL=servers.redis)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", *module.split(), env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(SECONDS):
            lines = []
            while b"waiting for migrations: run `stt migrate`" not in (
                line := await process.stderr.readline()
            ):
                assert line, b"".join(lines)
                lines.append(line)
            process.send_signal(signal.SIGTERM)
            rest = await process.stderr.read()
            # Not by the signal itself, which the first process of a container ignores.
            assert await process.wait() == 0
        assert b"Traceback" not in rest + b"".join(lines)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
