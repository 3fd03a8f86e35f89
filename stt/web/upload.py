"""Receives a recording that is sent as a form; `stt.jobs.actions` makes a job of it."""

from __future__ import annotations

from aiohttp import web

from stt.jobs import actions
from stt.jobs.model import Job
from stt.storage import Incoming
from stt.telemetry import metrics
from stt.web import bodies, filenames, observe, request_ids
from stt.web.context import SERVICES, SETTINGS
from stt.web.problems import Problem

_CHUNK = 2**18
_FIELDS = 50
# Room for part headers and option fields around a file of the largest size.
_ENVELOPE = 4 * 2**20


async def upload(request: web.Request) -> web.Response:
    """`POST /api/jobs/upload`: multipart with one `file` part and option fields in any order."""
    job = await receive(request)
    return web.json_response(job.public(), status=201, headers={"Location": f"/api/jobs/{job.id}"})


async def upload_form(request: web.Request) -> web.Response:
    """The page's form where there is no JavaScript."""
    await receive(request)
    raise web.HTTPSeeOther("/")


async def receive(request: web.Request) -> Job:
    """Take one recording from a form.

    Raises:
        Problem: 400, 413, 415 or 422, the form cannot be read or lacks the file.
        Exception: what `actions.accept` raises.
    """
    services = request.app[SERVICES]
    with observe.uploading():
        _check_size(request)
        async with services.storage.incoming() as incoming:
            filename, fields = await _read_parts(request, incoming)
            return await actions.accept(
                services, incoming, filename=filename, fields=fields, request_id=request_ids.of(request)
            )


def _check_size(request: web.Request) -> None:
    """Refuse a request that is too large before its body is read."""
    length = request.content_length or 0
    limit = request.app[SETTINGS].max_upload_bytes
    if length > limit + _ENVELOPE:
        raise _too_large(limit)
    request.app[SERVICES].storage.check_room(length)


async def _read_parts(request: web.Request, incoming: Incoming) -> tuple[str, dict[str, str]]:
    limit = request.app[SETTINGS].max_upload_bytes
    filename: str | None = None
    fields: dict[str, str] = {}
    async for part in bodies.parts(request, limit + _ENVELOPE, _too_large(limit)):
        if part.name == "file":
            if filename is not None:
                raise _second_file()
            filename = filenames.clean(part.filename)
            await _read_file(part, incoming, limit)
        else:
            if len(fields) >= _FIELDS:
                raise bodies.malformed("it has too many fields")
            if part.name in fields:
                raise bodies.malformed(f"field {part.name} is given twice")
            fields[part.name] = await part.text()
    if filename is None:
        raise Problem(
            422, "no_file", "No file", "The form has no part named file: send the recording as file."
        )
    if not incoming.size:
        raise Problem(422, "empty_file", "Empty file", "The file has no bytes: was it copied whole?")
    return filename, fields


async def _read_file(part: bodies.Part, incoming: Incoming, limit: int) -> None:
    async for chunk in part.chunks(_CHUNK):
        metrics.UPLOAD_BYTES.inc(len(chunk))
        if incoming.size + len(chunk) > limit:
            raise _too_large(limit)
        await incoming.write(chunk)


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "too_large", "Too large", f"The file is larger than {limit} bytes, the limit of this server "
        "(STT_MAX_UPLOAD_BYTES).", max_upload_bytes=limit,
    )  # fmt: skip


def _second_file() -> Problem:
    return Problem(
        422, "second_file", "More than one file", "Send one file a request; each becomes a job of its own."
    )
