"""What views read from a request: ids and query parameters, checked."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from uuid import UUID

from aiohttp import web

from stt import texts
from stt.jobs import lookup
from stt.jobs.errors import JobNotFound
from stt.jobs.model import Job, Status
from stt.web.context import SERVICES
from stt.web.problems import Problem

_MAX_LIMIT = 200
_MAX_POINTS = 1_000_000


def job_id(request: web.Request) -> UUID:
    """The `{id}` of the address.

    Raises:
        JobNotFound: it is no UUID.
    """
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        raise JobNotFound from None


async def job_or_404(request: web.Request, *, text: bool = False) -> Job:
    """The job of the address; with its text only if asked for, since it may be long.

    Raises:
        JobNotFound: there is no such job.
    """
    job = await lookup.get(request.app[SERVICES].pool, job_id(request), text=text)
    if job is None:
        raise JobNotFound
    return job


def status(request: web.Request) -> Status | None:
    value = request.query.get("status")
    if not value:
        return None
    if value not in list(Status):
        raise _bad("status", f"must be one of {', '.join(Status)}")
    return Status(value)


def limit(request: web.Request, default: int = 50) -> int:
    value = request.query.get("limit") or str(default)
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= _MAX_LIMIT:
        raise _bad("limit", f"must be a number from 1 to {_MAX_LIMIT}")
    return int(value)


def search(request: web.Request) -> str | None:
    """The text that names must contain (`q`); None for all names."""
    value = request.query.get("q", "")
    if flaw := texts.flaw(value):
        raise _bad("q", flaw)
    return value or None


def cursor(request: web.Request) -> lookup.Position | None:
    """Where the page of the list before ended; None for the first page."""
    value = request.query.get("cursor")
    if not value:
        return None
    try:
        created, _, job_id = base64.urlsafe_b64decode(value).decode().partition("|")
        # asyncpg takes years from 1 to 9999 in UTC, whatever the zone: no real cursor comes near.
        return dt.datetime.fromisoformat(created).astimezone(dt.UTC), UUID(job_id)
    except (binascii.Error, ValueError, OverflowError):
        raise Problem(
            422, "bad_cursor", "Bad cursor", "cursor: take it from next_cursor of the page before"
        ) from None


def as_cursor(position: lookup.Position | None) -> str | None:
    """The value of `cursor` that asks for what follows a position."""
    if position is None:
        return None
    created, job_id = position
    return base64.urlsafe_b64encode(f"{created.isoformat()}|{job_id}".encode()).decode()


def points(request: web.Request) -> int | None:
    value = request.query.get("points")
    if not value:
        return None
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= _MAX_POINTS:
        raise _bad("points", f"must be a number from 1 to {_MAX_POINTS}")
    return int(value)


def _bad(name: str, message: str) -> Problem:
    return Problem(422, "bad_parameter", "A parameter is not valid", f"{name}: {message}", field=name)
