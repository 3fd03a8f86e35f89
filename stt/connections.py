"""A client's connection below the views: broken requests, clients that are too slow, clients that go away.

aiohttp answers what its parser refuses by itself, waits for the rest of a head or of a body for ever, and
writes what it could not read into the log. `Runner` serves an app with connections that do none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import (
    BadHttpMethod,
    ContentEncodingError,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
)

from stt import bodies, errors, guard
from stt.errors import Problem
from stt.settings import Settings

log = logging.getLogger(__name__)

# Longer than the proxies before us keep a connection that they may use again at any moment (Caddy: 120 s).
_IDLE_SECONDS = 130
# After so many windows the system ends a connection of which not a byte was taken.
_UNSENT_WINDOWS = 4
# How long a client that goes on sending what is refused may take to read why.
_LINGER_SECONDS = 10
# What a client did wrong, and was answered for.
_MISTAKES = (Problem, web.HTTPException, web.RequestPayloadError, HttpProcessingError, ConnectionError)


class Runner(web.AppRunner):
    """Runs an app as aiohttp's own does, with connections of this module."""

    def __init__(self, app: web.Application, settings: Settings, **kwargs: Any) -> None:
        super().__init__(app, access_log=None, keepalive_timeout=_IDLE_SECONDS, **kwargs)
        self._settings = settings
        self._options = {"access_log": None, "keepalive_timeout": _IDLE_SECONDS}

    async def _make_server(self) -> web.Server:
        app = await super()._make_server()
        return _Server(app, self._settings, **self._options)


class _Server(web.Server):
    def __init__(self, app: web.Server, settings: Settings, **options: Any) -> None:
        super().__init__(app.request_handler, request_factory=self._request, **options)
        self._factory, self._settings, self._options = app.request_factory, settings, options

    def __call__(self) -> Connection:
        return Connection(self, self._settings, loop=asyncio.get_running_loop(), **self._options)

    def _request(self, message: Any, body: StreamReader, connection: Any, writer: Any, task: Any) -> Any:
        request = self._factory(message, body, connection, writer, task)
        connection.head_arrived(request)
        return request


