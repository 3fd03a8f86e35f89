"""What a reader of events receives, in batches: first what the rows hold, then what messages say.

The JSON events and the streams of the pages are made of these batches. The caller subscribes to the messages
before it calls, so that nothing is lost between the reading of the rows and the first message. Of one
job, segments that the reader already has are left out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self
from uuid import UUID

import asyncpg

from stt.jobs import lookup, results
from stt.jobs.messages import (
    END_EVENTS,
    JobMessage,
    SegmentsMessage,
    StateMessage,
    StateName,
    current,
    received,
)
from stt.jobs.model import LOCAL, Job
from stt.pubsub import RESYNC, Message
from stt.transcript.schema import Segment

Messages = AsyncIterator[Message]

# The time in a row is older than its commit, so a search for changes begins this much earlier.
_OVERLAP = dt.timedelta(seconds=5)
# Jobs whose spans are read with one query.
_GROUP = 50


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job as its row stands, with the segments that the reader lacks."""

    job: Job
    first: int  # number of the first of `segments`; 0 where the reader has some: it must drop them
    segments: list[Segment]


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of a job, in order, each with its number as `id`."""

    job_id: str
    segments: list[Segment]


@dataclass(frozen=True, slots=True)
class State:
    """How a job stands after a change."""

    event: StateName
    job_id: str
    at: float  # when it changed, in seconds since 1970
    job: dict[str, Any]  # `Job.public` without the text

    @classmethod
    def of(cls, message: StateMessage) -> Self:
        return cls(message["event"], message["job"], message["at"], message["data"])


@dataclass(frozen=True, slots=True)
class Deleted:
    """A job was deleted."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """The newest jobs."""

    jobs: list[Job]
    end: lookup.Position | None  # where the next page begins, if there is one


# One job


async def of_job(
    pool: asyncpg.Pool,
    messages: Messages,
    job_id: UUID,
    *,
    owner: str | None = LOCAL,
    sent: int = 0,
    final_text: bool = False,
) -> AsyncGenerator[Snapshot | Segments | State | Deleted, None]:
    """The batches of one job: a `Snapshot`, then changes, until a `Snapshot` of the ended job or `Deleted`.

    Args:
        pool: The database.
        messages: The job's messages, from a subscription that is older than this call.
        job_id: The job.
        owner: Whose job; None for anyone's.
        sent: How many segments the reader already has.
        final_text: Whether the last snapshot has the whole final transcript, for a reader that replaces what
            it has. Otherwise it has the rest of the segments as they were streamed.
    """
    reader = _JobReader(pool, job_id, owner, sent, final_text=final_text)
    yield await reader.snapshot()
    while not reader.ended and (message := await anext(messages, None)) is not None:
        if batch := await reader.receive(received(message)):
            yield batch


class _JobReader:
    """Counts the segments that one reader of a job has."""

    def __init__(
        self, pool: asyncpg.Pool, job_id: UUID, owner: str | None, sent: int, *, final_text: bool
    ) -> None:
        self._pool, self._id, self._owner = pool, job_id, owner
        self._sent, self._final_text = sent, final_text
        self.ended = False  # whether the reader has had the last batch

    async def snapshot(self) -> Snapshot | Deleted:
        return await self._snapshot_of(await self._job())

    async def receive(self, message: JobMessage) -> Snapshot | Segments | State | Deleted | None:
        if message["event"] == "segments":
            return await self._on_segments(message)
        if message["event"] == "idle":
            return await self._on_idle()
        if message["event"] == "deleted":
            self.ended = True
            return Deleted(message["job"])
        # At the end the rows are read once more: a message with segments may have been lost.
        if message["event"] == "resync" or message["event"] in END_EVENTS:
            return await self.snapshot()
        return State.of(message)

    async def _on_segments(self, message: SegmentsMessage) -> Snapshot | Segments | Deleted | None:
        if message["first"] > self._sent:  # the message before was lost
            return await self.snapshot()
        fresh = message["segments"][self._sent - message["first"] :]
        self._sent += len(fresh)
        return Segments(message["job"], fresh) if fresh else None

    async def _on_idle(self) -> Snapshot | Deleted | None:
        job = await self._job()
        return await self._snapshot_of(job) if job is None or job.ended else None

    async def _job(self) -> Job | None:
        return await lookup.get(self._pool, self._id, owner=self._owner)

    async def _snapshot_of(self, job: Job | None) -> Snapshot | Deleted:
        if job is None:
            self.ended = True
            return Deleted(str(self._id))
        whole = job.ended and self._final_text
        # A reader that has segments gets the spans as streamed: the final transcript may be numbered
        # differently, because diarization splits segments.
        read = results.recognised if self._sent and not whole else results.segments
        segments = await read(self._pool, job)
        # Fewer than the reader has: the job was restarted with other options.
        first = 0 if whole or self._sent > len(segments) else self._sent
        self._sent, self.ended = len(segments), job.ended
        return Snapshot(job, first, segments[first:])


# The list of jobs


async def of_list(
    pool: asyncpg.Pool, messages: Messages, *, owner: str | None = LOCAL, limit: int
) -> AsyncGenerator[Page | State | Deleted, None]:
    """The newest jobs as a `Page`, then changes; another `Page` after messages may have been lost.

    Args:
        pool: The database.
        messages: The messages of all jobs, from a subscription that is older than this call.
        owner: Only this owner's jobs; None for all.
        limit: Jobs per page.
    """
    unfinished: set[UUID] = set()
    async for message in _resync_first(messages):
        if message["event"] == "resync":
            jobs, end = await lookup.list_page(pool, owner=owner, limit=limit)
            unfinished = {job.id for job in jobs if not job.ended}
            yield Page(jobs, end)
        elif message["event"] == "idle":
            for job in await lookup.ended_among(pool, unfinished, owner=owner):
                unfinished.discard(job.id)
                yield State.of(current(job))
        elif message["event"] == "deleted":
            unfinished.discard(UUID(message["job"]))
            yield Deleted(message["job"])
        elif message["event"] != "segments":
            change = unfinished.discard if message["event"] in END_EVENTS else unfinished.add
            change(UUID(message["job"]))
            yield State.of(message)


async def _resync_first(messages: Messages) -> AsyncGenerator[JobMessage, None]:
    yield received(RESYNC)
    async for message in messages:
        yield received(message)


# All jobs


async def of_all(
    pool: asyncpg.Pool, messages: Messages, *, owner: str | None = LOCAL, since: dt.datetime | None = None
) -> AsyncGenerator[Segments | State | Deleted, None]:
    """Every job's batches: at first of those that wait or run, or of those that have changed since a time.

    A batch comes at least once: what happened around `since` may come again.

    Args:
        pool: The database.
        messages: The messages of all jobs, from a subscription that is older than this call.
        owner: Only this owner's jobs; None for all.
        since: The reader has every change up to this time; None for a new reader.
    """
    caught_up = await lookup.server_time(pool)
    sent = _SentEnds()
    rows = _active(pool, owner) if since is None else _changed(pool, owner, since)
    async for batch in rows:
        yield batch
    async for raw in messages:
        message = received(raw)
        if message["event"] == "resync" or message["event"] == "idle":
            # Not since the last message: an older one may be the one that was lost.
            since, caught_up = caught_up, await lookup.server_time(pool)
            async for changed in _changed(pool, owner, since, sent.take()):
                yield changed
        elif message["event"] == "segments":
            yield Segments(message["job"], message["segments"])
        elif message["event"] == "deleted":
            yield Deleted(message["job"])
        else:
            sent.add(message)
            yield State.of(message)


class _SentEnds:
    """The ends that a reader has received since it last caught up: they need not be sent again."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}  # when a job ended, by job
        self._latest = 0.0  # when the job of the newest message changed

    def add(self, message: StateMessage) -> None:
        self._latest = message["at"]
        if message["event"] in END_EVENTS:
            self._ends[message["job"]] = message["at"]

    def take(self) -> dict[str, float]:
        """The ends, without the newest, whose segments may have been lost with a message; then none."""
        limit = self._latest - _OVERLAP.total_seconds()
        ends, self._ends = self._ends, {}
        return {job: at for job, at in ends.items() if at < limit}


async def _active(pool: asyncpg.Pool, owner: str | None) -> AsyncGenerator[Segments | State, None]:
    for job in await lookup.active(pool, owner=owner):
        yield State.of(current(job))


async def _changed(
    pool: asyncpg.Pool,
    owner: str | None,
    since: dt.datetime,
    sent: Mapping[str, float] = MappingProxyType({}),
) -> AsyncGenerator[Segments | State, None]:
    """The jobs that have changed since a time, except those whose last change is an end in `sent`."""
    since -= _OVERLAP
    async for group in _groups(lookup.changed_since(pool, since, owner=owner)):
        jobs = [job for job in group if sent.get(str(job.id)) != job.updated_at.timestamp()]
        found = await results.segments_since(pool, jobs, since)
        for job in jobs:
            if segments := found.get(job.id):
                yield Segments(str(job.id), segments)
            yield State.of(current(job))


async def _groups(jobs: AsyncIterator[Job]) -> AsyncGenerator[list[Job], None]:
    group: list[Job] = []
    async for job in jobs:
        group.append(job)
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group
