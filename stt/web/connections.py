"""Connections to clients: broken requests, clients that are too slow, clients that close the connection.

By itself aiohttp answers a request that it cannot parse in a format of its own, waits without limit for the
rest of a head or a body, and logs the bytes that it cannot read. `Runner` serves an app without these faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import (
    BadHttpMethod,
    ContentEncodingError,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
)

from stt.settings import Settings
from stt.web import bodies, guard, observe, problems, request_ids
from stt.web.problems import Problem

log = structlog.stdlib.get_logger(__name__)

# Longer than a proxy in front of this server keeps an idle connection, which it may use again (Caddy: 120 s).
_IDLE_SECONDS = 130
# The system ends a connection whose client has taken no byte for this many windows of `stall_seconds`.
_UNSENT_WINDOWS = 4
# Seconds in which a client that goes on sending a refused body may read the answer.
_LINGER_SECONDS = 10
# Exceptions that a client caused; it has already received an answer.
_MISTAKES = (Problem, web.HTTPException, web.RequestPayloadError, HttpProcessingError, ConnectionError)


class Runner(web.AppRunner):
    """Runs an app like aiohttp's `AppRunner`, with a `Connection` for each client."""

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


class Connection(observe.CountingHandler):
    """The connection to one client.

    A mistake of the client is answered with problem details. The log gets one line of it, without the
    client's bytes.

    - The head of a request must arrive within `head_seconds` of its first byte.
    - In every window of `stall_seconds` a body, or the reading of an answer, must keep the least rate.
    """

    def __init__(self, server: _Server, settings: Settings, **options: Any) -> None:
        super().__init__(server, **options)
        self._settings = settings
        self._window = _Window(settings.least_bytes_per_second * settings.stall_seconds)
        self._socket: asyncio.Transport | None = None  # aiohttp drops its own when it begins to close
        self._request: web.BaseRequest | None = None  # the one that is being answered
        self._body: StreamReader | None = None  # that of the last request
        self._logged = False  # whether the log has a line for this request
        self._head_timer: asyncio.TimerHandle | None = None
        self._window_timer: asyncio.TimerHandle | None = None
        self._begun = False  # whether anything of the next head has arrived
        self._written = 0  # bytes of the answers before the one that is being sent
        self._ended = False  # the client sends nothing more, but may still read
        self._gone = asyncio.Event()

    # Events of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        _limit_unsent(transport, self._settings.stall_seconds)
        super().connection_made(transport)
        self._await_head()
        self._begin_window()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._gone.set()
        for timer in (self._head_timer, self._window_timer):
            if timer:
                timer.cancel()
        if self._request is not None:
            unread = isinstance(exc, TimeoutError)
            self._log_once("the client stopped reading the answer" if unread else "the client went away")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._window.received += len(data)
        coming = self._body_is_coming()
        if data and not coming and not self._close:
            self._begun = True
            self._await_head()
        super().data_received(data)
        # While a body arrives no other request can begin. A message that the parser adds then is an error of
        # that body, which it does not pass to the body's reader.
        if coming and self._messages and self._body_is_coming():
            self._end_body(_bad_transfer(), "the framing of the body is broken")

    def eof_received(self) -> bool:  # type: ignore[override]
        if not self._body_is_coming():
            return False
        self._ended = True
        self._end_body(_ended_early(), "the client ended the body early")
        return True  # the client may still read the answer

    def pause_reading(self) -> None:
        self._window.reading_paused = True
        super().pause_reading()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109  aiohttp calls it so
        self._logged = True  # the server closes the connection, not the client
        await super().shutdown(timeout)

    # Events of a request

    def head_arrived(self, request: web.BaseRequest) -> None:
        """Stop waiting for the head of this request, and begin to measure its body and its answer."""
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        self._begun = False
        self._request, self._body, self._logged = request, request.content, False
        self._begin_window()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; one that aiohttp made by itself becomes problem details."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = _response(problems.from_http(resp))
        if not resp.prepared:
            resp.headers[request_ids.HEADER] = request_ids.of(request)
        broken = self._body is not None and self._body.exception() is not None
        if broken:
            resp.force_close()
        try:
            finished = await super().finish_response(request, resp, start_time)
        finally:
            self._written += request.writer.output_size
            self._request = None
        if broken:
            await self._discard()
        return finished

    async def _discard(self) -> None:
        """Wait until the client has read the answer: closing while it sends would reset the connection."""
        if self._socket is None or self._socket.is_closing() or self._ended:
            return
        self.close()  # bytes that arrive from now on are ignored
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
        """The answer to a request that the parser refuses, and to an exception that no middleware has caught.

        Raises:
            ConnectionError: the client has gone, or the answer has begun.
        """
        if self._gone.is_set() or request.writer.output_size > 0:
            raise ConnectionError("the client has gone, or the answer has begun")
        if isinstance(exc, HttpProcessingError):
            self._log_once("a request cannot be read", error_type=type(exc).__name__)
            return _response(_unreadable(exc))
        return _response(_unexpected(request, exc))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an exception for which there is no answer, unless it is a client's mistake."""
        error = kw.get("exc_info")
        if not isinstance(error, _MISTAKES):
            log.error("a connection failed", exc_info=error)

    def _log_once(self, event: str, **keys: str) -> None:
        """Log a client's mistake, once for each request."""
        if not self._logged and self._request is not None:
            self._logged = True
            log.info(event, **problems.about(self._request), **keys)

    # Time

    def _await_head(self) -> None:
        if self._head_timer is None and self._settings.head_seconds:
            self._head_timer = self._loop.call_later(self._settings.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._close:
            return  # the connection is about to end
        if self._request is not None:
            self._await_head()  # the head of a next request, behind the one that is being answered
            return
        if self._begun and self.transport is not None:
            log.info("a client did not send the head of its request in time")
            self.transport.write(_raw(_late_head()))
        self.force_close()

    def _begin_window(self) -> None:
        if self._window_timer:
            self._window_timer.cancel()
        self._window_timer = self._loop.call_later(self._settings.stall_seconds, self._check_rate)
        paused = self._socket is not None and not self._socket.is_reading()
        self._window.begin(*self._sent(), reading_paused=paused)

    def _check_rate(self) -> None:
        """Check the rate at the end of a window, and end the connection or begin the next window."""
        sent, _ = self._sent()
        if self._window.sent_too_little(sent):
            self._log_once("the client stopped reading the answer")
            assert self._socket is not None
            self._socket.abort()
            return
        if self._body_is_coming() and self._window.received_too_little():
            self._end_body(_too_slow(self._settings), "the client stopped sending the body")
        self._begin_window()

    def _sent(self) -> tuple[int, int]:
        """Bytes of the answers that were handed to the system, and bytes that wait to be."""
        left = self._socket.get_write_buffer_size() if self._socket else 0
        running = self._request.writer.output_size if self._request is not None else 0
        return self._written + running - left, left

    # The body

    def _body_is_coming(self) -> bool:
        return self._body is not None and not self._body.is_eof() and self._body.exception() is None

    def _end_body(self, problem: Problem, what: str) -> None:
        """Raise `problem` in the reader of the body; nothing more is read from this client."""
        assert self._body is not None
        self._log_once(what)
        self._body.set_exception(problem)
        self.close()


class _Window:
    """Compares the bytes of one connection in a window of time with the least that must pass in it."""

    def __init__(self, least: float) -> None:
        self._least = least  # bytes a window
        self.received = 0  # bytes since the connection was made
        self.reading_paused = False  # whether this server paused reading in this window
        self._received_before = self._sent_before = self._unsent_before = 0

    def begin(self, sent: int, unsent: int, *, reading_paused: bool) -> None:
        """Begin the next window.

        Args:
            sent: Bytes that have been sent since the connection was made.
            unsent: Bytes that wait to be sent.
            reading_paused: Whether this server does not read just now.
        """
        self._received_before, self._sent_before, self._unsent_before = self.received, sent, unsent
        self.reading_paused = reading_paused

    def received_too_little(self) -> bool:
        """Whether the client sends too slowly; not if this server paused, for example for a slow disk."""
        return not self.reading_paused and self.received - self._received_before < self._least

    def sent_too_little(self, sent: int) -> bool:
        """Whether the client reads too slowly: of what waited at the beginning, too little was sent."""
        return sent - self._sent_before < min(self._least, self._unsent_before)


def _limit_unsent(transport: asyncio.Transport, seconds: float) -> None:
    """Let the system end a connection whose client stops reading a file: files bypass the transport."""
    connection = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNSENT_WINDOWS * seconds * 1000)
        )


