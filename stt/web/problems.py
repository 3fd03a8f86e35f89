"""Errors as a program and as a person should see them: RFC 9457 problem details, or a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from aiohttp import hdrs, web

from stt import texts, tracebacks
from stt.codes import ErrorCode
from stt.jobs.errors import JobEnded, JobNotEnded, JobNotFound, OptionError
from stt.media.errors import MediaError
from stt.media.probe import NoMemoryForProbe
from stt.outages import UNAVAILABLE
from stt.storage import RESERVE, StorageFull, StorageUnavailable
from stt.web import request_ids

log = structlog.stdlib.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Renderer = Callable[[web.Request, int, str, str], web.Response]

# PostgreSQL, or asyncpg before it, refuses a value for its type.
_BAD_VALUE = (asyncpg.DataError, asyncpg.exceptions._base.DataError)


class Problem(Exception):
    """An error answer: a status, a stable code, and a sentence that says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.title, self.detail = status, code, title, texts.displayable(detail)
        self.headers = headers or {}
        self.extra = extra

    def body(self) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.extra,
        }


_UNPROCESSABLE_MEDIA = {ErrorCode.EMPTY_AUDIO: "Nothing to transcribe", ErrorCode.TOO_LONG: "Too long"}


def _of_error(request: web.Request, error: Exception) -> Problem:
    """The answer for any exception; an unexpected one is logged whole and answered with one sentence."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, _BAD_VALUE):
        log.warning("a value cannot be stored", **about(request), error_type=type(error).__name__)
        return _bad_value()
    if isinstance(error, StorageUnavailable):
        log.warning("the storage cannot be written to", **about(request), exc_info=error)
    problem = of_domain_error(error)
    if problem is None:
        log.error("a request failed", **about(request), exc_info=error)
        return internal()
    return problem


def of_domain_error(error: Exception) -> Problem | None:
    """The answer for an error that the jobs, the probe or the storage raise; None for any other exception."""
    problem = None
    match error:
        case JobNotFound():
            problem = Problem(404, "job_not_found", "Not found", "There is no such job.")
        case JobEnded():
            detail = f"The job is {error.status}: nothing to cancel."
            problem = Problem(409, "already_ended", "Already ended", detail)
        case JobNotEnded():
            detail = f"The job is {error.status}: cancel it first, or let it end."
            problem = Problem(409, "not_ended", "Not ended", detail)
        case OptionError():
            title = "An option is not valid"
            problem = Problem(422, "bad_option", title, str(error), field=error.field)
        case MediaError():
            problem = _media_problem(error)
        case NoMemoryForProbe():
            problem = _no_memory()
        case StorageFull():
            problem = _disk_full()
        case StorageUnavailable():
            problem = _storage_unavailable()
    return problem


def _media_problem(error: MediaError) -> Problem:
    title = _UNPROCESSABLE_MEDIA.get(error.code)
    status = 422 if title else 415
    return Problem(status, error.code, title or "Not a recording we can read", str(error))


def _no_memory() -> Problem:
    return Problem(
        503,
        "short_of_memory",
        "Service unavailable",
        "The server has too little memory to look into the file just now; send it again in a while.",
        headers={"Retry-After": "30"},
    )


def _disk_full() -> Problem:
    return Problem(
        507,
        "disk_full",
        "No room",
        f"The server's disk has no room for this file and the {RESERVE / 1e6:.0f} MB that must stay free "
        "besides it; free some space and send it again.",
    )


def _storage_unavailable() -> Problem:
    return Problem(
        503,
        "storage_unavailable",
        "Service unavailable",
        "The server cannot write to its storage just now; send the file again in a while.",
        headers={"Retry-After": "30"},
    )


def middleware(render_page: Renderer) -> Any:
    """Turn every exception into problem+json, or into a page where a person is asking."""

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            problem = from_http(error)
        except UNAVAILABLE as error:
            if _client_has_left(request):
                raise
            name = type(error).__name__
            log.warning(
                "the database or Redis is away",
                **about(request),
                error_type=name,
                error=tracebacks.said(error),
            )
            problem = _unavailable()
        except Exception as error:
            if isinstance(error, ConnectionError) and _client_has_left(request):
                raise
            problem = _of_error(request, error)
        return _answer(request, problem, render_page)

    return errors


def _client_has_left(request: web.Request) -> bool:
    """Whether the connection to the client is closed."""
    return request.transport is None or request.transport.is_closing()


def about(request: web.BaseRequest) -> dict[str, str]:
    """The keys of a line in the log about a request: `log_keys`, its method, the pattern of its route."""
    return {**log_keys(request), "method": method(request), "route": route(request)}


def log_keys(request: web.BaseRequest) -> dict[str, str]:
    """The id of a request, and that of the job that its address names."""
    keys, match = {"request_id": request_ids.of(request)}, _match(request)
    try:
        return keys | {"job_id": str(UUID(match["id"]))} if match is not None else keys
    except (KeyError, ValueError):
        return keys


def method(request: web.BaseRequest) -> str:
    return request.method if request.method in hdrs.METH_ALL else "other"


def route(request: web.BaseRequest) -> str:
    """The pattern of the address, without the client's bytes; empty where the address is none of ours."""
    match = _match(request)
    resource = match.route.resource if match is not None else None
    return resource.canonical if resource else ""


def _match(request: web.BaseRequest) -> web.UrlMappingMatchInfo | None:
    """The route of a request; None if aiohttp refused the request before it read the address."""
    try:
        return request.match_info if isinstance(request, web.Request) else None
    except AssertionError:
        return None


def _answer(request: web.Request, problem: Problem, render_page: Renderer) -> web.Response:
    response = _page(request, problem, render_page) if _wants_page(request) else None
    if response is None:
        return as_json(problem)
    response.headers.update(problem.headers)
    return response


def _wants_page(request: web.Request) -> bool:
    return not request.path.startswith("/api") and "text/html" in request.headers.get("Accept", "")


def _page(request: web.Request, problem: Problem, render_page: Renderer) -> web.Response | None:
    try:
        return render_page(request, problem.status, problem.title, problem.detail)
    except Exception:  # an error of the error page must not hide the first error
        log.exception("the page of an error cannot be rendered", **about(request))
        return None


def as_json(problem: Problem) -> web.Response:
    """The answer as problem details: for programs, and if a page cannot be rendered."""
    return web.json_response(
        problem.body(),
        status=problem.status,
        content_type="application/problem+json",
        headers=problem.headers,
    )


def from_http(error: web.HTTPException) -> Problem:
    """The problem for a refusal that aiohttp raised."""
    phrase = HTTPStatus(error.status).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    detail = {
        404: "There is nothing at this address.",
        405: f"This address takes {error.headers.get('Allow', 'other methods')}.",
        413: "The request is larger than this address takes.",
        417: "Expect: only 100-continue is supported.",
    }.get(error.status, phrase)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, code, phrase, detail, headers=headers)


def _bad_value() -> Problem:
    detail = "A value of the request cannot be stored; send text in UTF-8, and numbers of ordinary size."
    return Problem(422, "bad_value", "A value is not valid", detail)


def _unavailable() -> Problem:
    return Problem(
        503,
        "unavailable",
        "Service unavailable",
        "The database cannot be reached just now; nothing is lost, try again in a few seconds.",
        headers={"Retry-After": "5"},
    )


def internal() -> Problem:
    """The 500 for an error of this server."""
    return Problem(
        500, "internal", "Internal error", "Something went wrong here; the log of the server says what."
    )
