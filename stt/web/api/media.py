"""The waveform of a recording, for players."""

from __future__ import annotations

from aiohttp import web

from stt.jobs import results
from stt.jobs.model import Job
from stt.transcript import waveform
from stt.web import params
from stt.web.context import SERVICES
from stt.web.params import job_or_404
from stt.web.problems import Problem


async def get_peaks(request: web.Request) -> web.Response:
    """`GET /api/jobs/{id}/peaks?points=`: the waveform of what is decoded so far; 409 if nothing is."""
    points = params.points(request)
    job = await job_or_404(request)
    whole = waveform.joined(await results.peaks(request.app[SERVICES].pool, job))
    if not whole:
        raise _no_peaks(job)
    shown = whole if points is None else waveform.fewer(whole, points)
    per_second = waveform.PER_SECOND * len(shown) / len(whole)
    return web.json_response({"per_second": per_second, "peaks": list(shown)})


def _no_peaks(job: Job) -> Problem:
    detail = "Nothing of the recording was decoded yet; ask again when its first text is there."
    if job.ended:
        detail = (
            "The recording was decoded by an earlier version, or never: retry the job with the same options."
        )
    return Problem(409, "no_peaks", "No wave form yet", detail, job_status=str(job.status))
