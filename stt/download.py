"""The result leaves: a transcript as a file."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from urllib.parse import quote

from aiohttp import web

from stt import formats, jobs
from stt.errors import Problem
from stt.jobs import Job, Status
from stt.keys import POOL
from stt.params import job_or_404


async def download(request: web.Request) -> web.Response:
    """`GET /api/jobs/{id}/download?format=`: the transcript as an attachment named after the upload."""
    name = request.query.get("format") or "txt"
    if name not in formats.FORMATS:
        known = ", ".join(formats.FORMATS)
        raise Problem(422, "bad_format", "Unknown format", f"format: must be one of {known}")
    job = await job_or_404(request)
    found = await jobs.latest_transcript(request.app[POOL], job)
    if found is None:
        raise no_transcript(job)
    transcript = formats.document(
        found["segments"], language=found["language"], duration=job.duration_seconds
    )
    write, content_type = formats.FORMATS[name]
    text = await asyncio.to_thread(write, transcript)
    return web.Response(
        text=text,
        content_type=content_type,
        charset="utf-8",
        headers={"Content-Disposition": attachment(job.original_filename, name)},
    )


def no_transcript(job: Job) -> Problem:
    detail = {
        Status.PENDING: "The recording waits for a worker; ask again when it is completed.",
        Status.PROCESSING: "The recording is being transcribed; ask again when it is completed.",
        Status.CANCELLED: "The job was cancelled before it had a transcript.",
        Status.FAILED: f"The job failed: {job.error_message}",
    }[job.status]
    return Problem(409, "no_transcript", "No transcript yet", detail, job_status=str(job.status))


def attachment(filename: str, extension: str) -> str:
    """A Content-Disposition for any name: ASCII for old clients, UTF-8 for the rest (RFC 6266)."""
    stem = PurePosixPath(filename).stem or "transcript"
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in stem)
    exact = quote(f"{stem}.{extension}", safe="")
    return f"attachment; filename=\"{plain}.{extension}\"; filename*=UTF-8''{exact}"
