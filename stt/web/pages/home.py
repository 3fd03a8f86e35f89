"""HTML for people: pages, and the fragments that keep them true.

A page and its fragments are rendered from the same templates. A stream sends fragments that name
their own place (htmx's out-of-band swaps), so that one listening element serves a whole page.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from aiohttp import web
from markupsafe import Markup

from stt.jobs import lookup
from stt.jobs.messages import END_EVENTS, current
from stt.jobs.model import Job
from stt.pubsub import Message
from stt.web import params
from stt.web.context import HUB, POOL
from stt.web.pages import wording
from stt.web.pages.render import (
    Fragment,
    View,
    _beside_progress,
    _fragment,
    _page,
    _removal,
    _said,
    _send,
    _view,
)
from stt.web.sse import heard
from stt.web.sse import stream as events_of

log = logging.getLogger(__name__)


ROWS = 50


# Pages


async def index(request: web.Request) -> web.Response:
    """`GET /`: upload, and the newest jobs."""
    return _page(request, "index.html", {**await _list(request), "cursor": ""})


async def job_list(request: web.Request) -> web.Response:
    """`GET /jobs?cursor=`: the next rows; a page of its own where there is no script."""
    template = "_rows.html" if "HX-Request" in request.headers else "index.html"
    context = await _list(request, params.cursor(request))
    return _page(request, template, {**context, "cursor": request.query.get("cursor", "")})


async def _list(request: web.Request, after: lookup.Position | None = None) -> dict[str, Any]:
    page, last = await lookup.list_page(request.app[POOL], limit=ROWS, after=after)
    return {
        "jobs": [_view(job) for job in page],
        "next_cursor": params.as_cursor(last),
        "state": _state(page),
    }


def _state(page: Sequence[Job]) -> str:
    """Names what a list shows: another state, another name."""
    shown = "|".join(f"{job.id} {job.updated_at.isoformat()}" for job in page)
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


# What a person does


# Fragments


# Streams


async def list_stream(request: web.Request) -> web.StreamResponse:
    """`GET /stream?state=`: the list's changes. A page that was away gets the list anew."""
    async with request.app[HUB].listen() as listener, events_of(request) as stream:
        # The id comes back when the browser connects again: the page has moved on by then.
        known = None if stream.last_event_id else request.query.get("state")
        rows = _ListStream(request)
        await _send(stream, await rows.catch_up(known), number="live")
        async for message in heard(stream, listener):
            if fragment := await rows.tell(message):
                await _send(stream, fragment)
    return stream


class _ListStream:
    """Remembers what one page's rows look like, so that it sends no more than what has changed."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._listed: set[str] = set()  # rows that were in the list at first or came on top
        self._shown: dict[str, View] = {}

    async def catch_up(self, state: str | None = None) -> Fragment:
        """The whole list, unless the page shows just this state."""
        context = await _list(self._request)
        self._listed = {job["id"] for job in context["jobs"]}
        self._shown = {job["id"]: job for job in context["jobs"] if job["completed_at"] is None}
        if context["state"] == state:
            return Markup("")
        return _fragment(self._request, "_jobs.html", oob=True, **context)

    async def tell(self, message: Message) -> Fragment | None:
        event = message["event"]
        if event == "resync":
            return await self.catch_up()
        if event == "idle":
            return await self._ended_unheard()
        if event == "segments":
            return None
        if event == "deleted":
            self._listed.discard(message["job"])
            self._shown.pop(message["job"], None)
            return _removal(message["job"])
        return self._row(event, {**message["data"], "stopping": False})

    def _row(self, event: str, job: View) -> Fragment:
        before = self._shown.get(job["id"])
        if event in END_EVENTS:
            self._shown.pop(job["id"], None)
        else:
            self._shown[job["id"]] = job
        if event == "created" and job["id"] not in self._listed:
            self._listed.add(job["id"])
            row = _fragment(self._request, "_row.html", job=job)
            return Markup('<ol hx-swap-oob="afterbegin:#jobs">{}</ol>').format(row)
        if before and _beside_progress(before) == _beside_progress(job):
            return _fragment(self._request, "_state.html", oob=True, job=job)
        row = _fragment(self._request, "_row.html", oob=True, job=job)
        if event in END_EVENTS:
            row += _said(f"{job['original_filename']}: {wording.doing(job)}")
        return row

    async def _ended_unheard(self) -> Fragment | None:
        """What has ended without our hearing of it."""
        found = [await lookup.get(self._request.app[POOL], UUID(job_id)) for job_id in list(self._shown)]
        told = [await self.tell(current(job)) for job in found if job and job.ended]
        return Markup("").join(filter(None, told)) or None