class Connection(web.RequestHandler):
    """One client. It is told what is wrong, in our format; the log gets one line, without a byte of it.

    - The head of a request has `head_seconds` to arrive, counted from its first byte.
    - In every window of `stall_seconds` a body, or the reading of an answer, must keep the least rate.
    """

    def __init__(self, server: _Server, settings: Settings, **options: Any) -> None:
        super().__init__(server, **options)
        self._settings = settings
        self._window_bytes = settings.least_bytes_per_second * settings.stall_seconds
        self._socket: asyncio.Transport | None = None  # aiohttp forgets its own when it begins to close
        self._request: web.BaseRequest | None = None  # the one that is being answered
        self._body: StreamReader | None = None  # that of the last request
        self._told = False  # whether the log has a line for this request
        self._late: asyncio.TimerHandle | None = None
        self._window: asyncio.TimerHandle | None = None
        self._begun = False  # whether anything of the next head has arrived
        self._received = self._received_before = 0
        self._held = False  # whether we were it who did not read
        self._handed = self._sent_before = self._left_before = 0
        self._ended = False  # the client sends nothing more, but may still read
        self._gone = asyncio.Event()

    # What happens to the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        _limit_unsent(transport, self._settings.stall_seconds)
        super().connection_made(transport)
        self._await_head()
        self._begin_window()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._gone.set()
        for timer in (self._late, self._window):
            if timer:
                timer.cancel()
        if self._request is not None:
            unread = isinstance(exc, TimeoutError)
            self._tell("the client stopped reading the answer" if unread else "the client went away")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        coming = self._body_is_coming()
        if data and not coming and not self._close:
            self._begun = True
            self._await_head()
        super().data_received(data)
        # While a body is coming no other request can: what the parser adds then is an error of that body,
        # which it does not tell whoever waits for the body.
        if coming and self._messages and self._body_is_coming():
            self._end_body(_bad_transfer(), "the body broke its own framing")

    def eof_received(self) -> bool:  # type: ignore[override]
        if not self._body_is_coming():
            return False
        self._ended = True
        self._end_body(_ended_early(), "the client ended the body early")
        return True  # it may still read why its request was refused

    def pause_reading(self) -> None:
        self._held = True
        super().pause_reading()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  aiohttp calls it so
        self._told = True  # it is us who go away
        await super().shutdown(timeout)

    # What happens to a request

    def head_arrived(self, request: web.BaseRequest) -> None:
        """A request begins to be answered."""
        if self._late:
            self._late.cancel()
            self._late = None
        self._begun = False
        self._request, self._body, self._told = request, request.content, False
        self._begin_window()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; those that aiohttp makes by itself become ours."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = _response(errors.from_http(resp))
        broken = self._body is not None and self._body.exception() is not None
        if broken:
            resp.force_close()
        try:
            finished = await super().finish_response(request, resp, start_time)
        finally:
            self._handed += request.writer.output_size
            self._request = None
        if broken:
            await self._discard()
        return finished

    async def _discard(self) -> None:
        """Let a client that still sends read the answer first: to close now would reset the connection."""
        if self._socket is None or self._socket.is_closing() or self._ended:
            return
        self.close()  # what arrives is not looked at any more
        self._socket.resume_reading()
        if self._socket.can_write_eof():
            self._socket.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._gone.wait()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what the parser refuses, and to what no middleware has caught."""
        if self._gone.is_set() or request.writer.output_size > 0:
            raise ConnectionError("nobody is left to answer, or the answer has begun")
        if isinstance(exc, HttpProcessingError):
            self._tell(f"a request cannot be read ({type(exc).__name__})")
            return _response(_unreadable(exc))
        log.error("%s failed", errors.where(request), exc_info=exc, extra=errors.about_job(request))
        return _response(errors.internal())

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp has met an exception that nobody is told of; a client's mistake is no news."""
        error = kw.get("exc_info")
        if not isinstance(error, _MISTAKES):
            log.error("a connection failed", exc_info=error)

    def _tell(self, what: str) -> None:
        """The one line that the log has of a request whose client did something wrong."""
        if not self._told and self._request is not None:
            self._told = True
            log.info("%s: %s", errors.where(self._request), what, extra=errors.about_job(self._request))

    # Time

    def _await_head(self) -> None:
        if self._late is None and self._settings.head_seconds:
            self._late = self._loop.call_later(self._settings.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._late = None
        if self._close:
            return  # it is about to end
        if self._request is not None:
            self._await_head()  # a next request behind the one that is being answered
            return
        if self._begun and self.transport is not None:
            log.info("a client did not send the head of its request in time")
            self.transport.write(_raw(_late_head()))
        self.force_close()

    def _begin_window(self) -> None:
        if self._window:
            self._window.cancel()
        self._window = self._loop.call_later(self._settings.stall_seconds, self._look)
        self._received_before, self._sent_before, self._left_before = self._received, *self._sent()
        self._held = self._socket is not None and not self._socket.is_reading()

    def _look(self) -> None:
        """At the end of a window: has the client kept the least rate?"""
        if self._reads_too_slowly():
            self._tell("the client stopped reading the answer")
            assert self._socket is not None
            self._socket.abort()
            return
        if self._sends_too_slowly():
            self._end_body(_too_slow(self._settings), "the client stopped sending the body")
        self._begin_window()

    def _sends_too_slowly(self) -> bool:
        """Not where it was we who did not read, for a slow disk, say."""
        if not self._body_is_coming() or self._held:
            return False
        return self._received - self._received_before < self._window_bytes

    def _reads_too_slowly(self) -> bool:
        """Whether of what waited when the window began less was sent than the least rate asks for."""
        sent, _ = self._sent()
        return sent - self._sent_before < min(self._window_bytes, self._left_before)

    def _sent(self) -> tuple[int, int]:
        """Bytes that the system has taken of our answers, and those that wait."""
        left = self._socket.get_write_buffer_size() if self._socket else 0
        running = self._request.writer.output_size if self._request is not None else 0
        return self._handed + running - left, left

    # The body

    def _body_is_coming(self) -> bool:
        return self._body is not None and not self._body.is_eof() and self._body.exception() is None

    def _end_body(self, problem: Problem, what: str) -> None:
        """Whoever reads the body gets `problem`; nothing more is taken from this client."""
        assert self._body is not None
        self._tell(what)
        self._body.set_exception(problem)
        self.close()


def _limit_unsent(transport: asyncio.Transport, seconds: float) -> None:
    """Files are sent past the transport: only the system knows of a client that stops reading them."""
    connection = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNSENT_WINDOWS * seconds * 1000)
        )


def _response(problem: Problem) -> web.Response:
    """The answer to a request that no view has seen; the connection ends with it."""
    response = errors.as_json(problem)
    response.headers.update(guard.HEADERS)
    response.force_close()
    return response


def _raw(problem: Problem) -> bytes:
    """The same where there is no request yet."""
    body = json.dumps(problem.body()).encode()
    headers = {
        "Content-Type": "application/problem+json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **guard.HEADERS,
    }
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _unreadable(error: HttpProcessingError) -> Problem:
    if isinstance(error, ContentEncodingError):  # a library is missing for it, or it breaks off
        return bodies.unsupported_encoding() if "Can not" in error.message else _bad_transfer()
    detail = "The request is no HTTP that this server understands."
    if isinstance(error, BadHttpMethod):
        detail = "The request does not begin with a method of HTTP; an https address needs a proxy before us."
    elif isinstance(error, LineTooLong):
        detail = "The address or a header is too long; a line has no more than 8190 bytes."
    elif isinstance(error, InvalidURLError):
        detail = "The address of the request is none."
    return Problem(400, "bad_request", "Bad request", detail)


def _bad_transfer() -> Problem:
    detail = "The body is not what Content-Encoding or Transfer-Encoding says; nothing of it was kept."
    return Problem(400, "bad_transfer", "The body cannot be read", detail)


def _ended_early() -> Problem:
    detail = "The body ended before it was whole; nothing of it was kept, send it again."
    return Problem(400, "ended_early", "The body broke off", detail)


def _too_slow(settings: Settings) -> Problem:
    detail = (
        f"The body came with less than {settings.least_bytes_per_second:g} bytes a second over "
        f"{settings.stall_seconds:g} s; nothing of it was kept, send it again."
    )
    return Problem(408, "too_slow", "Too slow", detail)


def _late_head() -> Problem:
    return Problem(
        408, "late_head", "Too slow", "The head of the request did not arrive in time; send it again."
    )
