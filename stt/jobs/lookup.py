"""Finds jobs: one, a page, those that changed, those that wait.

A function with an `owner` finds the jobs of this owner only. None means all owners: for maintenance and
workers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg

from stt.db import queries
from stt.jobs.model import LOCAL, Connection, Job, Status

_PAGE = 500

# The place of a job in the list, newest first: its time of creation and its id.
Position = tuple[dt.datetime, UUID]


async def get(pool: Connection, job_id: UUID, *, owner: str | None = LOCAL, text: bool = False) -> Job | None:
    """A job by its id; None where the owner has no such job.

    Args:
        pool: The database.
        job_id: The job.
        owner: Whose job; None for anyone's.
        text: Whether to read its `transcription_text` too, which may be long.
    """
    return Job.of(await queries.get_job(pool, id=job_id, owner=owner, text=text))


async def with_place(pool: Connection, job: Job, *, owner: str | None = LOCAL) -> Job:
    """The job with its place in the queue, 1 being next, and when it will start, as far as both are known.

    Args:
        pool: The database.
        job: The job.
        owner: Whose job; None for anyone's.
    """
    if job.status is not Status.PENDING:
        return job
    position = await queries.queue_position(pool, id=job.id, owner=owner)
    start = position and await queries.estimated_start(pool, position=position)
    return replace(job, queue_position=position, estimated_start_at=start)


async def list_page(
    pool: Connection,
    *,
    owner: str | None = LOCAL,
    status: Status | None = None,
    q: str | None = None,
    limit: int = 50,
    after: Position | None = None,
) -> tuple[list[Job], Position | None]:
    """A page of jobs, newest first, and the position of its last job if more follow.

    Args:
        pool: The database.
        owner: Only jobs of this owner; None for all.
        status: Only jobs with this status.
        q: Only jobs whose file name contains this text, in upper or lower case.
        limit: Jobs per page.
        after: Where the page before ended; None for the first page.
    """
    before_created, before_id = after or (None, None)
    found = await jobs_of(
        queries.list_jobs(
            pool,
            owner=owner,
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


async def changed_since(
    pool: Connection, since: dt.datetime, *, owner: str | None = LOCAL
) -> AsyncGenerator[Job, None]:
    """Every job that has changed since a time, oldest change first.

    Args:
        pool: The database.
        since: The time by PostgreSQL's clock.
        owner: Only jobs of this owner; None for all.
    """
    after = UUID(int=0)
    while page := await jobs_of(
        queries.jobs_changed_since(pool, owner=owner, since=since, after=after, limit=_PAGE)
    ):
        for job in page:
            yield job
        since, after = page[-1].updated_at, page[-1].id


async def active(pool: Connection, *, owner: str | None = LOCAL) -> list[Job]:
    """Jobs that wait or run, oldest first."""
    return await jobs_of(queries.active_jobs(pool, owner=owner))


async def ended_among(pool: Connection, job_ids: Iterable[UUID], *, owner: str | None = LOCAL) -> list[Job]:
    """Those of some jobs that have ended, without their text.

    Args:
        pool: The database.
        job_ids: The jobs.
        owner: Only jobs of this owner; None for all.
    """
    return await jobs_of(queries.ended_among(pool, ids=list(job_ids), owner=owner))


async def server_time(pool: Connection) -> dt.datetime:
    """Now, by PostgreSQL's clock."""
    now: dt.datetime = await queries.server_time(pool)
    return now


async def queue_numbers(pool: Connection) -> list[Mapping[str, Any]]:
    """For each priority with waiting jobs: `due`, `delayed`, `oldest` (seconds), `audio` (seconds)."""
    return [row async for row in queries.queue_numbers(pool)]


async def job_numbers(pool: Connection) -> list[Mapping[str, Any]]:
    """`count` of the stored jobs by `status`, `model` and `error_code`, which is empty unless they failed."""
    return [row async for row in queries.job_numbers(pool)]


async def waiting_files(pool: Connection) -> dict[UUID, str]:
    """The storage keys of the recordings that workers will open, by job; of all owners."""
    return {row["id"]: row["key"] async for row in queries.waiting_files(pool)}


async def count_due(pool: Connection) -> int:
    """How many jobs of all owners could start now."""
    return int(await queries.count_due(pool))


async def stored_keys(pool: Connection) -> set[str]:
    """Every storage key that a row names, of all owners."""
    return {row["key"] async for row in queries.stored_keys(pool)}


async def jobs_of(rows: Any) -> list[Job]:
    """The jobs of the rows of a query."""
    return [job_of(row) async for row in rows]


def job_of(row: asyncpg.Record) -> Job:
    """The job of a row."""
    job = Job.of(row)
    assert job is not None
    return job
