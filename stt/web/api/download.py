"""The download of a transcript as a file."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import quote

from aiohttp import web

from stt.jobs import results
from stt.jobs.model import Job, Status
from stt.transcript import formats
from stt.web.context import SERVICES
from stt.web.params import job_or_404
from stt.web.problems import Problem


async def download(request: web.Request) -> web.Response:
    """`GET /api/jobs/{id}/download?format=`: the transcript as an attachment named after the upload."""
    name = request.query.get("format") or "txt"
    if name not in formats.FORMATS:
        known = ", ".join(formats.FORMATS)
        raise Problem(422, "bad_format", "Unknown format", f"format: must be one of {known}")
    highlight = _highlight(request, name)
    job = await job_or_404(request)
    found = await results.latest_transcript(request.app[SERVICES].pool, job)
    if found is None:
        raise no_transcript(await job_or_404(request))  # it may have been deleted meanwhile
    transcript = formats.document(
        found["segments"], language=found["language"], duration=job.duration_seconds
    )
    write = _writer(name, highlight, job)
    content = await asyncio.to_thread(write, transcript)
    headers = {"Content-Disposition": attachment(job.original_filename, name)}
    content_type = formats.FORMATS[name][1]
    if isinstance(content, bytes):
        return web.Response(body=content, content_type=content_type, headers=headers)
    return web.Response(text=content, content_type=content_type, charset="utf-8", headers=headers)


def _writer(name: str, highlight: bool, job: Job) -> formats.Writer:
    if name == "docx":
        return partial(formats.to_docx, title=PurePosixPath(job.original_filename).stem)
    if highlight:
        return partial(formats.to_vtt, highlight=True)
    return formats.FORMATS[name][0]


def _highlight(request: web.Request, name: str) -> bool:
    """`highlight=words`: WebVTT with the time of each word inside its cues."""
    value = request.query.get("highlight")
    if value and (value != "words" or name != "vtt"):
        detail = "highlight: can only be words, with format=vtt"
        raise Problem(422, "bad_format", "Unknown highlighting", detail)
    return bool(value)


def no_transcript(job: Job) -> Problem:
    detail = {
        Status.PENDING: "The recording waits for a worker; ask again when it is completed.",
        Status.PROCESSING: "The recording is being transcribed; ask again when it is completed.",
        Status.CANCELLED: "The job was cancelled before it had a transcript.",
        Status.FAILED: f"The job failed: {job.error_message}",
        Status.COMPLETED: "The recording was completed this moment; ask again.",
    }[job.status]
    return Problem(409, "no_transcript", "No transcript yet", detail, job_status=str(job.status))


def attachment(filename: str, extension: str) -> str:
    """A Content-Disposition for any name: ASCII for old clients, UTF-8 for the rest (RFC 6266)."""
    stem = PurePosixPath(filename).stem or "transcript"
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in stem)
    exact = quote(f"{stem}.{extension}", safe="")
    return f"attachment; filename=\"{plain}.{extension}\"; filename*=UTF-8''{exact}"
