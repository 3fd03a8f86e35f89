"""Errors as a program and as a person should see them: RFC 9457 problem details, or a page."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import web

from stt import texts
from stt.outages import UNAVAILABLE

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Renderer = Callable[[web.Request, int, str, str], web.Response]

# PostgreSQL, or asyncpg before it, refuses a value for its type.
_BAD_VALUE = (asyncpg.DataError, asyncpg.exceptions._base.DataError)


class Problem(Exception):
    """An answer that is no success: a status, a stable code, and a sentence that says what to do."""

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
        self.status, self.code, self.title, self.detail = status, code, title, texts.shown(detail)
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


def not_found(what: str = "job") -> Problem:
    return Problem(404, f"{what}_not_found", "Not found", f"There is no such {what}.")


def middleware(render_page: Renderer) -> Any:
    """Turn every exception into problem+json, or into a page where a person is asking."""

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return _answer(request, problem, render_page)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _answer(request, from_http(error), render_page)
        except _BAD_VALUE as error:
            log.warning("%s: %s", where(request), type(error).__name__, extra=about_job(request))
            return _answer(request, _bad_value(), render_page)
        except UNAVAILABLE as error:
            if request.transport is None or request.transport.is_closing():
                raise  # the client has gone: nobody is left to answer
            log.warning("%s: %s: %s", where(request), type(error).__name__, error, extra=about_job(request))
            return _answer(request, _unavailable(), render_page)
        except Exception:  # the last line of defence: logged whole, told in a sentence
            log.exception("%s failed", where(request), extra=about_job(request))
            return _answer(request, internal(), render_page)

    return errors


def where(request: web.BaseRequest) -> str:
    """A request as the log names it: its method and the pattern of its route, without the client's bytes."""
    match = _match(request)
    if match is None:
        return f"{request.method} (before its address was looked at)"
    resource = match.route.resource
    return f"{request.method} {resource.canonical if resource else '(no address of ours)'}"


def about_job(request: web.BaseRequest) -> dict[str, str]:
    """The `extra=` of a line in the log: the job, if the address names one."""
    match = _match(request)
    try:
        return {"job": str(UUID(match["id"]))} if match is not None else {}
    except (KeyError, ValueError):
        return {}


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
        log.exception("%s: the page of an error cannot be rendered", where(request))
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
