"""What a worker publishes, and how one Redis subscription feeds many listeners.

A message is a dict with `event`, `job` (uuid) and `at` (seconds, PostgreSQL's clock):

- `created`, `progress`, `completed`, `failed`, `cancelled`: `data` is the public job without its text
- `segments`: `segments`, numbered from `first`
- `deleted`: `data` has the id
- `resync` (made here, without a job): messages may have been missed, read the rows again
- `idle` (made by a stream, without a job): nothing came for a while
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

Message = dict[str, Any]
CHANNEL = "stt:events"
RESYNC: Message = {"event": "resync"}
IDLE: Message = {"event": "idle"}
# A listener that is this far behind reads the rows again instead.
_QUEUE_LIMIT = 1000
_RECONNECT_SECONDS = 0.5
# A Redis that neither answers nor refuses may hold up nobody for longer.
_PUBLISH_SECONDS = 2.0


async def publish(redis: Redis, message: Message) -> None:
    """Tell every web process. A Redis that is away costs a delay, never the job: rows are the truth."""
    try:
        async with asyncio.timeout(_PUBLISH_SECONDS):
            await redis.publish(CHANNEL, json.dumps(message))
    except (RedisError, OSError) as error:
        log.warning("%s was not published: %s", message["event"], error, extra={"job": message["job"]})


class Listener:
    """A small bounded queue in which a newer progress replaces an older one."""

    def __init__(self, job_id: str | None) -> None:
        self.job_id = job_id
        self._waiting: OrderedDict[Any, Message] = OrderedDict()
        self._numbers = count()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, message: Message) -> None:
        if self.job_id and message.get("job") not in (self.job_id, None):
            return
        if len(self._waiting) >= _QUEUE_LIMIT:
            self._waiting.clear()
            message = RESYNC
        progress = message["event"] == "progress"
        key = message["job"] if progress else next(self._numbers)
        self._waiting.pop(key, None)  # and to the end: order among the kept ones stays
        self._waiting[key] = message
        self._ready.set()

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
    """The one subscription of a web process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
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
    async def listen(self, job_id: str | None = None) -> AsyncIterator[Listener]:
        """Messages from now on, of one job or of all; ends when the hub is closed."""
        listener = Listener(str(job_id) if job_id else None)
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
                log.warning("lost the subscription to Redis: %s", error)
            except Exception:  # without it every page of this process would stand still
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
            event, job = message["event"], message["job"]
        except (ValueError, TypeError, KeyError):
            log.error("what was published is no message of ours: %d bytes", len(data))
            return
        log.debug("%s", event, extra={"job": job})
        self._spread(message)

    def _on_subscribed(self) -> None:
        if self._subscribed.is_set():  # not for the first time: something may have been missed
            self._spread(RESYNC)
        self._subscribed.set()

    def _spread(self, message: Message) -> None:
        for listener in self._listeners:
            listener.put(message)
