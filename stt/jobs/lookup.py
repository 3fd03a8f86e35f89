"""Finds jobs: one, a page, those that changed, those that wait."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg

from stt.db import queries
from stt.jobs.model import Connection, Job, Status

_PAGE = 500

# The place of a job in the list, newest first: its time of creation and its id.
Position = tuple[dt.datetime, UUID]


async def get(pool: Connection, job_id: UUID) -> Job | None:
    return Job.of(await queries.get_job(pool, id=job_id))


async def with_place(pool: Connection, job: Job) -> Job:
    """The job with its place in the queue, 1 being next, and when it will start, where that can be told."""
    if job.status is not Status.PENDING:
        return job
    position = await queries.queue_position(pool, id=job.id)
    start = position and await queries.estimated_start(pool, position=position)
    return replace(job, queue_position=position, estimated_start_at=start)


async def list_page(
    pool: Connection,
    *,
    status: Status | None = None,
    q: str | None = None,
    limit: int = 50,
    after: Position | None = None,
) -> tuple[list[Job], Position | None]:
    """A page of jobs, newest first, and the position of its last job if more follow.

    Args:
        pool: The database.
        status: Only jobs with this status.
        q: Only jobs whose file name contains this text, in upper or lower case.
        limit: Jobs a page.
        after: Where the page before ended; None for the first page.
    """
    before_created, before_id = after or (None, None)
    found = await _all(
        queries.list_jobs(
            pool,
            status=status,
            q=q,
            limit=limit + 1,
            before_created=before_created,
            before_id=before_id,
        )
    )
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    return page, (page[-1].created_at, page[-1].id)


async def changed_since(pool: Connection, since: dt.datetime) -> AsyncGenerator[Job, None]:
    """Every job that has changed since then, oldest change first."""
    after = UUID(int=0)
    while page := await _all(queries.jobs_changed_since(pool, since=since, after=after, limit=_PAGE)):
        for job in page:
            yield job
        since, after = page[-1].updated_at, page[-1].id


async def active(pool: Connection) -> list[Job]:
    """Jobs that wait or run, oldest first."""
    return await _all(queries.active_jobs(pool))


async def ended_among(pool: Connection, job_ids: Iterable[UUID]) -> list[Job]:
    """Those of some jobs that have ended, without their text."""
    return await _all(queries.ended_among(pool, ids=list(job_ids)))


async def server_time(pool: Connection) -> dt.datetime:
    """Now, by PostgreSQL's clock."""
    now: dt.datetime = await queries.server_time(pool)
    return now


async def waiting_files(pool: Connection) -> dict[UUID, str]:
    """The storage keys of the recordings that workers will open."""
    return {row["id"]: row["key"] async for row in queries.waiting_files(pool)}


async def count_due(pool: Connection) -> int:
    return int(await queries.count_due(pool))


async def stored_keys(pool: Connection) -> set[str]:
    return {row["key"] async for row in queries.stored_keys(pool)}


async def _all(rows: Any) -> list[Job]:
    return [_some(row) async for row in rows]


def _some(row: asyncpg.Record) -> Job:
    job = Job.of(row)
    assert job is not None
    return job
