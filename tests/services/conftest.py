"""Fixtures for the tests that need servers, but no model and no browser."""

from __future__ import annotations

import asyncpg
import pytest
from arq import ArqRedis

from tests.support.acting import Actor


@pytest.fixture
def actor(pool: asyncpg.Pool, redis: ArqRedis) -> Actor:
    return Actor(pool, redis)
