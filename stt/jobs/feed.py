"""What one listener is told: first the rows, then messages, with nothing missed or told twice.

Subscribe, then read the snapshot, then go live: the other order loses what happens in between. Both the JSON
streams of one job and of all are made of these; whoever calls has subscribed before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator
from uuid import UUID

import asyncpg

from stt.jobs import lookup, model, results
from stt.jobs.messages import END_EVENTS, current
from stt.pubsub import Message

Messages = AsyncIterator[Message]

# Transactions commit a little later than the times in their rows: a reconnect looks back so far.
_OVERLAP = dt.timedelta(seconds=5)


async def of_job(
    pool: asyncpg.Pool, messages: Messages, job_id: UUID, *, after: int = -1
) -> AsyncGenerator[Message, None]:
    """One job's messages: `segment` (with `id`, its number) after number `after`, `progress`, and its end.

    The end is `completed`, `failed`, `cancelled`, or `deleted`; nothing follows it.
    """
    teller = _Teller(pool, job_id, after)
    async for message in teller.snapshot():
        yield message
    if teller.has_ended():
        return
    async for message in messages:
        async for item in teller.live(message):
            yield item
        if teller.has_ended():
            return


class _Teller:
    """Remembers which segments one listener has."""

    def __init__(self, pool: asyncpg.Pool, job_id: UUID, after: int) -> None:
        self.pool, self.job_id, self.last = pool, job_id, after
        self.ended = False

    def has_ended(self) -> bool:
        return self.ended

    async def snapshot(self) -> AsyncGenerator[Message, None]:
        job = await lookup.get(self.pool, self.job_id)
        if job is None:
            self.ended = True
            yield {"event": "deleted", "job": str(self.job_id), "data": {"id": str(self.job_id)}}
            return
        # Who has heard a part hears the rest as it was told then, by the same numbers.
        known = results.recognised if self.last >= 0 else results.segments
        segments = await known(self.pool, job)
        if self.last >= len(segments):
            self.last = -1  # it was begun anew with other options
        for segment in segments[self.last + 1 :]:
            yield self._segment(segment)
        self.ended = job.ended
        yield current(job)

    async def live(self, message: Message) -> AsyncGenerator[Message, None]:
        event = message["event"]
        missed = event == "segments" and message["first"] > self.last + 1
        if event == "idle":
            missed = await self._has_ended_unheard()
        if event in END_EVENTS | {"resync"} or missed:
            # At the end the rows are read once more: a message may have been lost, a segment never is.
            async for item in self.snapshot():
                yield item
        elif event == "segments":
            for segment in message["segments"]:
                if segment["id"] > self.last:
                    yield self._segment(segment)
        elif event != "idle":
            self.ended = event == "deleted"
            yield message

    async def _has_ended_unheard(self) -> bool:
        job = await lookup.get(self.pool, self.job_id)
        return job is None or job.ended

    def _segment(self, segment: dict[str, object]) -> Message:
        self.last = int(str(segment["id"]))
        return _segment(str(self.job_id), segment)


def _segment(job_id: str, segment: dict[str, object]) -> Message:
    return {"event": "segment", "job": job_id, "id": segment["id"], "data": segment}


async def of_all(
    pool: asyncpg.Pool, messages: Messages, *, since: dt.datetime | None = None
) -> AsyncGenerator[Message, None]:
    """Every job's messages. A listener that was away since a time is told what changed since then.

    Told at least once: what happened around `since` may come again.
    """
    seen = await lookup.server_time(pool)
    told = _active(pool) if since is None else _changed(pool, since)
    async for message in told:
        yield message
    async for message in messages:
        if message["event"] in ("resync", "idle"):
            since, seen = seen, await lookup.server_time(pool)
            async for item in _changed(pool, since):
                yield item
        elif message["event"] == "segments":
            for segment in message["segments"]:
                yield _segment(message["job"], segment)
        else:
            seen = dt.datetime.fromtimestamp(message["at"], dt.UTC) if "at" in message else seen
            yield message


async def _active(pool: asyncpg.Pool) -> AsyncGenerator[Message, None]:
    for job in await lookup.active(pool):
        yield current(job)


async def _changed(pool: asyncpg.Pool, since: dt.datetime) -> AsyncGenerator[Message, None]:
    since -= _OVERLAP
    async for job in lookup.changed_since(pool, since):
        for segment in await _segments_since(pool, job, since):
            yield _segment(str(job.id), segment)
        yield current(job)


async def _segments_since(pool: asyncpg.Pool, job: model.Job, since: dt.datetime) -> list[dict[str, object]]:
    segments: list[dict[str, object]] = []
    number = 0
    for span in await results.spans(pool, job):
        for segment in span["segments"]:
            if span["created_at"] >= since:
                segments.append({"id": number, **segment})
            number += 1
    return segments
