"""Reads the bodies of requests. A parser's exception over a broken body becomes a `Problem`.

Every form and every JSON object is read here, so that no view has to know what aiohttp, json or zlib raise.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from multidict import CIMultiDict, CIMultiDictProxy

from stt.web import filenames
from stt.web.problems import Problem

FORM, JSON = "bad_form", "bad_body"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
# Content encodings that aiohttp decodes; br and zstd only if their libraries are installed.
_ENCODINGS = ("", "identity", "gzip", "deflate", "br", "zstd")
_FIELD_BYTES = 64 * 2**10
# Most lines outside the contents of parts: the headers of some hundred parts have fewer.
_LINES = 5000
# What aiohttp's readers, json, zlib and the codecs raise for bytes that they cannot read.
_UNREADABLE = (
    ValueError,
    LookupError,  # an unknown charset
    RuntimeError,  # an unknown encoding of a part; RecursionError: nested too deep
    AssertionError,
    EOFError,
    zlib.error,
    HttpProcessingError,
    web.RequestPayloadError,
)


@contextmanager
def readable(code: str) -> Iterator[None]:
    """Turn a parser's exception into a 400. Only the reading of a body belongs in the block.

    Raises:
        Problem: 400 with the code `code`.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise _unreadable(code, error) from error


async def form(request: web.Request) -> dict[str, str]:
    """The fields of a form, all of them text; empty where there is no body.

    Raises:
        Problem: 400, 413 or 415 the body cannot be read, 422 a field was sent as a file.
    """
    if request.content_type == "multipart/form-data":
        limit = request.client_max_size
        return {part.name: await part.text() async for part in parts(request, limit, _form_too_large(limit))}
    _check_encoding(request)
    with readable(FORM):
        # Only a multipart form can hold files.
        return {name: str(value) for name, value in (await request.post()).items()}


async def fields(request: web.Request) -> dict[str, Any]:
    """Option fields sent as a form or as one JSON object; empty where there is no body.

    Raises:
        Problem: 400 or 415 the body cannot be read, 422 a field was sent as a file.
    """
    if not request.can_read_body:
        return {}
    if request.content_type in _FORMS:
        return dict(await form(request))
    _check_encoding(request)
    if request.content_type != "application/json":
        raise _no_object()
    with readable(JSON):
        options = await request.json(loads=_loads)
    if not isinstance(options, dict):
        raise _no_object()
    return options


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")  # Python's parser takes NaN and Infinity


class Part:
    """One part of a form: its name, the name of its file if it is one, and its bytes."""

    def __init__(self, reader: _PartReader) -> None:
        self._reader = reader
        self.name, self.filename = reader.names[0] or "", reader.names[1]

    async def chunks(self, size: int) -> AsyncIterator[bytes]:
        """The bytes of the part, in chunks of about `size`.

        Raises:
            Problem: 400 it cannot be read.
        """
        while True:
            with readable(FORM):
                chunk = await self._reader.read_chunk(size)
            if not chunk:
                return
            yield chunk

    async def text(self) -> str:
        """The whole part as text. It is read as UTF-8, which browsers and curl send; its charset is ignored.

        Raises:
            Problem: 400 it cannot be read, 422 it is a file.
        """
        if self.filename is not None:
            raise _sent_as_file(self.name)
        value = bytearray()
        async for chunk in self.chunks(_FIELD_BYTES):
            value += chunk
            if len(value) > _FIELD_BYTES:
                raise malformed(f"field {self.name} is longer than {_FIELD_BYTES} bytes")
        with readable(FORM):
            return value.decode()


async def parts(request: web.Request, limit: int, too_large: Exception) -> AsyncIterator[Part]:
    """The parts of a multipart form, one after the other.

    Args:
        request: Its body is read as far as parts are taken.
        limit: Bytes that the body may have, decompressed.
        too_large: Is raised if it has more.

    Raises:
        Problem: 400 it cannot be read, 415 it is no multipart form.
    """
    _check_encoding(request)
    if request.content_type != "multipart/form-data":
        raise _not_multipart()
    with readable(FORM):
        content: Any = _Bounded(request.content, limit, too_large)
        reader = _Reader(request.headers, content)
    while True:
        with readable(FORM):
            part = await reader.next()
        if part is None:
            return
        if not isinstance(part, _PartReader):
            raise malformed("a part holds parts of its own")
        yield Part(part)


