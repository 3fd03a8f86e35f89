"""The servers of this run are those that were asked for."""

from __future__ import annotations

import asyncpg
import pytest
from arq import ArqRedis


async def test_they_have_the_version_that_was_asked_for(
    pytestconfig: pytest.Config, pool: asyncpg.Pool, redis: ArqRedis
) -> None:
    postgres, cache = {"embedded": (18, 9), "debian": (15, 7)}[pytestconfig.getoption("--servers")]
    version = int(await pool.fetchval("select current_setting('server_version_num')"))
    assert version // 10_000 == postgres
    found = await redis.info("server")
    assert str(found.get("valkey_version", found["redis_version"])).split(".")[0] == str(cache)
