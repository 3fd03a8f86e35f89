"""Counts requests: how many, how they were answered, and how long that took."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from stt.telemetry import metrics
from stt.web import problems

# What nginx logs for a client that left before it had an answer.
_CLIENT_LEFT = 499
_STREAM = web.RequestKey("stream", web.StreamResponse)


@dataclass(slots=True)
class Answer:
    """The answer to a request, once there is one."""

    response: web.StreamResponse | None = None


@contextmanager
def answering(request: web.BaseRequest) -> Iterator[Answer]:
    """Count a request, which is answered in the block to the last byte."""
    answer, begun = Answer(), time.perf_counter()
    with metrics.HTTP_RUNNING.track_inprogress():
        try:
            yield answer
        finally:
            _count(request, answer.response, time.perf_counter() - begun)


class CountingHandler(web.RequestHandler):
    """Counts its requests, also those that aiohttp refuses before they reach the app."""

    async def _handle_request(self, request: web.BaseRequest, *how: Any) -> tuple[web.StreamResponse, bool]:
        with answering(request) as answer:
            finished = await super()._handle_request(request, *how)
            answer.response = finished[0]
        return finished


def _count(request: web.BaseRequest, response: web.StreamResponse | None, seconds: float) -> None:
    method, route = problems.method(request), problems.route(request) or "(none)"
    stream = request.get(_STREAM)
    answered = stream or response  # a client ends a stream by leaving: its status is that of its beginning
    status = _CLIENT_LEFT if answered is None else answered.status
    metrics.HTTP_REQUESTS.labels(method, route, status).inc()
    if stream is None:  # it lasts as long as its page is open
        metrics.HTTP_SECONDS.labels(method, route).observe(seconds)


@asynccontextmanager
async def listening(request: web.Request, events: web.StreamResponse) -> AsyncIterator[None]:
    """Count an event stream, which is sent in the block."""
    request[_STREAM] = events
    with metrics.EVENT_LISTENERS.track_inprogress():
        yield


@contextmanager
def uploading() -> Iterator[None]:
    """Count an upload, by how the block ends."""
    outcome = "failed"
    try:
        yield
        outcome = "accepted"
    except Exception as error:
        problem = error if isinstance(error, problems.Problem) else problems.of_domain_error(error)
        if problem is not None and problem.status < 500:
            outcome = "refused"
        raise
    finally:
        metrics.UPLOADS.labels(outcome).inc()
