"""The id of each request: `X-Request-ID` if the client or a proxy sends one, else a new one.

Every answer has it, every line of the log about the request, and every line about a job that it starts.
"""

from __future__ import annotations

import re
from uuid import uuid4

from aiohttp import web

HEADER = "X-Request-ID"
_KEY = web.RequestKey("request_id", str)
_VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def of(request: web.BaseRequest) -> str:
    """The id of a request, the same at every call."""
    if _KEY not in request:
        given = request.headers.get(HEADER, "")
        request[_KEY] = given if _VALID.fullmatch(given) else uuid4().hex
    return request[_KEY]


async def add_header(request: web.Request, response: web.StreamResponse) -> None:
    """Add the id to an answer; a handler of aiohttp's `on_response_prepare`."""
    response.headers[HEADER] = of(request)
