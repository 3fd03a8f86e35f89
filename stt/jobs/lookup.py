"""Finds jobs: one, a page, those that changed, those that wait."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg

from stt.db import queries
from stt.jobs.model import Connection, Job, Status
from stt.web.problems import Problem

_PAGE = 500


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
    cursor: str | None = None,
) -> tuple[list[Job], str | None]:
    """A page of jobs, newest first, and the cursor of the next page if there is one.

    Raises:
        Problem: 422, the cursor is none of ours.
    """
    before_created, before_id = _read_cursor(cursor)
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
    return page, _cursor(page[-1]) if len(found) > limit else None


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at.isoformat()}|{job.id}".encode()).decode()


def _read_cursor(cursor: str | None) -> tuple[dt.datetime | None, UUID | None]:
    if not cursor:
        return None, None
    try:
        created, _, job_id = base64.urlsafe_b64decode(cursor).decode().partition("|")
        # asyncpg takes years from 1 to 9999 in UTC, whatever the zone: no real cursor comes near.
        when = dt.datetime.fromisoformat(created).astimezone(dt.UTC)
        return when, UUID(job_id)
    except (binascii.Error, ValueError, OverflowError):
        raise Problem(
            422, "bad_cursor", "Bad cursor", "cursor: take it from next_cursor of the page before"
        ) from None


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
