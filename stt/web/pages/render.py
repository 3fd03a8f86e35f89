"""Renders pages and fragments from templates."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp_jinja2
from aiohttp import web
from aiohttp_sse import EventSourceResponse
from markupsafe import Markup

from stt.jobs.model import Job
from stt.paths import STATIC
from stt.transcript.languages import LANGUAGES
from stt.web.context import SETTINGS
from stt.web.pages import wording
from stt.web.sse import RECONNECT_MS

log = logging.getLogger(__name__)


Fragment = Markup
View = dict[str, Any]
FILTERS: dict[str, Callable[..., Any]] = wording.FILTERS
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


def _view(job: Job) -> View:
    """A job as the templates want it: that of an event, and whether it has been asked to stop."""
    return {**job.public(text=False), "stopping": job.cancel_requested and not job.ended}


def _html(fragment: Fragment) -> web.Response:
    return web.Response(text=fragment, content_type="text/html")


def _fragment(request: web.Request, template: str, **context: Any) -> Fragment:
    return Markup(aiohttp_jinja2.render_string(template, request, context))  # noqa: S704  rendered with autoescape


def _removal(job_id: str) -> Fragment:
    return Markup('<li id="job-{}" hx-swap-oob="delete"></li>').format(job_id)


def _said(text: str) -> Fragment:
    """A sentence for a person who listens to the page."""
    return Markup('<span hx-swap-oob="innerHTML:#said">{}</span>').format(text)


def _beside_progress(job: View) -> View:
    return {key: value for key, value in job.items() if key not in _RUNNING}


async def _send(stream: EventSourceResponse, fragment: Fragment, number: str | None = None) -> None:
    await stream.send(fragment, event="update", id=number, retry=RECONNECT_MS)
