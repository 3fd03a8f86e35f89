"""PostgreSQL: the pool, the migrations, and the named queries of ``sql/``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import structlog

from stt.outages import UNAVAILABLE, DatabaseUnavailable
from stt.paths import SQL

log = structlog.stdlib.get_logger(__name__)

MIGRATIONS = SQL / "migrations"
_WAIT_SECONDS = 2.0
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
queries: Any = aiosql.from_path(SQL / "queries.sql", "asyncpg", mandatory_parameters=False)


class MigrationError(Exception):
    """The database cannot be brought to this program's schema; the text says why."""


async def create_pool(url: str, *, min_size: int = 1, max_size: int = 10) -> asyncpg.Pool:
    """A pool whose connections speak JSON and keep prepared statements; it replaces those that broke.

    Args:
        url: `postgresql://…`.
        min_size: Connections that are made at once.
        max_size: Connections at most.

    Raises:
        Exception: one of `outages.UNAVAILABLE`; its connections raise them too.
    """
    return await asyncpg.create_pool(
        url,
        min_size=min_size,
        max_size=max_size,
        connect=_connect,
        connection_class=_Connection,
        init=_init_connection,
        command_timeout=60,
        max_inactive_connection_lifetime=300,
        server_settings={
            "application_name": "stt",
            "timezone": "UTC",
            # A process that is frozen in the middle of a claim would keep all others from claiming.
            "idle_in_transaction_session_timeout": "10s",
        },
    )


async def open_pool(url: str, **how: Any) -> asyncpg.Pool:
    """As `create_pool`, but it waits for PostgreSQL and for the migrations, instead of a loop of restarts.

    A newer schema is accepted: while a newer version replaces this one, both run for some time.

    Raises:
        asyncpg.ClientConfigurationError: asyncpg refuses the URL.
    """
    while True:
        try:
            return await _migrated_pool(url, **how)
        except asyncpg.ClientConfigurationError:  # the URL is wrong, which waiting does not change
            raise
        except UNAVAILABLE as error:
            log.warning("waiting for PostgreSQL", error=str(error))
        except _SchemaOlder as older:
            log.warning("waiting for migrations: run `stt migrate`", schema=older.found, needed=older.needed)
        await asyncio.sleep(_WAIT_SECONDS)


class _SchemaOlder(Exception):
    """The database lacks a migration that this program knows."""

    def __init__(self, found: int, needed: int) -> None:
        super().__init__(found, needed)
        self.found, self.needed = found, needed


async def _migrated_pool(url: str, **how: Any) -> asyncpg.Pool:
    pool = await create_pool(url, **how)
    try:
        await _check_schema(pool)
    except BaseException:  # a signal, too
        pool.terminate()
        raise
    return pool


async def _check_schema(pool: asyncpg.Pool) -> None:
    try:
        found = await queries.newest_migration(pool) or 0
    except asyncpg.UndefinedTableError:
        found = 0
    needed = migrations()[-1][0]
    if found < needed:
        raise _SchemaOlder(found, needed)


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Raise DatabaseUnavailable for every OSError of the block; a TimeoutError is one too.

    A Unix socket is gone while its server restarts, a name is not resolved, a network fails: for callers that
    is one thing, and never a missing file of a recording.
    """
    try:
        yield
    except OSError as error:
        reason = str(error) or type(error).__name__
        raise DatabaseUnavailable(f"PostgreSQL does not answer: {reason}") from error


class _Connection(asyncpg.Connection):
    """A connection whose timeouts and broken sockets are DatabaseUnavailable.

    Every other method that waits for the server calls one of these.
    """

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        with _as_unavailable():
            return await super().execute(*args, **kwargs)

    async def executemany(self, *args: Any, **kwargs: Any) -> Any:
        with _as_unavailable():
            return await super().executemany(*args, **kwargs)

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        with _as_unavailable():
            return await super().fetch(*args, **kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        with _as_unavailable():
            return await super().fetchrow(*args, **kwargs)

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        with _as_unavailable():
            return await super().fetchval(*args, **kwargs)

    async def reset(self, *args: Any, **kwargs: Any) -> Any:
        with _as_unavailable():
            return await super().reset(*args, **kwargs)


async def _connect(*args: Any, **kwargs: Any) -> asyncpg.Connection:
    with _as_unavailable():
        return await asyncpg.connect(*args, **kwargs)


async def _init_connection(connection: asyncpg.Connection) -> None:
    with _as_unavailable():
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, schema="pg_catalog", encoder=_to_json, decoder=json.loads)


def _to_json(value: Any) -> str:
    # PostgreSQL's text holds no NUL, and jsonb refuses its escape. An escaped backslash before u0000 is text.
    return _NUL.sub(r"\1", json.dumps(value, ensure_ascii=False, allow_nan=False))


def migrations() -> list[tuple[int, Path]]:
    """The migration files by number: ``0001_jobs.sql`` is 1."""
    return sorted((int(path.name.split("_")[0]), path) for path in MIGRATIONS.glob("*.sql"))


async def migrate(url: str, *, up_to: int | None = None) -> list[int]:
    """Apply what is missing, each migration in a transaction of its own, under an advisory lock.

    Returns:
        The numbers applied now, in order.

    Raises:
        MigrationError: an applied file was changed, or the database is newer than this program.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    with _as_unavailable():
        connection = await asyncpg.connect(url)
    try:
        await queries.lock_migrations(connection)
        return await _apply_missing(connection, up_to)
    finally:
        await connection.close()  # which also gives the lock back


async def _apply_missing(connection: asyncpg.Connection, up_to: int | None) -> list[int]:
    await queries.create_migrations_table(connection)
    rows = [row async for row in queries.applied_migrations(connection)]
    applied = {row["number"]: row for row in rows}
    known = migrations()
    if newer := sorted(set(applied) - {number for number, _ in known}):
        raise MigrationError(
            f"the database has migration {newer[-1]}, which this version of stt does not know: "
            "start the newer version, or restore a backup"
        )
    done = []
    for number, path in known:
        if up_to is not None and number > up_to:
            break
        if number in applied:
            _check_unchanged(applied[number], path)
            continue
        await _apply(connection, number, path)
        done.append(number)
    return done


def _check_unchanged(row: asyncpg.Record, path: Path) -> None:
    if row["sha256"] != _sha256(path):
        raise MigrationError(
            f"migration {row['name']} was changed after it had been applied: write a new one instead"
        )


async def _apply(connection: asyncpg.Connection, number: int, path: Path) -> None:
    log.info("applying a migration", migration=path.stem)
    async with connection.transaction():
        await connection.execute(path.read_text(encoding="utf-8"))
        await queries.record_migration(connection, number=number, name=path.name, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
