"""Publishes messages through Redis, and gives those of one subscription to many listeners.

A message is a JSON object with `event`, `job` (uuid), `owner` and `claim`; what else it has depends on the
event (see `stt.jobs.messages`). The hub adds a message of its own, `RESYNC`, without a job or an owner:
messages may have been lost, and the listener reads the rows again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.stdlib.get_logger(__name__)

Message = Mapping[str, Any]
CHANNEL = "stt:events"
RESYNC: Message = {"event": "resync"}
# A listener that is this far behind reads the rows again instead.
_QUEUE_LIMIT = 1000
_RECONNECT_SECONDS = 0.5
# The longest wait for a Redis that does not answer, in seconds.
_PUBLISH_SECONDS = 2.0


async def publish(redis: Redis, message: Message) -> None:
    """Send a message to every web process.

    While Redis is away the message is lost and logged; readers find what it said in the rows.
    """
    try:
        async with asyncio.timeout(_PUBLISH_SECONDS):
            await redis.publish(CHANNEL, json.dumps(message))
    except (RedisError, OSError) as error:
        log.warning(
            "a message was not published", kind=message["event"], job_id=message["job"], error=str(error)
        )


class Listener:
    """A bounded queue of messages, in which a newer progress replaces an older one of the same job."""

    def __init__(
        self,
        job_id: str | None = None,
        owner: str | None = None,
        on_resync: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_resync = on_resync
        self.job_id = job_id  # None: of all jobs
        self.owner = owner  # None: of all owners
        self._waiting: OrderedDict[Any, Message] = OrderedDict()
        self._numbers = count()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, message: Message) -> None:
        if not self._accepts(message):
            return
        if len(self._waiting) >= _QUEUE_LIMIT:
            self._waiting.clear()
            message = RESYNC
        if message == RESYNC:
            self._on_resync()
        progress = message["event"] == "progress"
        key = message["job"] if progress else next(self._numbers)
        self._waiting.pop(key, None)  # the newer one goes to the end: a job's messages stay in order
        self._waiting[key] = message
        self._ready.set()

    def _accepts(self, message: Message) -> bool:
        if message == RESYNC:
            return True
        if self.job_id is not None and message["job"] != self.job_id:
            return False
        return self.owner is None or message["owner"] == self.owner

    def close(self) -> None:
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        _, message = self._waiting.popitem(last=False)
        return message


class Hub:
    """The one Redis subscription of a web process, and its listeners."""

    def __init__(self, redis: Redis, on_resync: Callable[[], None] = lambda: None) -> None:
        """A hub that has not started.

        Args:
            redis: Where the messages come from.
            on_resync: Called when a listener has to read the rows again, because messages may have been lost.
        """
        self._redis, self._on_resync = redis, on_resync
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="hub")
        await self._subscribed.wait()

    def end_listeners(self) -> None:
        """End every stream; their clients connect again, perhaps to another process."""
        for listener in self._listeners:
            listener.close()

    async def close(self) -> None:
        self.end_listeners()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.asynccontextmanager
    async def listen(self, job_id: str | None = None, owner: str | None = "local") -> AsyncIterator[Listener]:
        """Messages from now on; ends when the hub is closed.

        Args:
            job_id: Only those of this job; None for all jobs.
            owner: Only those of this owner's jobs; None for all owners.
        """
        listener = Listener(job_id, owner, self._on_resync)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("the subscription to Redis was lost", error=str(error))
            except Exception:  # without the subscription no page of this process is updated
                log.exception("the subscription to Redis failed")
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(CHANNEL)
            async for raw in pubsub.listen():
                if raw["type"] == "subscribe":
                    self._on_subscribed()
                elif raw["type"] == "message":
                    self._on_message(raw["data"])

    def _on_message(self, data: bytes) -> None:
        try:
            message = json.loads(data)
            event, job, _ = message["event"], message["job"], message["owner"]
        except (ValueError, TypeError, KeyError):
            log.error("a published message cannot be read", bytes=len(data))
            return
        log.debug("message received", kind=event, job_id=job)
        self._spread(message)

    def _on_subscribed(self) -> None:
        if self._subscribed.is_set():  # a second time: messages may have been lost in between
            self._spread(RESYNC)
        self._subscribed.set()

    def _spread(self, message: Message) -> None:
        for listener in self._listeners:
            listener.put(message)
