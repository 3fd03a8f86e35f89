"""The health of a role: named checks, and what each of them found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from redis.asyncio import Redis

from stt.db import queries
from stt.storage import Storage
from stt.telemetry import collectors

Check = Callable[[], Awaitable[object]]  # raises an exception that says what is wrong

CHECK_SECONDS = 5.0


class Unhealthy(Exception):
    """A check found a fault; the text says which."""


async def _starting() -> None:
    raise Unhealthy("waiting for PostgreSQL, its schema, or Redis")


@dataclass(slots=True)
class Health:
    """The checks of one role.

    `live`: whether the process does its work; a restart may help if not. `ready`: whether it has all that it
    needs for its work.
    """

    live: dict[str, Check] = field(default_factory=dict)
    ready: dict[str, Check] = field(default_factory=lambda: {"start": _starting})

    def connected(self, pool: asyncpg.Pool, redis: Redis, storage: Storage) -> None:
        """The role has its connections: from now on they are checked, and metrics show them."""
        self.ready.pop("start", None)
        collectors.watch_pool(pool)
        collectors.watch_disk(storage.root)
        # One thread: a check that hangs in the storage must not take the threads of other work.
        thread = ThreadPoolExecutor(1, "storage check")

        async def check_storage() -> None:
            await asyncio.get_running_loop().run_in_executor(thread, storage.check)

        self.ready |= {
            "database": lambda: queries.server_time(pool),
            "redis": redis.ping,
            "storage": check_storage,
        }


async def report(checks: Mapping[str, Check]) -> dict[str, Any]:
    """Run checks side by side.

    Returns:
        `status`, "ok" or "failed", and `checks`: for each by its name "ok" or what is wrong.
    """
    found = await asyncio.gather(*map(_outcome, checks.values()))
    status = "ok" if all(one == "ok" for one in found) else "failed"
    return {"status": status, "checks": dict(zip(checks, found, strict=True))}


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:.0f} s"
    except Unhealthy as fault:
        return str(fault)
    except Exception as error:  # noqa: BLE001  whatever a driver raises is what is wrong
        return f"{type(error).__name__}: {error}"
    return "ok"
