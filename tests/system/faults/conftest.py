"""What all tests of faults are given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from arq import ArqRedis

from stt.settings import Settings, load
from stt.storage import Storage
from tests.support.faults import LEASE, Environ, inside, script, started_with
from workers.attempt import Context
from workers.engine import handle, models


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the model, joined once for all of these tests."""
    folder = tmp_path_factory.mktemp("model")
    return str(models.find("base", load({"STT_DATA_DIR": str(folder)}, Path("/nonexistent"))))


@pytest.fixture(scope="session")
def model() -> str:
    """The fake engine loads none."""
    return "base"


@pytest.fixture
def environ(environ: Environ, model: str) -> Environ:
    return environ | started_with(model, lease=LEASE)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake engine takes four seconds for it, with a span every 0.4 s."""
    return script(tmp_path_factory.mktemp("recording"), spans=10, seconds=0.4)


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of what breaks under a job does not depend on what the engine computes."""
    monkeypatch.setattr(handle, "PROGRAM", "tests.support.fake_engine")


@pytest.fixture
async def context(
    settings: Settings, pool: asyncpg.Pool, redis: ArqRedis, storage: Storage
) -> AsyncIterator[Context]:
    async with inside(settings, pool, redis, storage) as context:
        yield context
