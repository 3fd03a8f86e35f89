"""Errors as a program and as a person should see them: RFC 9457 problem details, or a page."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import asyncpg
from aiohttp import web
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Renderer = Callable[[web.Request, int, str, str], web.Response]

# What is raised while a server of ours is away; PostgreSQL's own errors of a statement are not among them.
UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg makes of a connection that ends at a bad moment
    RedisError,
    ConnectionError,
    TimeoutError,
)


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
        self.status, self.code, self.title, self.detail = status, code, title, detail
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
            return _answer(request, _from_http(error), render_page)
        except UNAVAILABLE as error:
            if request.transport is None or request.transport.is_closing():
                raise  # the client has gone: nobody is left to answer
            log.warning("%s %s: %s: %s", request.method, request.path, type(error).__name__, error)
            return _answer(request, _unavailable(), render_page)
        except Exception:  # the last line of defence: logged whole, told in a sentence
            log.exception("%s %s failed", request.method, request.path)
            return _answer(request, _internal(), render_page)

    return errors


def _answer(request: web.Request, problem: Problem, render_page: Renderer) -> web.StreamResponse:
    if not request.path.startswith("/api") and "text/html" in request.headers.get("Accept", ""):
        response = render_page(request, problem.status, problem.title, problem.detail)
    else:
        response = web.json_response(
            problem.body(), status=problem.status, content_type="application/problem+json"
        )
    response.headers.update(problem.headers)
    return response


def _from_http(error: web.HTTPException) -> Problem:
    phrase = HTTPStatus(error.status).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    detail = {
        404: "There is nothing at this address.",
        405: f"This address takes {error.headers.get('Allow', 'other methods')}.",
        413: "The request is larger than this address takes.",
    }.get(error.status, error.text or phrase)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, code, phrase, detail, headers=headers)


def _unavailable() -> Problem:
    return Problem(
        503,
        "unavailable",
        "Service unavailable",
        "The database cannot be reached just now; nothing is lost, try again in a few seconds.",
        headers={"Retry-After": "5"},
    )


def _internal() -> Problem:
    return Problem(
        500, "internal", "Internal error", "Something went wrong here; the log of the server says what."
    )
