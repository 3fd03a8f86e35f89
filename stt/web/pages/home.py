"""HTML for people: pages, and the fragments that keep them true.

A page and its fragments are rendered from the same templates. A stream sends fragments that name
their own place (htmx's out-of-band swaps), so that one listening element serves a whole page.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp_jinja2
from aiohttp import web
from aiohttp_sse import EventSourceResponse
from markupsafe import Markup

from stt.jobs import lifecycle
from stt.jobs.lifecycle import Job, Status
from stt.paths import STATIC
from stt.pubsub import TERMINAL, Message, current
from stt.transcript.languages import LANGUAGES
from stt.web import bodies
from stt.web.api import jobs
from stt.web.context import HUB, POOL, SETTINGS
from stt.web.pages import wording
from stt.web.problems import Problem
from stt.web.sse import RECONNECT_MS, heard
from stt.web.sse import stream as events_of

log = logging.getLogger(__name__)

Fragment = Markup
View = dict[str, Any]

FILTERS: dict[str, Callable[..., Any]] = wording.FILTERS
ROWS = 50
# What changes while a job runs without changing more of its row than its state.
_RUNNING = {"stage", "progress", "eta_seconds", "updated_at", "stopping"}


def asset(name: str) -> str:
    """The address of a static file, different for each content, so that browsers may keep it."""
    path = STATIC / name
    try:
        return f"/static/{name}?v={_digest(path, path.stat().st_mtime_ns)}"
    except FileNotFoundError:
        # Without it the page works as it does where there is no script.
        log.error("%s is missing: run make setup", path)
        return f"/static/{name}"


@lru_cache
def _digest(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


async def static(request: web.Request) -> web.FileResponse:
    """`GET /static/…`; aiohttp's own view answers for a missing file without a body."""
    try:
        path = (STATIC / request.match_info["name"]).resolve()
        found = path.is_relative_to(STATIC.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise web.HTTPNotFound
    return web.FileResponse(path)


GLOBALS: dict[str, Any] = {
    "asset": asset,
    "labelled": False,  # of a button: with a word instead of a picture
    "oob": False,  # of a fragment: swapped by its own id, wherever the answer's target is
    "languages": sorted(LANGUAGES.items(), key=lambda i: i[1]),
}


# Pages


async def index(request: web.Request) -> web.Response:
    """`GET /`: upload, and the newest jobs."""
    return _page(request, "index.html", {**await _list(request), "cursor": ""})


async def job_list(request: web.Request) -> web.Response:
    """`GET /jobs?cursor=`: the next rows; a page of its own where there is no script."""
    cursor = request.query.get("cursor", "")
    template = "_rows.html" if "HX-Request" in request.headers else "index.html"
    return _page(request, template, {**await _list(request, cursor), "cursor": cursor})


async def job(request: web.Request) -> web.Response:
    """`GET /jobs/{id}`: one recording."""
    found = await _job_or_404(request)
    segments = await lifecycle.segments(request.app[POOL], found)
    return _page(request, "job.html", _recording(found, segments))


def render_error(request: web.Request, status: int, title: str, detail: str) -> web.Response:
    """What a person sees where a program gets problem+json."""
    context = {"status": status, "title": title, "detail": detail}
    return _page(request, "error.html", context, status=status)


def _page(request: web.Request, template: str, context: dict[str, Any], *, status: int = 200) -> web.Response:
    response = aiohttp_jinja2.render_template(
        template, request, {"settings": request.app[SETTINGS], **context}, status=status
    )
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Vary"] = "HX-Request"
    return response


async def _list(request: web.Request, cursor: str | None = None) -> dict[str, Any]:
    page, next_cursor = await lifecycle.list_page(request.app[POOL], limit=ROWS, cursor=cursor)
    return {
        "jobs": [_view(job) for job in page],
        "next_cursor": next_cursor,
        "state": _state(page),
    }


def _state(page: Sequence[Job]) -> str:
    """Names what a list shows: another state, another name."""
    shown = "|".join(f"{job.id} {job.updated_at.isoformat()}" for job in page)
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _view(job: Job) -> View:
    """A job as the templates want it: that of an event, and whether it has been asked to stop."""
    return {**job.public(text=False), "stopping": job.cancel_requested and not job.ended}


def _recording(job: Job, segments: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "job": _view(job),
        "segments": segments,
        "ended": job.ended,
        "has_transcript": job.has_transcript,
        "state": job.updated_at.isoformat(),
        "text_language": "en" if job.task == "translate" else job.language,
        "engine_log": job.error_log if job.status is Status.FAILED else None,
    }


async def _job_or_404(request: web.Request) -> Job:
    found = await lifecycle.get(request.app[POOL], _id(request))
    if found is None:
        raise _no_recording()
    return found


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        raise _no_recording() from None


def _no_recording() -> Problem:
    detail = "It may have been deleted, or its address is cut short."
    return Problem(404, "job_not_found", "No such recording", detail)


# What a person does


async def cancel(request: web.Request) -> web.StreamResponse:
    """`POST /jobs/{id}/cancel`."""
    job_id = _id(request)
    try:
        await jobs.cancel(request.app, job_id)
    except Problem as problem:
        if problem.status != 409:  # it has ended meanwhile: what the page shows next says how
            raise
    if "HX-Request" not in request.headers:
        raise web.HTTPSeeOther(f"/jobs/{job_id}")
    found = await _job_or_404(request)
    if _asked_from(request, job_id):
        segments = await lifecycle.segments(request.app[POOL], found)
        return _html(_fragment(request, "_head.html", oob=True, **_recording(found, segments)))
    return _html(_fragment(request, "_row.html", oob=True, job=_view(found)))


async def retry(request: web.Request) -> web.StreamResponse:
    """`POST /jobs/{id}/retry`: done again with the same options."""
    job_id = _id(request)
    try:
        await jobs.retry(request.app, job_id, {})
    except Problem as problem:
        if problem.status != 409:  # it runs already: what the page shows next says so
            raise
    if "HX-Request" not in request.headers:
        raise web.HTTPSeeOther(f"/jobs/{job_id}")
    found = await _job_or_404(request)
    return _html(_fragment(request, "_row.html", oob=True, job=_view(found)))


async def delete(request: web.Request) -> web.StreamResponse:
    """`POST /jobs/{id}/delete`; without a script it asks first, with one the page has asked."""
    job_id = _id(request)
    scripted = "HX-Request" in request.headers
    if not scripted and "sure" not in await bodies.form(request):
        return _page(request, "delete.html", {"job": _view(await _job_or_404(request))})
    try:
        await jobs.delete(request.app, job_id)
    except Problem as problem:
        if problem.status != 404:  # somebody else was first, and it is gone as wished
            raise
    if not scripted:
        raise web.HTTPSeeOther("/")
    if _asked_from(request, job_id):
        return web.Response(headers={"HX-Redirect": "/"})
    return _html(_removal(str(job_id)))


def _asked_from(request: web.Request, job_id: UUID) -> bool:
    """Does the request come from the job's own page, not from the list?"""
    return request.headers.get("HX-Current-URL", "").endswith(f"/jobs/{job_id}")


def _html(fragment: Fragment) -> web.Response:
    return web.Response(text=fragment, content_type="text/html")


# Fragments


def _fragment(request: web.Request, template: str, **context: Any) -> Fragment:
    return Markup(aiohttp_jinja2.render_string(template, request, context))  # noqa: S704  rendered with autoescape


def _removal(job_id: str) -> Fragment:
    return Markup('<li id="job-{}" hx-swap-oob="delete"></li>').format(job_id)


def _said(text: str) -> Fragment:
    """A sentence for a person who listens to the page."""
    return Markup('<span hx-swap-oob="innerHTML:#said">{}</span>').format(text)


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
        if event in TERMINAL:
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
        if event in TERMINAL:
            row += _said(f"{job['original_filename']}: {wording.doing(job)}")
        return row

    async def _ended_unheard(self) -> Fragment | None:
        """What has ended without our hearing of it."""
        found = [await lifecycle.get(self._request.app[POOL], UUID(job_id)) for job_id in list(self._shown)]
        told = [await self.tell(current(job)) for job in found if job and job.ended]
        return Markup("").join(filter(None, told)) or None


async def job_stream(request: web.Request) -> web.StreamResponse:
    """`GET /jobs/{id}/stream?from=&state=`: one recording's changes, until it has ended.

    The event id is the number of segments that the page has, or ``end``.
    """
    last = request.headers.get("Last-Event-ID")
    if last == "end":
        return web.Response(status=204)  # stops an EventSource from connecting again
    job_id = _id(request)
    async with request.app[HUB].listen(str(job_id)) as listener, events_of(request) as stream:
        recording = _JobStream(request, job_id, stream)
        known = last or request.query.get("from", "")
        await recording.catch_up(
            int(known) if known.isdecimal() and len(known) <= 9 else None,
            state=None if last else request.query.get("state"),
        )
        messages = heard(stream, listener)
        while not recording.ended and (message := await anext(messages, None)):
            await recording.tell(message)
    return stream


class _JobStream:
    """Remembers what one page has of a recording."""

    def __init__(self, request: web.Request, job_id: UUID, stream: EventSourceResponse) -> None:
        self._request, self._id, self._stream = request, job_id, stream
        self._sent = 0  # segments
        self._shown: View | None = None
        self.ended = False

    async def catch_up(self, sent: int | None, *, state: str | None = None) -> None:
        """Bring the page up to date.

        Args:
            sent: How many segments it has; None for a page to be made anew.
            state: When the job last changed before the page was rendered, if that is known.
        """
        found = await lifecycle.get(self._request.app[POOL], self._id)
        if found is None:
            await self._end(_fragment(self._request, "_gone.html"))
            return
        segments = await lifecycle.segments(self._request.app[POOL], found)
        context = _recording(found, segments)
        if found.ended or sent is None or sent > len(segments):
            await self._whole(context)
            return
        self._shown = context["job"]
        fragments = [self._part(segments[sent:])]
        if context["state"] != state:
            fragments.append(self._head(context["job"]))
        self._sent = len(segments)
        await self._update(*fragments)

    async def _whole(self, context: dict[str, Any]) -> None:
        job = self._shown = context["job"]
        self._sent = len(context["segments"])
        fragment = _fragment(self._request, "_job.html", oob=True, **context) + self._title(job)
        if context["ended"]:
            await self._end(fragment + _said(wording.doing(job)))
        else:
            await self._update(fragment)

    async def tell(self, message: Message) -> None:
        event = message["event"]
        if event == "idle":
            found = await lifecycle.get(self._request.app[POOL], self._id)
            if found and not found.ended:
                return
        missed = event == "segments" and message["first"] > self._sent
        if event in TERMINAL | {"idle"} or event in ("deleted", "resync") or missed:
            await self.catch_up(self._sent)
        elif event == "segments":
            await self._tell_segments(message)
        else:
            await self._tell_progress({**message["data"], "stopping": False})

    async def _tell_segments(self, message: Message) -> None:
        first = message["first"]
        numbered = [{"id": n, **segment} for n, segment in enumerate(message["segments"], first)]
        fresh = numbered[self._sent - first :]
        if fresh:
            self._sent += len(fresh)
            await self._update(self._part(fresh))

    async def _tell_progress(self, job: View) -> None:
        before, self._shown = self._shown, job
        if before and _beside_progress(before) == _beside_progress(job):
            fragment = _fragment(self._request, "_state.html", oob=True, job=job)
        else:
            fragment = self._head(job)
        if before and wording.doing(before) != wording.doing(job):
            fragment += _said(wording.doing(job))
        await self._update(fragment, self._title(job))

    def _head(self, job: View) -> Fragment:
        return _fragment(self._request, "_head.html", oob=True, job=job, segments=[])

    def _part(self, segments: list[dict[str, Any]]) -> Fragment:
        if not segments:
            return Markup("")
        part = _fragment(self._request, "_segments.html", segments=segments)
        return Markup('<div hx-swap-oob="beforeend:#transcript">{}</div>').format(part)

    def _title(self, job: View) -> Fragment:
        text = _fragment(self._request, "_title.html", job=job)
        return Markup("<title>{}</title>").format(text.strip())

    async def _update(self, *fragments: Fragment) -> None:
        await _send(self._stream, Markup("").join(fragments), number=str(self._sent))

    async def _end(self, fragment: Fragment) -> None:
        self.ended = True
        await _send(self._stream, fragment, number="end")
        await self._stream.send("", event="end", id="end")


def _beside_progress(job: View) -> View:
    return {key: value for key, value in job.items() if key not in _RUNNING}


async def _send(stream: EventSourceResponse, fragment: Fragment, number: str | None = None) -> None:
    await stream.send(fragment, event="update", id=number, retry=RECONNECT_MS)