def _response(problem: Problem) -> web.Response:
    """The answer to a request that no view has seen; the connection ends with it."""
    response = problems.as_json(problem)
    response.headers.update(guard.HEADERS)
    response.force_close()
    return response


def _raw(problem: Problem) -> bytes:
    """The bytes of such an answer, where there is no request yet."""
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
    if isinstance(error, ContentEncodingError):  # its library is missing, or the data is broken
        return bodies.unsupported_encoding() if "Can not" in error.message else _bad_transfer()
    detail = "The request is no HTTP that this server understands."
    if isinstance(error, BadHttpMethod):
        detail = (
            "The request does not begin with an HTTP method. This server speaks http; https needs a proxy."
        )
    elif isinstance(error, LineTooLong):
        detail = "The address or a header is too long; a line has no more than 8190 bytes."
    elif isinstance(error, InvalidURLError):
        detail = "The address of the request is not valid."
    return Problem(400, "bad_request", "Bad request", detail)


def _unexpected(request: web.BaseRequest, error: BaseException | None) -> Problem:
    if isinstance(error, UnicodeEncodeError) and not request.headers.get("Expect", "").isascii():
        # aiohttp quotes the header in its own answer, which then cannot be encoded.
        return problems.from_http(web.HTTPExpectationFailed())
    log.error("a request failed", **problems.about(request), exc_info=error)
    return problems.internal()


def _bad_transfer() -> Problem:
    detail = "The body is not what Content-Encoding or Transfer-Encoding says; nothing of it was kept."
    return Problem(400, "bad_transfer", "The body cannot be read", detail)


def _ended_early() -> Problem:
    detail = "The body is incomplete; nothing of it was kept. Please send it again."
    return Problem(400, "ended_early", "The body is incomplete", detail)


def _too_slow(settings: Settings) -> Problem:
    detail = (
        f"The body arrived with less than {settings.least_bytes_per_second:g} bytes a second over "
        f"{settings.stall_seconds:g} s; nothing of it was kept. Please send it again."
    )
    return Problem(408, "too_slow", "Too slow", detail)


def _late_head() -> Problem:
    return Problem(
        408, "late_head", "Too slow", "The head of the request did not arrive in time; send it again."
    )
