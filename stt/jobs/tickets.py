"""Tickets: an arq job says only that there is work; the claim in SQL decides which.

The id of a ticket is never used again, and a ticket without a row does no harm. So nothing depends on what
arq remembers of it. Only this module and ``workers/`` import arq.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import structlog
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from redis.exceptions import RedisError

from stt.jobs.model import Job
from stt.telemetry import metrics

log = structlog.stdlib.get_logger(__name__)

# A Redis client that can also enqueue tickets.
Redis = ArqRedis

TRANSCRIBE_QUEUE, TRANSCRIBE = "stt:queue:transcribe", "transcribe"
WORKER_KEY = "stt:worker:"  # and the name of the worker: a key that expires soon after the worker is gone
# Longer than any recording takes: the lease in the row ends a job, never arq.
TICKET_SECONDS = 30 * 24 * 3600
_ANNOUNCE_SECONDS = 2.0
# Seconds. A ticket is acknowledged at once: if one was picked up longer ago, its worker died at that moment.
_TAKEN_SECONDS = 60


def serialize(value: dict[str, Any]) -> bytes:
    """JSON: data from Redis must never be unpickled."""
    return json.dumps(value, default=repr).encode()


def deserialize(data: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(data)
    return value


def redis_settings(url: str) -> RedisSettings:
    """arq's settings for `redis://`, `rediss://` and `unix:///path?db=0`."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        settings = RedisSettings.from_dsn(url)
    else:
        query = dict(parse_qsl(parts.query))
        settings = RedisSettings(
            unix_socket_path=parts.path,
            database=int(query.get("db", 0)),
            username=parts.username,
            password=parts.password,
        )
    settings.conn_timeout = 5
    settings.conn_retries = 10
    settings.conn_retry_delay = 1
    settings.retry_on_timeout = True
    return settings


async def open_connections(url: str) -> ArqRedis:
    """As `connect`, but it waits while Redis is unavailable, instead of a loop of restarts."""
    while True:
        try:
            return await connect(url)
        except (RedisError, OSError) as error:
            log.warning("waiting for Redis", error=type(error).__name__)


async def connect(url: str) -> ArqRedis:
    """A pool of connections; it waits some seconds for a Redis that is just starting.

    Raises:
        RedisError, OSError: Redis does not answer, or refuses the connection.
    """
    return await create_pool(
        redis_settings(url),
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=TRANSCRIBE_QUEUE,
        expires_extra_ms=TICKET_SECONDS * 1000,
    )


async def enqueue(
    redis: ArqRedis, *, at: datetime | None = None, action: Literal["enqueued", "restored"] = "enqueued"
) -> None:
    """Enqueue a ticket that is due now or at a time; `restored`: in place of one that is missing."""
    await redis.enqueue_job(TRANSCRIBE, _job_id=uuid4().hex, _defer_until=at)
    metrics.TICKETS.labels(action).inc()


async def announce(redis: ArqRedis, job: Job) -> None:
    """Enqueue a ticket for a job. While Redis is unavailable none is made, and maintenance adds it later."""
    try:
        async with asyncio.timeout(_ANNOUNCE_SECONDS):
            await enqueue(redis, at=job.not_before)
    except (RedisError, OSError) as error:
        metrics.TICKETS.labels("failed").inc()
        log.warning("no ticket was enqueued", job_id=str(job.id), error=str(error))


async def waiting(redis: ArqRedis) -> list[str]:
    """The ids of tickets that a worker would pick up now, oldest first."""
    now = time.time() * 1000 + 1  # arq rounds; a ticket for later is not due yet
    ids = [member.decode() for member in await redis.zrangebyscore(TRANSCRIBE_QUEUE, "-inf", now)]
    if not ids:
        return []
    async with redis.pipeline(transaction=False) as pipe:
        for ticket in ids:
            # arq starts no ticket that is marked as running (its worker may have died) or that has no body.
            pipe.exists(in_progress_key_prefix + ticket)
            pipe.exists(job_key_prefix + ticket)
        found = await pipe.execute()
    taken, whole = found[::2], found[1::2]
    return [ticket for ticket, busy, body in zip(ids, taken, whole, strict=True) if body and not busy]


async def taken_long_ago(redis: ArqRedis) -> list[str]:
    """The ids of tickets whose worker died at the moment it picked them up."""
    ids = [member.decode() for member in await redis.zrange(TRANSCRIBE_QUEUE, 0, -1)]
    async with redis.pipeline(transaction=False) as pipe:
        for ticket in ids:
            pipe.ttl(in_progress_key_prefix + ticket)
        left = await pipe.execute()
    return [
        ticket for ticket, ttl in zip(ids, left, strict=True) if 0 <= ttl < TICKET_SECONDS - _TAKEN_SECONDS
    ]


async def count_workers(redis: ArqRedis) -> int:
    """How many workers have shown themselves within the last seconds."""
    return len({key async for key in redis.scan_iter(match=f"{WORKER_KEY}*", count=1000)})


async def acknowledge(redis: ArqRedis, ticket: str) -> None:
    """Remove a ticket as soon as it is picked up; the job's lease tracks it from here.

    Tickets that stay until their job is done would fill the head of the queue once workers have died, and arq
    looks only at the first hundred.
    """
    try:
        async with asyncio.timeout(_ANNOUNCE_SECONDS):
            await _remove(redis, [ticket])
            metrics.TICKETS.labels("taken").inc()
    except (RedisError, OSError) as error:
        log.warning("a ticket was not acknowledged", error=str(error))


async def discard(redis: ArqRedis, tickets: list[str]) -> None:
    """Remove tickets that are of no use."""
    await _remove(redis, tickets)
    metrics.TICKETS.labels("discarded").inc(len(tickets))


async def _remove(redis: ArqRedis, tickets: list[str]) -> None:
    """Remove tickets, with everything that arq keeps of them."""
    prefixes = (job_key_prefix, in_progress_key_prefix, retry_key_prefix)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zrem(TRANSCRIBE_QUEUE, *tickets)
        pipe.delete(*(prefix + ticket for prefix in prefixes for ticket in tickets))
        await pipe.execute()
