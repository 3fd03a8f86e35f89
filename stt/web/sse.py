"""Server-sent events, for the JSON streams and those of the pages. A client that disconnects is no error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from aiohttp import ClientConnectionResetError, web
from aiohttp_sse import EventSourceResponse, sse_response

from stt import tracebacks
from stt.jobs.messages import IDLE
from stt.outages import UNAVAILABLE
from stt.pubsub import Listener, Message
from stt.web import observe
from stt.web.problems import about

log = structlog.stdlib.get_logger(__name__)

# How long a client waits before it connects again, in milliseconds.
RECONNECT_MS = 2000
# Seconds without a message after which a reader looks at the rows.
LISTEN_SECONDS = 15


@asynccontextmanager
async def stream(request: web.Request) -> AsyncIterator[EventSourceResponse]:
    """A stream of events, which ends when the client leaves or an error occurs.

    The error is logged: the response has begun, so its status cannot change any more. The client connects
    again and gets what it missed.
    """
    with suppress(ClientConnectionResetError):
        async with sse_response(request) as events, observe.listening(request, events):
            try:
                yield events
            except ClientConnectionResetError:
                raise
            except UNAVAILABLE as error:
                name = type(error).__name__
                log.warning("a stream ended", **about(request), error_type=name, error=tracebacks.said(error))
            except Exception:
                log.exception("a stream failed", **about(request))


async def messages_or_idle(events: EventSourceResponse, listener: Listener) -> AsyncGenerator[Message, None]:
    """The listener's messages, until it is closed or the client has left.

    After `LISTEN_SECONDS` without a message comes `IDLE`: the reader then looks at the rows, because a
    process that is killed after its transaction does not publish its message.
    """
    while events.is_connected():
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                message = await anext(listener)
        except TimeoutError:
            message = IDLE
        except StopAsyncIteration:
            return
        yield message
