"""A recording arrives: streamed to disk, looked into, made durable, given a row, announced."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from uuid import uuid4

from aiohttp import web

from stt.codes import ErrorCode
from stt.jobs import lifecycle, options, tickets
from stt.jobs.messages import state
from stt.jobs.model import Job, NewJob
from stt.media import telephone
from stt.media.errors import MediaError
from stt.media.probe import Media, probe
from stt.pubsub import publish
from stt.storage import RESERVE, Incoming
from stt.web import bodies, filenames
from stt.web.context import POOL, REDIS, SETTINGS, STORAGE
from stt.web.problems import Problem

log = logging.getLogger(__name__)

_CHUNK = 2**18
_FIELDS = 50
# Room for part headers and option fields around a file of the largest size.
_ENVELOPE = 4 * 2**20
# What a storage answers that is read-only, broken, not mounted or not ours.
_STORAGE_AWAY = {errno.EROFS, errno.EIO, errno.ENOENT, errno.ESTALE, errno.EACCES, errno.EPERM}

# Errors of files that libav can open: the ending of the name does not matter.
_NAME_TELLS_NOTHING = {ErrorCode.ENCRYPTED, ErrorCode.EMPTY_AUDIO, ErrorCode.TOO_LONG}


async def upload(request: web.Request) -> web.Response:
    """`POST /api/jobs/upload`: multipart with one `file` part and option fields in any order."""
    job = await receive(request)
    return web.json_response(job.public(), status=201, headers={"Location": f"/api/jobs/{job.id}"})


async def upload_form(request: web.Request) -> web.Response:
    """The page's form where there is no JavaScript."""
    await receive(request)
    raise web.HTTPSeeOther("/")


async def receive(request: web.Request) -> Job:
    """Take one recording.

    Order: bytes durable under a temporary name, probed, renamed, row, ticket. A crash in between leaves
    a file that is swept, or a row without a ticket, which is mended; never a row without its bytes.

    Raises:
        Problem: 400, 413, 415, 422, 503 or 507 with what to do.
    """
    app = request.app
    try:
        _check_size(request)
        async with app[STORAGE].incoming() as incoming:
            filename, asked = await _read_parts(request, incoming)
            job_options = options.parse(asked, app[SETTINGS])
            await incoming.sync()
            longest = app[SETTINGS].max_duration_seconds
            media = await _look_into(incoming.path, filename, longest)
            job_id = uuid4()
            key = app[STORAGE].upload_key(job_id)
            await app[STORAGE].publish(incoming.path, key)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full() from error
        if error.errno in _STORAGE_AWAY:
            log.exception("the storage cannot be written to")
            raise _storage_away() from error
        raise
    new = NewJob(
        id=job_id,
        original_filename=filename,
        file_path=key,
        file_type=media.file_type,
        file_size=incoming.size,
        duration_seconds=media.duration_seconds,
        options=job_options,
    )
    return await _register(app, new)


async def _look_into(path: Path, filename: str, longest: float) -> Media:
    """What the file holds; of a recording without a header only its name tells why it is refused."""
    try:
        return await probe(path, longest)
    except MediaError as error:
        parameters = telephone.advice(filename)
        if error.code in _NAME_TELLS_NOTHING or parameters is None:
            raise
        raise MediaError(ErrorCode.NOT_MEDIA, **parameters) from None


async def _register(app: web.Application, new: NewJob) -> Job:
    try:
        job = await lifecycle.create(app[POOL], new)
    except Exception:
        # The row may be there all the same (its answer was lost): the sweep of files without a row decides.
        log.exception("the row could not be inserted", extra={"job": str(new.id)})
        raise
    await tickets.announce(app[REDIS], job)
    await publish(app[REDIS], state("created", job))
    log.info("received %d bytes of %s", job.file_size, job.file_type, extra={"job": str(job.id)})
    return job


def _check_size(request: web.Request) -> None:
    """Refuse before a byte is taken what cannot be taken whole."""
    length = request.content_length or 0
    limit = request.app[SETTINGS].max_upload_bytes
    if length > limit + _ENVELOPE:
        raise _too_large(limit)
    request.app[STORAGE].check_room(length)


async def _read_parts(request: web.Request, incoming: Incoming) -> tuple[str, dict[str, str]]:
    limit = request.app[SETTINGS].max_upload_bytes
    filename: str | None = None
    asked: dict[str, str] = {}
    async for part in bodies.parts(request, limit + _ENVELOPE, _too_large(limit)):
        if part.name == "file":
            if filename is not None:
                raise _second_file()
            filename = filenames.clean(part.filename)
            await _read_file(part, incoming, limit)
        else:
            if len(asked) >= _FIELDS:
                raise bodies.malformed("it has too many fields")
            if part.name in asked:
                raise bodies.malformed(f"field {part.name} is given twice")
            asked[part.name] = await part.text()
    if filename is None:
        raise Problem(
            422, "no_file", "No file", "The form has no part named file: send the recording as file."
        )
    if not incoming.size:
        raise Problem(422, "empty_file", "Empty file", "The file has no bytes: was it copied whole?")
    return filename, asked


async def _read_file(part: bodies.Part, incoming: Incoming, limit: int) -> None:
    async for chunk in part.chunks(_CHUNK):
        if incoming.size + len(chunk) > limit:
            raise _too_large(limit)
        await incoming.write(chunk)


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "too_large", "Too large", f"The file is larger than {limit} bytes, the limit of this server "
        "(STT_MAX_UPLOAD_BYTES).", max_upload_bytes=limit,
    )  # fmt: skip


def _disk_full() -> Problem:
    return Problem(
        507,
        "disk_full",
        "No room",
        f"The server's disk has no room for this file and the {RESERVE / 1e6:.0f} MB that must stay free "
        "besides it; free some space and send it again.",
    )


def _storage_away() -> Problem:
    return Problem(
        503,
        "storage_unavailable",
        "Service unavailable",
        "The server cannot write to its storage just now; send the file again in a while.",
        headers={"Retry-After": "30"},
    )


def _second_file() -> Problem:
    return Problem(
        422, "second_file", "More than one file", "Send one file a request; each becomes a job of its own."
    )
