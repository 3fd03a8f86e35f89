"""The page of one recording, and the stream that keeps it up to date."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from aiohttp import web
from aiohttp_sse import EventSourceResponse
from markupsafe import Markup

from stt.jobs import actions, feed, results
from stt.jobs.errors import JobEnded, JobNotEnded, JobNotFound
from stt.jobs.model import Job, Status
from stt.transcript.schema import Segment
from stt.web import bodies, params, request_ids
from stt.web.context import SERVICES
from stt.web.pages import render, wording
from stt.web.pages.render import Fragment, View
from stt.web.problems import Problem
from stt.web.sse import messages_or_idle
from stt.web.sse import stream as events_of


async def job(request: web.Request) -> web.Response:
    """`GET /jobs/{id}`: one recording."""
    found = await _job_or_404(request)
    segments = await results.segments(request.app[SERVICES].pool, found)
    return render.page(request, "job.html", _recording(found, segments))


def _recording(job: Job, segments: list[Segment]) -> dict[str, Any]:
    return {
        "job": render.view(job),
        "segments": segments,
        "ended": job.ended,
        "has_transcript": job.has_transcript,
        "state": job.updated_at.isoformat(),
        "text_language": "en" if job.task == "translate" else job.language,
        "engine_log": job.error_log if job.status is Status.FAILED else None,
    }


async def _job_or_404(request: web.Request) -> Job:
    try:
        return await params.job_or_404(request)
    except JobNotFound:
        raise _no_recording() from None


def _id(request: web.Request) -> UUID:
    try:
        return params.job_id(request)
    except JobNotFound:
        raise _no_recording() from None


def _no_recording() -> Problem:
    detail = "It may have been deleted, or its address is cut short."
    return Problem(404, "job_not_found", "No such recording", detail)


async def cancel(request: web.Request) -> web.StreamResponse:
    """`POST /jobs/{id}/cancel`."""
    job_id = _id(request)
    with suppress(JobEnded):  # The page that is shown next says how it ended.
        await actions.cancel(request.app[SERVICES], job_id)
    if "HX-Request" not in request.headers:
        raise web.HTTPSeeOther(f"/jobs/{job_id}")
    found = await _job_or_404(request)
    if _is_from_own_page(request, job_id):
        segments = await results.segments(request.app[SERVICES].pool, found)
        return render.html(render.fragment(request, "_head.html", oob=True, **_recording(found, segments)))
    return render.html(render.fragment(request, "_row.html", oob=True, job=render.view(found)))


async def retry(request: web.Request) -> web.StreamResponse:
    """`POST /jobs/{id}/retry`: transcribe again with the same options."""
    job_id = _id(request)
    with suppress(JobNotEnded):  # It runs already; the page that is shown next says so.
        await actions.retry(request.app[SERVICES], job_id, {}, request_id=request_ids.of(request))
    if "HX-Request" not in request.headers:
        raise web.HTTPSeeOther(f"/jobs/{job_id}")
    found = await _job_or_404(request)
    return render.html(render.fragment(request, "_row.html", oob=True, job=render.view(found)))


async def delete(request: web.Request) -> web.StreamResponse:
    """`POST /jobs/{id}/delete`; without a script a page asks for confirmation first."""
    job_id = _id(request)
    scripted = "HX-Request" in request.headers
    if not scripted and "sure" not in await bodies.form(request):
        return render.page(request, "delete.html", {"job": render.view(await _job_or_404(request))})
    with suppress(JobNotFound):  # It is already deleted.
        await actions.delete(request.app[SERVICES], job_id)
    if not scripted:
        raise web.HTTPSeeOther("/")
    if _is_from_own_page(request, job_id):
        return web.Response(headers={"HX-Redirect": "/"})
    return render.html(render.removal(str(job_id)))


def _is_from_own_page(request: web.Request, job_id: UUID) -> bool:
    """Whether the request comes from the job's own page, not from the list."""
    return request.headers.get("HX-Current-URL", "").endswith(f"/jobs/{job_id}")


