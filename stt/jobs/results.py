"""Reads and writes what was recognised of a recording: spans, segments, transcripts, the waveform."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from stt.db import queries
from stt.jobs.model import Connection, Job
from stt.transcript.schema import Segment


async def segments(pool: Connection, job: Job) -> list[Segment]:
    """The segments known so far.

    They are those of the transcript if the job has ended and has one, otherwise those of its spans. A
    restarted job that failed or was cancelled keeps its older transcript.

    Returns:
        WhisperX segments, each with its number in the recording as ``id``.
    """
    if not (job.ended and job.has_transcript):
        return await recognised(pool, job)
    row = await latest_transcript(pool, job)
    return numbered(row["segments"] if row else [])


async def recognised(pool: Connection, job: Job) -> list[Segment]:
    """The segments as streamed during recognition, before diarization split any."""
    return numbered([segment for span in await spans(pool, job) for segment in span["segments"]])


def numbered(segments: Sequence[Segment], first: int = 0) -> list[Segment]:
    """Segments of a row, each with its number in the recording as ``id``: `first` and on."""
    return [{"id": number, **segment} for number, segment in enumerate(segments, first)]


async def latest_transcript(pool: Connection, job: Job) -> asyncpg.Record | None:
    """The newest version of the finished transcript: `version, language, model, segments, author`.

    A restarted job keeps its old one until there is a new one.
    """
    row: asyncpg.Record | None = await queries.latest_transcript(pool, id=job.id)
    return row


async def spans(pool: Connection, job: Job) -> list[asyncpg.Record]:
    """The spans already recognised for these options, in order.

    Each has `number, start, end, segments, last, unsure`. If one has `last`, the recording is complete.
    """
    rows = [row async for row in queries.get_spans(pool, id=job.id, options_hash=job.options_hash)]
    return _unbroken(rows)


async def peaks(pool: Connection, job: Job) -> list[tuple[float, bytes]]:
    """The waveform of what was decoded, by spans: the second at which each begins, and its peaks.

    The spans of all options count, because the recording is the same.
    """
    return [(row["start"], row["peaks"]) async for row in queries.get_peaks(pool, id=job.id)]


async def segments_since(
    pool: Connection, jobs: Sequence[Job], since: dt.datetime
) -> dict[UUID, list[Segment]]:
    """The segments that were saved since a time, each with its number in the recording as ``id``.

    Args:
        pool: The database.
        jobs: Whose segments.
        since: A time by PostgreSQL's clock.

    Returns:
        The segments by job, in order; a job without any is left out.
    """
    found: dict[UUID, list[Segment]] = {}
    async for row in queries.spans_since(pool, ids=[job.id for job in jobs], since=since):
        found.setdefault(row["id"], []).extend(numbered(row["segments"], row["first"]))
    return found


def _unbroken(rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    return [row for number, row in enumerate(rows) if row["number"] == number]


async def save_span(
    pool: Connection,
    job: Job,
    *,
    number: int,
    start: float,
    end: float,
    segments: list[Segment],
    last: bool = False,
    peaks: bytes | None = None,
    unsure: bool | None = None,
) -> bool:
    """Store a finished span; False if the worker no longer has the claim.

    Args:
        pool: The database.
        job: The job, with the claim of the worker.
        number: Which span it is, from 0.
        start: Where it begins, in seconds from the beginning of the recording.
        end: Where it ends, in the same seconds.
        segments: Its WhisperX segments, without numbers.
        last: Whether the recording ends with it.
        peaks: Its waveform, a byte for each tenth of a second.
        unsure: True if most windows had low confidence; a resumed attempt uses it to choose the beam.
            None: no speech, or not known.
    """
    row = await queries.save_span(
        pool,
        id=job.id,
        claim=job.claim,
        number=number,
        start=start,
        end=end,
        segments=segments,
        last=last,
        peaks=peaks,
        unsure=unsure,
    )
    return row is not None
