"""The page with the upload form and the list of jobs, and the stream that updates the list."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp_sse import EventSourceResponse
from markupsafe import Markup

from stt.jobs import feed, lookup
from stt.jobs.messages import END_EVENTS
from stt.jobs.model import Job
from stt.web import params
from stt.web.context import SERVICES
from stt.web.pages import render, wording
from stt.web.pages.render import Fragment, View
from stt.web.sse import messages_or_idle
from stt.web.sse import stream as events_of

ROWS = 50


# Pages


async def index(request: web.Request) -> web.Response:
    """`GET /`: upload, and the newest jobs."""
    return render.page(request, "index.html", {**await _list(request), "cursor": ""})


async def job_list(request: web.Request) -> web.Response:
    """`GET /jobs?cursor=`: the next rows; a page of its own where there is no script."""
    template = "_rows.html" if "HX-Request" in request.headers else "index.html"
    context = await _list(request, params.cursor(request))
    return render.page(request, template, {**context, "cursor": request.query.get("cursor", "")})


async def _list(request: web.Request, after: lookup.Position | None = None) -> dict[str, Any]:
    jobs, end = await lookup.list_page(request.app[SERVICES].pool, limit=ROWS, after=after)
    return _list_context(feed.Page(jobs, end))


def _list_context(page: feed.Page) -> dict[str, Any]:
    return {
        "jobs": [render.view(job) for job in page.jobs],
        "next_cursor": params.as_cursor(page.end),
        "state": _state(page.jobs),
    }


def _state(page: Sequence[Job]) -> str:
    """A digest of what a list shows, by which a stream knows whether the page is up to date."""
    shown = "|".join(f"{job.id} {job.updated_at.isoformat()}" for job in page)
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


# The stream


async def list_stream(request: web.Request) -> web.StreamResponse:
    """`GET /stream?state=`: the list's changes. A page that connects again gets the whole list."""
    async with request.app[SERVICES].hub.listen() as listener, events_of(request) as stream:
        # The browser sends the id when it connects again: then the page is not in its first state any more.
        state = None if stream.last_event_id else request.query.get("state")
        rows = _ListStream(request, stream, state)
        messages = messages_or_idle(stream, listener)
        async for batch in feed.of_list(request.app[SERVICES].pool, messages, limit=ROWS):
            await rows.draw(batch)
    return stream


class _ListStream:
    """Draws the batches of the list on one page, and remembers how its rows look."""

    def __init__(self, request: web.Request, stream: EventSourceResponse, state: str | None) -> None:
        self._request, self._stream = request, stream
        self._state = state  # of the list that the page was rendered with
        self._listed: set[str] = set()  # ids of the rows that the page has
        self._drawn: dict[str, View] = {}  # the rows of unfinished jobs, by id

    async def draw(self, batch: feed.Page | feed.State | feed.Deleted) -> None:
        match batch:
            case feed.Page():
                await self._draw_page(batch)
            case feed.State():
                await render.send(self._stream, self._row(batch.event, {**batch.job, "stopping": False}))
            case feed.Deleted():
                self._listed.discard(batch.job_id)
                self._drawn.pop(batch.job_id, None)
                await render.send(self._stream, render.removal(batch.job_id))

    async def _draw_page(self, page: feed.Page) -> None:
        """Draw the whole list, unless the page was rendered with just this one."""
        context = _list_context(page)
        self._listed = {job["id"] for job in context["jobs"]}
        self._drawn = {job["id"]: job for job in context["jobs"] if job["completed_at"] is None}
        state, self._state = self._state, None
        same = context["state"] == state
        fragment = Markup("") if same else render.fragment(self._request, "_jobs.html", oob=True, **context)
        await render.send(self._stream, fragment, number="live")

    def _row(self, event: str, job: View) -> Fragment:
        before = self._drawn.get(job["id"])
        if event in END_EVENTS:
            self._drawn.pop(job["id"], None)
        else:
            self._drawn[job["id"]] = job
        if event == "created" and job["id"] not in self._listed:
            self._listed.add(job["id"])
            row = render.fragment(self._request, "_row.html", job=job)
            return Markup('<ol hx-swap-oob="afterbegin:#jobs">{}</ol>').format(row)
        if before and render.without_progress(before) == render.without_progress(job):
            return render.fragment(self._request, "_state.html", oob=True, job=job)
        row = render.fragment(self._request, "_row.html", oob=True, job=job)
        if event in END_EVENTS:
            row += render.announcement(f"{job['original_filename']}: {wording.doing(job)}")
        return row
