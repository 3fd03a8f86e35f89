"""Renders pages and fragments from the templates.

A page and its fragments come from the same templates. A stream sends fragments that name their own place
(htmx's out-of-band swaps), so that one listening element serves a whole page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp_jinja2
import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse
from markupsafe import Markup

from stt.jobs.model import Job
from stt.paths import STATIC
from stt.transcript.languages import LANGUAGES
from stt.web.context import SETTINGS
from stt.web.pages import wording
from stt.web.sse import RECONNECT_MS

log = structlog.stdlib.get_logger(__name__)


Fragment = Markup
View = dict[str, Any]
FILTERS: dict[str, Callable[..., Any]] = wording.FILTERS
# Fields of a job that change only the `_state.html` part of its row and its page.
_PROGRESS_FIELDS = {"stage", "progress", "eta_seconds", "updated_at", "stopping"}


def asset(name: str) -> str:
    """The address of a static file; it contains a digest of the content, so that browsers may cache it."""
    path = STATIC / name
    try:
        return f"/static/{name}?v={_digest(path, path.stat().st_mtime_ns)}"
    except FileNotFoundError:
        # Without the file the page works as it does without scripts.
        log.error("a file of the pages is missing: run make setup", file=name)
        return f"/static/{name}"


@lru_cache
def _digest(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


async def static(request: web.Request) -> web.FileResponse:
    """`GET /static/…`; unlike aiohttp's own view it answers 404 for a missing file with a body."""
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
    "labelled": False,  # whether a button has a word instead of a picture
    "oob": False,  # whether a fragment replaces the element with its id (hx-swap-oob)
    "languages": sorted(LANGUAGES.items(), key=lambda i: i[1]),
}


def render_error(request: web.Request, status: int, title: str, detail: str) -> web.Response:
    """The page of an error, where a program would get problem+json.

    Args:
        request: The request that failed.
        status: The HTTP status.
        title: What happened, as a heading.
        detail: What happened and what to do, in sentences.
    """
    context = {"status": status, "title": title, "detail": detail}
    return page(request, "error.html", context, status=status)


def page(request: web.Request, template: str, context: dict[str, Any], *, status: int = 200) -> web.Response:
    """A whole page, which browsers check for changes each time.

    Args:
        request: The request for the page.
        template: Its file in templates/.
        context: What the template needs besides the settings.
        status: The HTTP status.
    """
    response = aiohttp_jinja2.render_template(
        template, request, {"settings": request.app[SETTINGS], **context}, status=status
    )
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Vary"] = "HX-Request"
    return response


def view(job: Job) -> View:
    """A job as the templates need it: its public fields, and whether a cancel was requested."""
    return {**job.public(text=False), "stopping": job.cancel_requested and not job.ended}


def html(fragment: Fragment) -> web.Response:
    """The answer to a button's request: a fragment alone."""
    return web.Response(text=fragment, content_type="text/html")


def fragment(request: web.Request, template: str, **context: Any) -> Fragment:
    """A part of a page.

    Args:
        request: The request of the page that gets it.
        template: Its file in templates/.
        context: What the template needs.
    """
    return Markup(aiohttp_jinja2.render_string(template, request, context))  # noqa: S704  rendered with autoescape


def removal(job_id: str) -> Fragment:
    """The fragment that removes a job's row from the list."""
    return Markup('<li id="job-{}" hx-swap-oob="delete"></li>').format(job_id)


def announcement(text: str) -> Fragment:
    """A sentence for screen readers."""
    return Markup('<span hx-swap-oob="innerHTML:#said">{}</span>').format(text)


def without_progress(job: View) -> View:
    """A job without the fields of `_state.html`: while these are equal, only that part is drawn again."""
    return {key: value for key, value in job.items() if key not in _PROGRESS_FIELDS}


async def send(stream: EventSourceResponse, fragment: Fragment, number: str | None = None) -> None:
    """Send a fragment to a page.

    Args:
        stream: The page's stream.
        fragment: Elements that name the place they go to.
        number: The event id, which the browser sends when it connects again.
    """
    await stream.send(fragment, event="update", id=number, retry=RECONNECT_MS)
