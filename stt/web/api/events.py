"""Server-sent events for programs: each event's data is JSON. Pages have streams of their own in pages.py."""

from __future__ import annotations

import datetime as dt
import json

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from stt.jobs import feed
from stt.jobs.messages import END_EVENTS
from stt.pubsub import Message
from stt.web.context import HUB, POOL
from stt.web.params import job_or_404
from stt.web.problems import Problem
from stt.web.sse import RECONNECT_MS, heard, stream

_FURTHEST_BACK = dt.timedelta(days=1)


async def of_job(request: web.Request) -> web.StreamResponse:
    """`GET /api/jobs/{id}/events`: `segment`s, `progress`, then the end.

    A segment's event id is its number, so that `Last-Event-ID` says what a client already has.
    """
    job = await job_or_404(request)
    last = request.headers.get("Last-Event-ID", "")
    if job.ended and last == end_id(job.claim):
        return web.Response(status=204)  # stops an EventSource from connecting again
    after = int(last) if last.isdecimal() and len(last) <= 9 else -1
    async with request.app[HUB].listen(str(job.id)) as listener, stream(request) as sse:
        async for message in feed.of_job(request.app[POOL], heard(sse, listener), job.id, after=after):
            await sse.send(
                json.dumps(message["data"], ensure_ascii=False),
                event=message["event"],
                id=_id(message),
                retry=RECONNECT_MS,
            )
    return sse


def end_id(claim: int) -> str:
    """The event id of an attempt's end: a job that is done again ends with another one."""
    return f"end-{claim}"


def _id(message: Message) -> str | None:
    if message["event"] == "segment":
        return str(message["id"])
    return end_id(message["claim"]) if message["event"] in END_EVENTS else None


async def of_all(request: web.Request) -> web.StreamResponse:
    """`GET /api/events`: every job's events; the id is the time up to which a client knows."""
    since = _since(request.headers.get("Last-Event-ID"))
    async with request.app[HUB].listen() as listener, stream(request) as sse:
        async for message in feed.of_all(request.app[POOL], heard(sse, listener), since=since):
            await _send(sse, message)
    return sse


async def _send(sse: EventSourceResponse, message: Message) -> None:
    at = message.get("at")
    await sse.send(
        json.dumps({"job_id": message["job"], **message["data"]}, ensure_ascii=False),
        event=message["event"],
        id=None if at is None else f"{at:.6f}",
        retry=RECONNECT_MS,
    )


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
