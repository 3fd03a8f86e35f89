"""Whatever bytes a client sends, to whichever address: the mistake is named, and is never ours."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stt.jobs import lifecycle
from stt.web.app import routes
from stt.web.context import SERVICES
from tests.support import raw
from tests.support.jobs import new
from tests.support.raw import SECRET, Log, ask, logged, post
from tests.support.uploads import stored, until

ADDRESSES = sorted(
    {(route.method, route.path) for route in routes() if isinstance(route, web.RouteDef)}
    | {("GET", "/nothing")}
)
S = SECRET.encode()


@pytest.fixture
def hasty(environ: dict[str, str]) -> None:
    """Nothing more is waited for of a request that is not whole."""
    environ |= {"STT_HEAD_SECONDS": "0.1", "STT_STALL_SECONDS": "0.1", "STT_LEAST_BYTES_PER_SECOND": "1e9"}


@pytest.fixture
async def log(client: TestClient) -> AsyncIterator[Log]:
    with logged() as log:
        yield log


FORM = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x--\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + S + b'.wav"\r\n\r\n%s\r\n--x--\r\n'
MULTIPART, URLENCODED = "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"
JSON = "application/json"

# Bodies by what is wrong with them: type, and bytes.
BODIES: dict[str, tuple[str, bytes]] = {
    "nothing": (MULTIPART, b""),
    "cut off": (MULTIPART, (FILE % b"RIFF")[:-9]),
    "cut off in a head": (MULTIPART, FILE[:30]),
    "no last boundary": (MULTIPART, FILE[:-12] % () if b"%s" not in FILE[:-12] else FILE[:-10] % b"RIFF"),
    "no boundary": ("multipart/form-data", FILE % b"RIFF"),
    "empty boundary": ('multipart/form-data; boundary=""', FILE % b"RIFF"),
    "long boundary": ("multipart/form-data; boundary=" + "x" * 100, FILE % b"RIFF"),
    "another boundary": ("multipart/form-data; boundary=y", FILE % b"RIFF"),
    "boundary of odd bytes": ("multipart/form-data; boundary=\xff", FILE % b"RIFF"),
    "header without colon": (MULTIPART, b"--x\r\n" + S + b"\r\n\r\nx\r\n--x--\r\n"),
    "empty name of a header": (MULTIPART, b"--x\r\n: x\r\n\r\nx\r\n--x--\r\n"),
    "long header": (MULTIPART, b"--x\r\nContent-Disposition: " + S * 9000 + b"\r\n\r\nx\r\n--x--\r\n"),
    "many headers": (MULTIPART, b"--x\r\n" + b"A: b\r\n" * 500 + b"\r\nx\r\n--x--\r\n"),
    "odd bytes in a header": (MULTIPART, b"--x\r\nContent-Disposition: \xff\x00\r\n\r\nx\r\n--x--\r\n"),
    "no disposition": (MULTIPART, b"--x\r\n\r\nx\r\n--x--\r\n"),
    "broken disposition": (MULTIPART, b'--x\r\nContent-Disposition: ;;="' + S + b"\r\n\r\nx\r\n--x--\r\n"),
    "unknown charset of a name": (
        MULTIPART,
        b"--x\r\nContent-Disposition: form-data; name=file; filename*=klingon''a%ff\r\n\r\nx\r\n--x--\r\n",
    ),
    "parts of parts": (
        MULTIPART,
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n--y--\r\n--x--\r\n",
    ),
    "parts without boundary": (MULTIPART, b"--x\r\nContent-Type: multipart/mixed\r\n\r\nx\r\n--x--\r\n"),
    "unknown charset": (
        MULTIPART,
        b"--x\r\nContent-Disposition: form-data; name=sure\r\nContent-Type: text/plain; charset=klingon\r\n"
        b"\r\nx\r\n--x--\r\n",
    ),
    "charset as a field": (MULTIPART, FORM % (b"_charset_", b"klingon")),
    "long charset as a field": (MULTIPART, FORM % (b"_charset_", b"k" * 99)),
    "unknown encoding of a part": (
        MULTIPART,
        b"--x\r\nContent-Disposition: form-data; name=sure\r\nContent-Transfer-Encoding: " + S + b"\r\n\r\nx"
        b"\r\n--x--\r\n",
    ),
    "broken base64": (
        MULTIPART,
        b"--x\r\nContent-Disposition: form-data; name=sure\r\nContent-Transfer-Encoding: base64\r\n\r\na"
        b"\r\n--x--\r\n",
    ),
    "text that is none": (MULTIPART, FORM % (b"initial_prompt", b"\xff\xfe")),
    "NUL in a field": (MULTIPART, FORM % (b"initial_prompt", b"a\0b")),
    "NUL in a name": (MULTIPART, FORM % (b"a\0b", b"x")),
    "option as a file": (MULTIPART, (FILE % b"\0\1\2").replace(b'"file"', b'"model"')),
    "no recording": (MULTIPART, FILE % S),
    "lines without end": (MULTIPART, b"\n" * 200_000),
    "a line without end": (MULTIPART, b"x" * 2_000_000),
    "percent": (URLENCODED, b"sure=%&%zz=%f&model=%00"),
    "urlencoded bytes": (URLENCODED, b"sure=\xff&model=\x00"),
    "urlencoded in an unknown charset": (URLENCODED + "; charset=klingon", b"sure=1"),
    "urlencoded in odd bytes as a charset": (URLENCODED + "; charset=\xff\0", b"sure=1"),
    "urlencoded in utf-16": (URLENCODED + "; charset=utf-16", b"sure=1"),
    "many fields": (URLENCODED, b"&".join(b"a%d=1" % n for n in range(20_000))),
    "too much": (URLENCODED, b"sure=" + b"x" * 2**21),
    "JSON cut off": (JSON, b'{"model": "' + S),
    "JSON that is a list": (JSON, b"[1]"),
    "JSON nested": (JSON, b"[" * 200_000),
    "JSON nested in a value": (JSON, b'{"model": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}"),
    "NaN": (JSON, b'{"min_speakers": NaN}'),
    "infinity": (JSON, b'{"diarize": true, "min_speakers": 1e999}'),
    "huge number": (JSON, b'{"diarize": true, "min_speakers": ' + b"9" * 5000 + b"}"),
    "large number": (JSON, b'{"diarize": true, "min_speakers": ' + b"9" * 400 + b"}"),
    "NUL in JSON": (JSON, b'{"initial_prompt": "a\\u0000b"}'),
    "half a character": (JSON, b'{"initial_prompt": "\\ud800", "hotwords": "\\udc00"}'),
    "half a character in a name": (JSON, b'{"\\ud800": 1}'),
    "NUL in a name of JSON": (JSON, b'{"\\u0000": 1}'),
    "an object as model": (JSON, b'{"model": {"a": [1]}}'),
    "a list as language": (JSON, b'{"language": [1], "task": {}, "diarize": [], "hotwords": {}}'),
    "bytes as JSON": (JSON, b"\xff\xfe\0"),
    "JSON in an unknown charset": (JSON + "; charset=klingon", b"{}"),
    "JSON in utf-16": (JSON + "; charset=utf-16", b"{}"),
    "another type": ("text/" + SECRET, b"x"),
    "an odd type": ("\xff;;=", b"x"),
}

# What a body is packed into: headers, and what becomes of its bytes.
ENCODINGS = {
    "as it is": ("", lambda body: body),
    "gzip": ("gzip", gzip.compress),
    "not gzip": ("gzip", lambda body: body or b"junk"),
    "half of gzip": ("gzip", lambda body: gzip.compress(body)[:-9]),
    "much more than it looks": ("gzip", lambda body: gzip.compress(body + bytes(2**23))),
    "deflate": ("deflate", zlib.compress),
    "half of deflate": ("deflate", lambda body: zlib.compress(body + bytes(99))[:-5]),
    "not deflate": ("DEFLATE", lambda body: body or b"junk"),
    "brotli": ("br", lambda body: body),
    "zstd": ("zstd", lambda body: body),
    "twice": ("gzip, gzip", gzip.compress),
    "unknown": (SECRET, lambda body: body),
    "odd": ("\xff", lambda body: body),
}


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


# How its length is told.
FRAMES = {
    "by length": lambda body: (f"Content-Length: {len(body)}", body),
    "longer": lambda body: (f"Content-Length: {len(body) + 10}", body),
    "shorter": lambda body: (f"Content-Length: {len(body) // 2}", body),
    "no number": lambda body: (f"Content-Length: {SECRET}", body),
    "negative": lambda body: ("Content-Length: -1", body),
    "two lengths": lambda body: ("Content-Length: 1\r\nContent-Length: 2", body),
    "not told": lambda body: ("X: y", body),
    "chunks": lambda body: ("Transfer-Encoding: chunked", chunked(body)),
    "chunks cut off": lambda body: ("Transfer-Encoding: chunked", chunked(body)[:-5]),
    "broken chunks": lambda body: ("Transfer-Encoding: chunked", chunked(body)[:-5] + b"zz\r\n" + S),
    "both": lambda body: ("Transfer-Encoding: chunked\r\nContent-Length: 5", chunked(body)),
    "unknown": lambda body: (f"Transfer-Encoding: {SECRET}", body),
}
ODD = [
    "", "\xff", "%00", "%ff", "%", "%zz", "%ed%a0%80", "\U0001f600", "٣", "-1", "9" * 5000, "NaN", "1e999",
    "../..%2f..%2fetc", "a" * 9000, "{}", "[", "''", "\x01", f"{SECRET}%0d%0aX: y", "true", "bytes=9-1",
    "Sat, 99 Foo 99999 99:99:99 GMT", "Mon, 01 Jan 0001 00:00:00 -9999", "W/\"", "100-continue", "cross-site",
]  # fmt: skip
HOSTS = ["127.0.0.1"] * 6 + [
    "",
    "\xff",
    "[",
    "[::1",
    "a b",
    "127.0.0.1:99999999",
    "127.0.0.1\r\nHost: b",
    SECRET,
]
ACCEPTS = ["text/html", "*/*", "\xff", ",;q=text/html", "text/html;q=\xff"]
NAMES = [
    "Accept-Encoding", "Connection", "Cookie", "Expect", "HX-Request", "HX-Current-URL", "If-Match",
    "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Last-Event-ID", "Origin",
    "Range",
    "Referer", "Sec-Fetch-Site", "Sec-WebSocket-Key1", "Upgrade", "X-Forwarded-For", "X Y", "\xff", "",
]  # fmt: skip
METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "\xff",
    "",
    SECRET,
]
VERSIONS = ["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", SECRET, ""]
QUERIES = ["q", "cursor", "limit", "status", "points", "format", "highlight", "from", "state", "\xff"]


def mostly(value: str, others: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(value), st.just(value), st.sampled_from(others))


@st.composite
def requests(draw: st.DrawFn, method: str, path: str, job: str) -> bytes:
    """A request to one address in which anything may be wrong, also nothing."""
    ident = draw(mostly(job, [str(uuid4()), *ODD]))
    address = path.replace("{id}", ident).replace("{name:.+}", draw(mostly("stt.css", ODD)))
    asked = draw(st.lists(st.tuples(st.sampled_from(QUERIES), st.sampled_from(ODD)), max_size=2))
    address += "?" * bool(asked) + "&".join(f"{name}={value}" for name, value in asked)
    headers = [f"Host: {draw(st.sampled_from(HOSTS))}", f"Accept: {draw(st.sampled_from(ACCEPTS))}"]
    more = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ODD)), max_size=2))
    headers += [f"{name}: {value}" for name, value in more]
    body = b""
    if draw(st.booleans()) or method == "POST":
        kind, body = BODIES[draw(st.sampled_from(sorted(BODIES)))]
        encoding, pack = ENCODINGS[draw(mostly("as it is", sorted(ENCODINGS)))]
        length, body = FRAMES[draw(mostly("by length", sorted(FRAMES)))](pack(body))
        headers += [f"Content-Type: {kind}", length] + [f"Content-Encoding: {encoding}"] * bool(encoding)
    first = f"{draw(mostly(method, METHODS))} {address} {draw(st.sampled_from(VERSIONS))}"
    return (
        "\r\n".join([first, *headers, "", ""]).encode(
            "utf-8" if draw(st.booleans()) else "latin-1", "replace"
        )
        + body
    )


async def send(client: TestClient, request: bytes) -> None:
    async with raw.connect(client) as (reader, writer):
        writer.write(request)
        found = await raw.head(reader)
        # What does not begin like a request ends like a connection in which nothing came.
        assert found or b"\r\n\r\n" not in request.lstrip(b"\r\n"), "no answer"
        if found:
            found.check()


@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
async def test_no_request_is_a_fault_of_ours(
    data: st.DataObject, hasty: None, client: TestClient, pool: asyncpg.Pool, log: Log
) -> None:
    job = str((await new(pool)).id)
    everywhere = st.tuples(*(requests(method, path, job) for method, path in ADDRESSES))
    await asyncio.gather(*(send(client, request) for request in data.draw(everywhere)))
    log.check()


PLAIN = ENCODINGS["as it is"]
PACKED = [(what, *BODIES[what], *PLAIN) for what in BODIES] + [
    (f"{what}, {packed}", *BODIES[what], *ENCODINGS[packed])
    for what in ("option as a file", "JSON that is a list")
    for packed in ENCODINGS
]


@pytest.mark.parametrize("path", ["/api/jobs/upload", "/api/jobs/{id}/retry", "/jobs/{id}/delete"])
async def test_a_body_that_cannot_be_read_is_named(
    path: str, client: TestClient, pool: asyncpg.Pool, log: Log
) -> None:
    for what, kind, body, encoding, pack in PACKED:
        job = await new(pool)
        assert await lifecycle.request_cancel(pool, job.id)
        headers = [f"Content-Type: {kind}"] + [f"Content-Encoding: {encoding}"] * bool(encoding)
        found = await ask(client, post(path.replace("{id}", str(job.id)), pack(body), *headers))
        found.check()
        refused = (400, 413, 415, 422)
        assert found.status in (200, 303, *refused), (what, found)
        if found.status in refused:
            assert SECRET not in found.problem()["detail"], what
    log.check()


async def test_what_is_wrong_decides_the_status(client: TestClient, pool: asyncpg.Pool) -> None:
    expected = [
        ("no boundary", "as it is", 400),
        ("header without colon", "as it is", 400),
        ("long header", "as it is", 400),
        ("cut off in a head", "as it is", 400),
        ("cut off in a head", "half of gzip", 400),
        ("cut off", "not gzip", 400),
        ("cut off", "half of deflate", 400),
        ("cut off", "brotli", 415),
        ("cut off", "unknown", 415),
        ("option as a file", "as it is", 422),
        ("option as a file", "gzip", 422),
        ("NUL in a field", "as it is", 422),
        ("text that is none", "as it is", 400),
    ]
    job = await new(pool)
    assert await lifecycle.request_cancel(pool, job.id)
    for path in ("/api/jobs/upload", f"/api/jobs/{job.id}/retry"):
        for what, packed, status in expected:
            (kind, body), (encoding, pack) = BODIES[what], ENCODINGS[packed]
            headers = [f"Content-Type: {kind}"] + [f"Content-Encoding: {encoding}"] * bool(encoding)
            found = await ask(client, post(path, pack(body), *headers))
            assert found.problem()["status"] == status, (path, what, packed, found)


async def test_a_json_object_with_odd_values_is_named(client: TestClient, pool: asyncpg.Pool) -> None:
    expected: list[tuple[str, int, str | None]] = [
        ("JSON nested", 400, None),
        ("NaN", 400, None),
        ("huge number", 400, None),
        ("infinity", 422, "min_speakers"),
        ("large number", 422, "min_speakers"),
        ("NUL in JSON", 422, "initial_prompt"),
        ("half a character", 422, "initial_prompt"),
        ("half a character in a name", 422, "?"),
        ("an object as model", 422, "model"),
        ("a list as language", 422, "language"),
    ]
    job = await new(pool)
    assert await lifecycle.request_cancel(pool, job.id)
    for what, status, named in expected:
        kind, body = BODIES[what]
        found = await ask(client, post(f"/api/jobs/{job.id}/retry", body, f"Content-Type: {kind}"))
        problem = found.problem()
        assert (problem["status"], problem.get("field")) == (status, named), what
        assert not any(sign in problem["detail"] for sign in ("{'", "[1]", "<", "bytearray", "b'")), what


async def test_a_file_sent_as_an_option_is_named_in_words(client: TestClient, pool: asyncpg.Pool) -> None:
    job = await new(pool)
    assert await lifecycle.request_cancel(pool, job.id)
    for path in ("/api/jobs/upload", f"/api/jobs/{job.id}/retry"):
        body = BODIES["option as a file"][1]
        problem = (await ask(client, post(path, body, f"Content-Type: {MULTIPART}"))).problem()
        assert (problem["code"], problem["field"]) == ("bad_option", "model")
        assert problem["detail"].startswith("model: was sent as a file")


@pytest.fixture
def small(environ: dict[str, str]) -> None:
    environ["STT_MAX_UPLOAD_BYTES"] = str(2**20)


async def test_a_small_body_that_unpacks_to_more_than_the_limit_is_413(
    small: None, client: TestClient, pool: asyncpg.Pool
) -> None:
    """Also where it is no file: before the first part, in a field, in a form without a recording."""
    bomb = gzip.compress(bytes(2**26) + b"\n" * 2**20)
    lines = gzip.compress(b"\n" * 2**24)
    long = gzip.compress((b" " * 9999 + b"\n") * 2**11)
    file = gzip.compress(FILE % bytes(2**22))
    job = await new(pool)
    for path, body, codes in [
        ("/api/jobs/upload", lines, {"bad_form"}),
        ("/api/jobs/upload", long, {"too_large"}),
        ("/api/jobs/upload", file, {"too_large"}),
        ("/api/jobs/upload", bomb, {"too_large", "bad_form"}),
        (f"/jobs/{job.id}/delete", lines, {"bad_form"}),
        (f"/jobs/{job.id}/delete", long, {"form_too_large"}),
        (f"/api/jobs/{job.id}/retry", file, {"bad_option"}),
    ]:
        packed = (f"Content-Type: {MULTIPART}", "Content-Encoding: gzip")
        problem = (await ask(client, post(path, body, *packed))).problem()
        assert problem["code"] in codes, (path, problem)


BROKEN = {
    "no request": b"hello there " + S + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "a header without colon": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + S + b"\r\n\r\n",
    "a long address": b"GET /" + S * 2000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + S * 2000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: " + S + b"\r\n\r\n",
    "an odd length": b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + S + b"\r\n\r\n",
    "broken chunks": b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + S,
    "an Expect that is no text": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: \xff\r\n\r\n",
    "odd Expect": b"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: " + S + b"\r\n\r\n",
}


async def test_what_no_view_has_seen_is_answered_as_views_do(client: TestClient, log: Log) -> None:
    for what, request in BROKEN.items():
        log.records.clear()
        found = await ask(client, request)
        found.check()
        assert found.problem()["status"] in (400, 417), what
        log.check()
        assert len(log.lines) <= 1


async def test_chunks_that_break_in_the_middle_of_an_upload_are_answered(
    client: TestClient, log: Log
) -> None:
    async with raw.connect(client) as (reader, writer):
        writer.write(
            b"POST /api/jobs/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + chunked(FILE[:60])[:-5]
        )
        await until(lambda: stored(client.app[SERVICES].storage))
        writer.write(S + b"\r\n")
        found = await raw.answer(reader)
        assert found
        assert found.problem()["code"] == "bad_transfer"
        found.check()
        assert await reader.read() == b""
    assert not stored(client.app[SERVICES].storage)
    log.check()
    assert len(log.lines) == 1


async def test_an_upload_that_ends_early_is_told_so(client: TestClient, log: Log) -> None:
    """The client has closed its side alone, as `nc -N` does."""
    async with raw.connect(client) as (reader, writer):
        writer.write(post("/api/jobs/upload", FILE[:60], f"Content-Type: {MULTIPART}", length=10_000))
        await until(lambda: stored(client.app[SERVICES].storage))
        writer.write_eof()
        found = await raw.answer(reader)
        assert found
        assert found.problem()["code"] == "ended_early"
    assert not stored(client.app[SERVICES].storage)
    log.check()
    assert log.lines == ["INFO POST /api/jobs/upload: the client ended the body early"]


async def test_the_answer_to_an_odd_host_cannot_fail(client: TestClient, log: Log) -> None:
    for host in ("\xff", "[", "a b", ""):
        for accept in ("text/html", "*/*", "\xff", "text/html;q=\xff"):
            request = f"GET /jobs/\xff HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n"
            found = await ask(client, request.encode("latin-1"))
            found.check()
            assert found.status in (400, 421)
    log.check()


async def test_where_the_page_of_errors_is_broken_there_is_json(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stt.web.pages.render.aiohttp_jinja2.render_template", None)
    found = await ask(client, b"GET /jobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\n\r\n")
    assert found.problem()["code"] == "job_not_found"
