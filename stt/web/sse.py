"""Server-sent events as every stream here sends them: a client that leaves is noticed and is no error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import ClientConnectionResetError, web
from aiohttp_sse import EventSourceResponse, sse_response

from stt.jobs.messages import IDLE
from stt.outages import UNAVAILABLE
from stt.pubsub import Listener, Message
from stt.web.problems import about_job, where

log = logging.getLogger(__name__)

# How long a client waits before it connects again, in milliseconds.
RECONNECT_MS = 2000
# How long nothing may come before it is asked whether something was missed.
LISTEN_SECONDS = 15


@asynccontextmanager
async def stream(request: web.Request) -> AsyncIterator[EventSourceResponse]:
    """A stream of events; a client that leaves ends it.

    So does an error, which is logged: the answer has begun, so it cannot become another one. The client
    connects again and is told what it missed.
    """
    with suppress(ClientConnectionResetError):
        async with sse_response(request) as events:
            try:
                yield events
            except ClientConnectionResetError:
                raise
            except UNAVAILABLE as error:
                name = type(error).__name__
                log.warning("%s ended: %s: %s", where(request), name, error, extra=about_job(request))
            except Exception:
                log.exception("%s ended", where(request), extra=about_job(request))


async def heard(events: EventSourceResponse, listener: Listener) -> AsyncGenerator[Message, None]:
    """The listener's messages, until it is closed or the client has left.

    When there was none for a while, `IDLE`: a message may never have been published (whoever should have was
    killed just then), so that the rows are worth a look.
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
