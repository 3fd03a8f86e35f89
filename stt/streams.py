"""Server-sent events as every stream here sends them: a client that leaves is noticed and is no error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import ClientConnectionResetError, web
from aiohttp_sse import EventSourceResponse, sse_response

from stt.progress import Listener, Message

# How long a client waits before it connects again, in milliseconds.
RECONNECT_MS = 2000
# A stream that says nothing learns so late (seconds) that its client has left.
_LISTEN_SECONDS = 15


@asynccontextmanager
async def stream(request: web.Request) -> AsyncIterator[EventSourceResponse]:
    """A stream of events; a client that leaves ends it."""
    with suppress(ClientConnectionResetError):
        async with sse_response(request) as events:
            yield events


async def heard(events: EventSourceResponse, listener: Listener) -> AsyncGenerator[Message, None]:
    """The listener's messages, until it is closed or the client has left."""
    while events.is_connected():
        try:
            async with asyncio.timeout(_LISTEN_SECONDS):
                message = await anext(listener)
        except TimeoutError:
            continue  # nothing to tell; the stream's pings have found out whether anybody listens
        except StopAsyncIteration:
            return
        yield message
