"""The exceptions that mean: PostgreSQL or Redis cannot be reached just now."""

from __future__ import annotations

import asyncpg
from redis.exceptions import RedisError

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
    RedisError,
    ConnectionError,
    TimeoutError,
)