class _PartReader(BodyPartReader):
    """Reads Content-Disposition by itself: aiohttp splits names at semicolons and prints what it refuses."""

    def __init__(self, boundary: bytes, headers: CIMultiDictProxy[str], *args: Any, **kwargs: Any) -> None:
        self.names = filenames.disposition(headers.get("Content-Disposition", ""))
        known = CIMultiDict(headers)
        known.popall("Content-Disposition", None)
        super().__init__(boundary, CIMultiDictProxy(known), *args, **kwargs)


class _Reader(MultipartReader):
    part_reader_cls = _PartReader


class _Bounded:
    """A stream with a limit for a MultipartReader, which searches all bytes for its first boundary."""

    def __init__(self, stream: StreamReader, limit: int, too_large: Exception) -> None:
        self._stream, self._limit, self._too_large = stream, limit, too_large
        self.at_eof, self.unread_data = stream.at_eof, stream.unread_data
        self._lines = 0

    async def read(self, size: int = -1) -> bytes:
        return self._checked(await self._stream.read(size))

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        # Lines that have arrived are read without a pause: millions would block the event loop.
        self._lines += 1
        if self._lines > _LINES:
            raise malformed("it has too many lines outside of its parts")
        return self._checked(await self._stream.readline(max_line_length=max_line_length))

    def _checked(self, data: bytes) -> bytes:
        if self._stream.total_bytes > self._limit:
            raise self._too_large
        return data


def _check_encoding(request: web.Request) -> None:
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise unsupported_encoding()


def _unreadable(code: str, error: Exception) -> Problem:
    reason = _reason(error)
    if code == FORM:
        return malformed(reason)
    return Problem(400, code, "The body cannot be read", f"The body is no JSON object: {reason}.")


def _reason(error: Exception) -> str:
    """The reason in our own words: a parser's message would show what the client sent."""
    reasons: Mapping[type[Exception], str] = {
        web.RequestPayloadError: "its bytes are not what Content-Encoding or Transfer-Encoding says",
        LineTooLong: "a line of its headers is too long",
        UnicodeError: "its text is not in the expected charset",
        LookupError: "it names an unknown charset",
        RecursionError: "it is nested too deep",
        json.JSONDecodeError: "it is incomplete, or is no JSON",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    return "its parts cannot be separated, or it is incomplete"


def malformed(reason: str) -> Problem:
    """The 400 for a form that cannot be read, with the reason."""
    detail = f"The form ended early or is damaged: {reason}."
    return Problem(400, FORM, "The form cannot be read", detail)


def _sent_as_file(name: str) -> Problem:
    detail = f"{name}: was sent as a file; send its value as text, as curl -F {name}=value does"
    return Problem(422, "bad_option", "An option is not valid", detail, field=name)


def unsupported_encoding() -> Problem:
    """The 415 for a Content-Encoding that is not supported."""
    return Problem(
        415,
        "unsupported_encoding",
        "Encoding not supported",
        "Content-Encoding: send the body as it is, or compressed once with gzip or deflate.",
        headers={"Accept-Encoding": "gzip, deflate"},
    )


def _form_too_large(limit: int) -> Problem:
    detail = f"A form without a recording has no more than {limit} bytes."
    return Problem(413, "form_too_large", "Too large", detail)


def _no_object() -> Problem:
    title, detail = "Not a form, nor a JSON object", "Send the options as a form, or one JSON object."
    return Problem(400, JSON, title, detail)


def _not_multipart() -> Problem:
    return Problem(
        415,
        "not_multipart",
        "Not a form",
        "Send multipart/form-data with the recording in a part named file, as curl -F file=@talk.mp3 does.",
    )
