"""PostgreSQL and Valkey from wheels, for a service whose operator gave no URLs.

Both are direct children and end when this process ends, for whatever reason. They listen on Unix sockets in
folders that only their own user may enter. So nobody else on the machine reaches them, and they need no
password. Processes that an earlier, killed start left running on the same data are stopped first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stt.ops.embedded.postgres import Postgres
from stt.ops.embedded.server import Server
from stt.ops.embedded.valkey import Valkey
from stt.ops.lock import hold
from stt.settings import Settings


class Servers:
    """The servers that the operator gave no URL for. The caller holds the data folder's lock."""

    def __init__(self, settings: Settings) -> None:
        self.running: list[Server] = []
        self.database_url = settings.database_url
        self.redis_url = settings.redis_url
        if not settings.database_url:
            postgres = Postgres(settings.data_folder.postgres)
            self.database_url = postgres.url
            self.running.append(postgres)
        if not settings.redis_url:
            valkey = Valkey(settings.data_folder.valkey)
            self.redis_url = valkey.url
            self.running.append(valkey)

    async def start(self) -> None:
        """Start them side by side.

        Raises:
            ServersError: One cannot be started. The others are stopped.
        """
        results = await asyncio.gather(*(server.start() for server in self.running), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self.stop()
                raise result

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Stop them side by side. `hurry` ends the waiting between signals."""
        await asyncio.gather(*(server.stop(hurry) for server in self.running))


@asynccontextmanager
async def servers(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """Run the embedded servers while the block lasts. Yields (database_url, redis_url).

    Raises:
        Held: Another process holds the data folder.
        ServersError: A server cannot be started.
    """
    with hold(settings.data_dir):
        running = Servers(settings)
        await running.start()
        try:
            yield running.database_url, running.redis_url
        finally:
            await running.stop()
