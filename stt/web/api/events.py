"""Server-sent events for programs: the data of each event is JSON."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from stt.jobs import feed
from stt.jobs.messages import current
from stt.web.context import SERVICES
from stt.web.params import job_or_404
from stt.web.problems import Problem
from stt.web.sse import RECONNECT_MS, messages_or_idle, stream

_FURTHEST_BACK = dt.timedelta(days=1)


async def of_job(request: web.Request) -> web.StreamResponse:
    """`GET /api/jobs/{id}/events`: `segment`s, `progress`, then the end.

    A segment's event id is its number, so that `Last-Event-ID` says what a client already has.
    """
    job = await job_or_404(request)
    last = request.headers.get("Last-Event-ID", "")
    if job.ended and last == end_id(job.claim):
        return web.Response(status=204)  # stops an EventSource from connecting again
    sent = int(last) + 1 if last.isdecimal() and len(last) <= 9 else 0
    async with request.app[SERVICES].hub.listen(str(job.id)) as listener, stream(request) as sse:
        messages = messages_or_idle(sse, listener)
        async for batch in feed.of_job(request.app[SERVICES].pool, messages, job.id, sent=sent):
            for event in _of_snapshot(batch) if isinstance(batch, feed.Snapshot) else _events(batch):
                await _send(sse, event)
    return sse


async def of_all(request: web.Request) -> web.StreamResponse:
    """`GET /api/events`: every job's events; the id is the time up to which a client knows."""
    since = _since(request.headers.get("Last-Event-ID"))
    async with request.app[SERVICES].hub.listen() as listener, stream(request) as sse:
        async for batch in feed.of_all(
            request.app[SERVICES].pool, messages_or_idle(sse, listener), since=since
        ):
            at = f"{batch.at:.6f}" if isinstance(batch, feed.State) else None
            for event in _events(batch):
                data = {"job_id": batch.job_id, **event.data}
                await _send(sse, replace(event, data=data, id=at))
    return sse


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    data: Mapping[str, Any]
    id: str | None = None


def _of_snapshot(snapshot: feed.Snapshot) -> Iterator[_Event]:
    job, message = snapshot.job, current(snapshot.job)
    yield from _events(feed.Segments(str(job.id), snapshot.segments))
    yield _Event(message["event"], message["data"], end_id(job.claim) if job.ended else None)


def _events(batch: feed.Segments | feed.State | feed.Deleted) -> Iterator[_Event]:
    match batch:
        case feed.Segments():
            for segment in batch.segments:
                yield _Event("segment", segment, str(segment["id"]))
        case feed.State():
            yield _Event(batch.event, batch.job)
        case feed.Deleted():
            yield _Event("deleted", {"id": batch.job_id})


def end_id(claim: int) -> str:
    """The event id of an attempt's end: a job that is done again ends with another one."""
    return f"end-{claim}"


async def _send(sse: EventSourceResponse, event: _Event) -> None:
    data = json.dumps(event.data, ensure_ascii=False)
    await sse.send(data, event=event.name, id=event.id, retry=RECONNECT_MS)


def _since(value: str | None) -> dt.datetime | None:
    if not value:
        return None
    try:
        since = dt.datetime.fromtimestamp(float(value), dt.UTC)
        # Further back, a client has a list to read.
        return max(since, dt.datetime.now(dt.UTC) - _FURTHEST_BACK)
    except (ValueError, OverflowError, OSError):
        raise Problem(
            422, "bad_event_id", "Bad Last-Event-ID", "Last-Event-ID: take it from the last event"
        ) from None