async def job_stream(request: web.Request) -> web.StreamResponse:
    """`GET /jobs/{id}/stream?from=&state=`: one recording's changes, until it has ended.

    The event id is the number of segments that the page has, or ``end``.
    """
    last = request.headers.get("Last-Event-ID")
    if last == "end":
        return web.Response(status=204)  # stops an EventSource from connecting again
    job_id = _id(request)
    known = last or request.query.get("from", "")
    drawn = int(known) if known.isdecimal() and len(known) <= 9 else None
    async with request.app[SERVICES].hub.listen(str(job_id)) as listener, events_of(request) as stream:
        page = _JobStream(request, stream, drawn, None if last else request.query.get("state"))
        messages = messages_or_idle(stream, listener)
        pool = request.app[SERVICES].pool
        async for batch in feed.of_job(pool, messages, job_id, sent=drawn or 0, final_text=True):
            await page.draw(batch)
    return stream


class _JobStream:
    """Draws the batches of a recording on one page, and remembers what the page shows.

    Args:
        request: The page's request for the stream.
        stream: Where the fragments go.
        drawn: How many segments the page has; None for a page to be drawn anew.
        state: When the job last changed before the page was rendered, if that is known.
    """

    def __init__(
        self, request: web.Request, stream: EventSourceResponse, drawn: int | None, state: str | None
    ) -> None:
        self._request, self._stream = request, stream
        self._drawn, self._state = drawn, state
        self._job: View | None = None

    async def draw(self, batch: feed.Snapshot | feed.Segments | feed.State | feed.Deleted) -> None:
        match batch:
            case feed.Snapshot():
                await self._draw_snapshot(batch)
            case feed.Segments():
                await self._update(self._part(batch.segments))
            case feed.State():
                await self._draw_state({**batch.job, "stopping": False})
            case feed.Deleted():
                await self._end(render.fragment(self._request, "_gone.html"))

    async def _draw_snapshot(self, snapshot: feed.Snapshot) -> None:
        job, before = snapshot.job, self._state
        self._state = None  # of later snapshots the page has only parts
        if job.ended or snapshot.first != self._drawn:
            await self._draw_whole(_recording(job, snapshot.segments))
            return
        self._job = render.view(job)
        head = Markup("") if job.updated_at.isoformat() == before else self._head(self._job)
        await self._update(self._part(snapshot.segments), head)

    async def _draw_whole(self, context: dict[str, Any]) -> None:
        job = self._job = context["job"]
        self._drawn = len(context["segments"])
        fragment = render.fragment(self._request, "_job.html", oob=True, **context) + self._title(job)
        if context["ended"]:
            await self._end(fragment + render.announcement(wording.doing(job)))
        else:
            await self._update(fragment)

    async def _draw_state(self, job: View) -> None:
        before, self._job = self._job, job
        if before and render.without_progress(before) == render.without_progress(job):
            fragment = render.fragment(self._request, "_state.html", oob=True, job=job)
        else:
            fragment = self._head(job)
        if before and wording.doing(before) != wording.doing(job):
            fragment += render.announcement(wording.doing(job))
        await self._update(fragment, self._title(job))

    def _head(self, job: View) -> Fragment:
        return render.fragment(self._request, "_head.html", oob=True, job=job, segments=[])

    def _part(self, segments: list[Segment]) -> Fragment:
        """The fragment that appends segments to the transcript."""
        if not segments:
            return Markup("")
        self._drawn = (self._drawn or 0) + len(segments)
        part = render.fragment(self._request, "_segments.html", segments=segments)
        return Markup('<div hx-swap-oob="beforeend:#transcript">{}</div>').format(part)

    def _title(self, job: View) -> Fragment:
        text = render.fragment(self._request, "_title.html", job=job)
        return Markup("<title>{}</title>").format(text.strip())

    async def _update(self, *fragments: Fragment) -> None:
        await render.send(self._stream, Markup("").join(fragments), number=str(self._drawn))

    async def _end(self, fragment: Fragment) -> None:
        await render.send(self._stream, fragment, number="end")
        await self._stream.send("", event="end", id="end")
