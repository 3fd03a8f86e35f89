"""The exceptions that mean that PostgreSQL or Redis cannot be reached just now."""

from __future__ import annotations

import asyncpg
from redis.exceptions import RedisError


class DatabaseUnavailable(Exception):
    """PostgreSQL does not answer, or a connection to it broke; `stt.db` raises it.

    It replaces the plain TimeoutError and ConnectionError of asyncpg. Those can come from anything else that
    waits or connects, so they are not in `UNAVAILABLE`.
    """


# Errors of a statement itself (asyncpg.PostgresError in general) are not among them.
UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg makes of a connection that ends at a bad moment
    DatabaseUnavailable,
    RedisError,
)
