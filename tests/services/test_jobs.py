"""Every transition of a job is one conditional statement, and a claim that is gone writes nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiohttp.test_utils import TestClient

from stt.codes import WarningCode
from stt.jobs import actions, lifecycle, lookup, options, results
from stt.jobs.errors import JobNotFound
from stt.jobs.model import Job, Status
from stt.web.context import SERVICES
from tests.support.jobs import SETTINGS, again, beat, claim, complete, expire, new


async def test_a_job_is_claimed_once(pool: asyncpg.Pool) -> None:
    made = [await new(pool) for _ in range(5)]
    claimed = await asyncio.gather(*(claim(pool) for _ in range(8)))
    assert sorted(job.id for job in claimed if job) == sorted(job.id for job in made)


async def test_a_claim_only_grows(pool: asyncpg.Pool) -> None:
    await new(pool)
    first = await claim(pool)
    assert first
    await lifecycle.hand_back(pool, first)
    second = await claim(pool)
    assert second
    assert second.claim > first.claim


async def test_an_old_claim_writes_nothing(pool: asyncpg.Pool) -> None:
    await new(pool)
    old = await claim(pool)
    assert old
    await expire(pool, old)
    await lifecycle.release_expired(pool, max_attempts=3)
    now = await claim(pool)
    assert now
    assert await beat(pool, old) is None
    assert not await results.save_span(pool, old, number=0, start=0, end=1, segments=[])
    assert await complete(pool, old) is None
    assert await lifecycle.fail(pool, old, code="x", message="x") is None
    assert await lifecycle.retry_later(pool, old, delay=0, code="x", message="x") is None
    assert await lifecycle.hand_back(pool, old) is None
    assert await lifecycle.finish_cancel(pool, old) is None
    assert (await again(pool, now)).status is Status.PROCESSING
    assert await complete(pool, now)


async def test_an_expired_lease_spends_the_attempt_until_they_are_used_up(pool: asyncpg.Pool) -> None:
    job = await new(pool)
    for attempt in (1, 2, 3):
        held = await claim(pool)
        assert held
        assert held.attempt == attempt
        await expire(pool, held)
        await lifecycle.release_expired(pool, max_attempts=3)
    failed = await again(pool, job)
    assert (failed.status, failed.error_code) == (Status.FAILED, "worker_lost")
    assert failed.error_message
    assert "3 attempts" in failed.error_message


async def test_a_job_handed_back_has_its_attempt_again(pool: asyncpg.Pool) -> None:
    await new(pool)
    for _ in range(5):
        job = await claim(pool)
        assert job
        assert job.attempt == 1
        assert await lifecycle.hand_back(pool, job)


async def test_a_job_that_failed_for_a_passing_reason_says_when_it_is_tried_again(
    pool: asyncpg.Pool,
) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    waiting = await lifecycle.retry_later(pool, job, delay=40, code="engine_died", message="It died.")
    assert waiting
    shown = waiting.public()
    assert (shown["status"], shown["error_code"]) == ("pending", "engine_died")
    wait = dt.datetime.fromisoformat(shown["retry_at"]) - waiting.updated_at
    assert wait.total_seconds() == pytest.approx(40, abs=1)
    assert await claim(pool) is None


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_when_its_worker_sees(
    pool: asyncpg.Pool,
) -> None:
    waiting = await new(pool)
    cancelled = await lifecycle.request_cancel(pool, waiting.id)
    assert cancelled
    assert cancelled.status is Status.CANCELLED
    await new(pool)
    running = await claim(pool)
    assert running
    asked = await lifecycle.request_cancel(pool, running.id)
    assert asked
    assert asked.status is Status.PROCESSING
    seen = await beat(pool, running)
    assert seen
    assert seen.cancel_requested
    assert await complete(pool, running) is None  # nothing comes after a cancel
    assert await lifecycle.fail(pool, running, code="x", message="x") is None
    assert await lifecycle.finish_cancel(pool, running)
    assert await lifecycle.request_cancel(pool, running.id) is None


async def test_progress_never_goes_back(pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    assert (await beat(pool, job, 0.5)).progress == 0.5  # type: ignore[union-attr]
    assert (await beat(pool, job, 0.2)).progress == 0.5  # type: ignore[union-attr]


async def test_a_completed_job_has_its_text_and_version_1(pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    done = await complete(pool, job)
    assert done
    assert (done.status, done.progress, done.transcription_text) == (Status.COMPLETED, 1.0, "hello")
    assert await results.segments(pool, done) == [{"id": 0, "start": 0.0, "end": 1.0, "text": "hello"}]
    assert await pool.fetchval("select version from transcripts where job_id = $1", job.id) == 1


async def test_a_high_job_starts_before_500_that_wait(pool: asyncpg.Pool) -> None:
    for _ in range(500):
        await new(pool)
    low = await new(pool, priority="low")
    high = await new(pool, priority="high")
    assert (await again(pool, high)).queue_position == 1
    assert (await again(pool, low)).queue_position == 502
    first = await claim(pool)
    assert first
    assert first.id == high.id


async def test_owners_take_turns(pool: asyncpg.Pool) -> None:
    for _ in range(20):
        await new(pool, "many")
    single = await new(pool, "single")
    order = []
    for _ in range(3):
        job = await claim(pool)
        assert job
        order.append(job.owner)
        await complete(pool, job)
    assert (await again(pool, single)).status is Status.COMPLETED
    assert order.index("single") <= 1


async def test_a_single_job_waits_for_one_running_job_of_an_owner_with_a_thousand(
    pool: asyncpg.Pool,
) -> None:
    await asyncio.gather(*(new(pool, "many") for _ in range(1000)))
    running = [await claim(pool), await claim(pool)]  # one for each of two workers
    single = await new(pool, "single")
    assert running[1]
    await complete(pool, running[1])
    following = await claim(pool)
    assert following
    assert following.id == single.id


async def test_waiting_raises_a_low_job_above_newer_normal_ones(pool: asyncpg.Pool) -> None:
    low = await new(pool, priority="low")
    await pool.execute("update jobs set created_at = created_at - interval '9 hours' where id = $1", low.id)
    await new(pool)
    first = await claim(pool)
    assert first
    assert first.id == low.id


async def test_a_stream_of_normal_jobs_of_one_owner_does_not_starve_its_low_one(
    pool: asyncpg.Pool,
) -> None:
    low = await new(pool, priority="low")
    await pool.execute("update jobs set created_at = created_at - interval '1 day'")
    for _ in range(3):
        await new(pool)
        job = await claim(pool)
        assert job
        await complete(pool, job)
        if job.id == low.id:
            return
    raise AssertionError("the low job starves")


async def test_what_is_tried_again_has_not_aged_past_an_urgent_new_one(pool: asyncpg.Pool) -> None:
    await new(pool)
    await pool.execute("update jobs set created_at = created_at - interval '1 day'")
    old = await claim(pool)
    assert old
    failed = await lifecycle.fail(pool, old, code="x", message="x")
    assert failed
    await restart(pool, failed)
    urgent = await new(pool, priority="high")
    first = await claim(pool)
    assert first
    assert first.id == urgent.id


async def test_an_owner_with_a_long_queue_does_not_keep_others_waiting_by_its_age(
    pool: asyncpg.Pool,
) -> None:
    for _ in range(20):
        await new(pool, "many")
    await pool.execute("update jobs set created_at = created_at - interval '1 day'")
    first = await claim(pool)
    assert first
    await new(pool, "single")
    await complete(pool, first)
    second = await claim(pool)
    assert second
    assert second.owner == "single"


async def test_pages_of_the_list_hold_every_job_once_newest_first(pool: asyncpg.Pool) -> None:
    made = [(await new(pool)).id for _ in range(7)]
    seen: list[UUID] = []
    after = None
    while True:
        page, after = await lookup.list_page(pool, limit=3, after=after)
        seen += [job.id for job in page]
        if after is None:
            break
        await new(pool)  # what comes meanwhile does not shift the pages
    assert seen == made[::-1]


async def done(pool: asyncpg.Pool, *warnings: str, **asked: Any) -> Job:
    """A completed job of one span."""
    await new(pool, **asked)
    job = await claim(pool)
    assert job
    assert await results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "old"}], last=True)
    ended = await lifecycle.complete(
        pool, job, text="old", segments=[{"text": "old"}], file_path="results/x", language="en",
        duration_seconds=1.0, warnings=[{"code": code, "message": "It was so."} for code in warnings],
    )  # fmt: skip
    assert ended
    return ended


async def restart(pool: asyncpg.Pool, job: Job, **asked: Any) -> Job:
    restarted = await lifecycle.restart(pool, job, options.parse({**options.of_job(job), **asked}, SETTINGS))
    assert restarted
    assert restarted.status is Status.PENDING
    return restarted


WITH_SPEAKERS = {"diarize": True}


@pytest.mark.parametrize(
    ("warnings", "before", "after"),
    [
        (["speakers_failed"], WITH_SPEAKERS, {}),
        ([], WITH_SPEAKERS, {"max_speakers": 2}),
        ([], {}, WITH_SPEAKERS),
        ([], WITH_SPEAKERS, {"diarize": False}),
    ],
)
async def test_a_completed_job_keeps_its_spans_where_only_its_speakers_are_to_be_told_apart(
    pool: asyncpg.Pool, warnings: list[str], before: dict[str, Any], after: dict[str, Any]
) -> None:
    job = await done(pool, "damaged_audio", *warnings, **before)
    restarted = await restart(pool, job, **after)
    [span] = await results.spans(pool, restarted)
    assert span["last"]
    assert restarted.language == "en"
    assert [warning["code"] for warning in restarted.warnings] == ["damaged_audio"]
    assert (restarted.transcription_text, restarted.transcription_file_path) == ("old", "results/x")


@pytest.mark.parametrize(
    ("warnings", "before", "after"),
    [
        ([], {}, {}),
        ([], {}, {"priority": "high"}),
        ([], WITH_SPEAKERS, {}),
        (["speakers_failed"], WITH_SPEAKERS, {"language": "de"}),
        ([], {}, {"hotwords": "Magozwe", "diarize": True}),
    ],
)
async def test_a_completed_job_of_which_nothing_is_missing_is_recognised_anew(
    pool: asyncpg.Pool, warnings: list[str], before: dict[str, Any], after: dict[str, Any]
) -> None:
    restarted = await restart(pool, await done(pool, *warnings, **before), **after)
    assert await results.spans(pool, restarted) == []
    assert restarted.language == restarted.requested_language
    assert restarted.warnings == []


@pytest.mark.parametrize("end", [Status.FAILED, Status.CANCELLED])
async def test_a_job_that_came_to_nothing_keeps_its_spans_while_its_options_are_the_same(
    pool: asyncpg.Pool, end: Status
) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    assert await results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "a"}])
    if end is Status.FAILED:
        await lifecycle.fail(pool, job, code="x", message="x")
    else:
        await lifecycle.request_cancel(pool, job.id)
        await lifecycle.finish_cancel(pool, job)
    assert (await again(pool, job)).status is end
    kept = await restart(pool, job, diarize=True)
    assert len(await results.spans(pool, kept)) == 1
    await lifecycle.request_cancel(pool, job.id)
    assert await results.spans(pool, await restart(pool, job, language="de")) == []


async def test_options_that_a_job_has_left_since_are_begun_anew_as_their_language_is_forgotten(
    pool: asyncpg.Pool,
) -> None:
    job = await done(pool)
    await restart(pool, job, language="de")
    await lifecycle.request_cancel(pool, job.id)
    assert await results.spans(pool, await restart(pool, job)) == []


async def test_a_cancelled_job_whose_spans_are_all_known_keeps_what_there_was_to_warn_of(
    pool: asyncpg.Pool,
) -> None:
    job = await done(pool, "damaged_audio", WarningCode.LESS_MEMORY)
    waiting = await restart(pool, job, diarize=True)
    await lifecycle.request_cancel(pool, waiting.id)
    restarted = await restart(pool, waiting, diarize=False)
    assert [warning["code"] for warning in restarted.warnings] == ["damaged_audio"]


def test_each_wait_is_about_twice_the_one_before_and_no_two_jobs_wait_alike() -> None:
    for attempt, seconds in ((1, 5), (2, 10), (3, 20), (30, 300)):
        waits = {lifecycle.backoff(attempt) for _ in range(50)}
        assert len(waits) > 40
        assert all(0.75 * seconds <= wait <= 1.25 * seconds for wait in waits)


async def test_an_attempt_that_is_given_back_waits_as_long_as_the_job_was_tried(pool: asyncpg.Pool) -> None:
    """However many other jobs were claimed before it."""
    await new(pool)
    job = await claim(pool)
    assert job and job.started_at
    for tried, seconds in ((0, 5), (40, 40), (4000, 300)):
        later = replace(job, updated_at=job.started_at + dt.timedelta(seconds=tried))
        waits = {lifecycle.outage_backoff(later) for _ in range(50)}
        assert all(0.75 * seconds <= wait <= 1.25 * seconds for wait in waits)


async def test_deleting_a_job_removes_all_that_hangs_on_it(pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    await results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "a"}])
    await complete(pool, job)
    gone = await lifecycle.delete(pool, job.id)
    assert gone
    assert (gone.file_path, gone.owner, gone.claim) == (job.file_path, job.owner, job.claim)
    for table in ("jobs", "spans", "transcripts"):
        assert await pool.fetchval(f"select count(*) from {table}") == 0
    assert not await results.save_span(pool, job, number=1, start=1, end=2, segments=[])


async def test_text_with_a_nul_is_stored(pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    assert await results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "a\x00b"}])
    [span] = await results.spans(pool, job)
    assert span["segments"] == [{"text": "ab"}]


OWN, OTHER = "own", "other"
Call = Callable[[asyncpg.Pool, Job, str | None], Awaitable[Any]]


async def changed(pool: asyncpg.Pool, job: Job, owner: str | None) -> list[Job]:
    since = job.created_at - dt.timedelta(seconds=1)
    return [found async for found in lookup.changed_since(pool, since, owner=owner)]


async def place(pool: asyncpg.Pool, job: Job, owner: str | None) -> int | None:
    return (await lookup.with_place(pool, job, owner=owner)).queue_position


# The status that the job must have, and the call.
OWNED: dict[str, tuple[Status, Call]] = {
    "get": (Status.PENDING, lambda pool, job, owner: lookup.get(pool, job.id, owner=owner)),
    "with_place": (Status.PENDING, place),
    "list_page": (
        Status.PENDING,
        lambda pool, _, owner: first_of(lookup.list_page(pool, owner=owner)),
    ),
    "changed_since": (Status.PENDING, changed),
    "active": (Status.PENDING, lambda pool, _, owner: lookup.active(pool, owner=owner)),
    "ended_among": (
        Status.CANCELLED,
        lambda pool, job, owner: lookup.ended_among(pool, [job.id], owner=owner),
    ),
    "request_cancel": (
        Status.PENDING,
        lambda pool, job, owner: lifecycle.request_cancel(pool, job.id, owner=owner),
    ),
    "restart": (
        Status.CANCELLED,
        lambda pool, job, owner: lifecycle.restart(pool, job, options.parse({}, SETTINGS), owner=owner),
    ),
    "delete": (Status.PENDING, lambda pool, job, owner: lifecycle.delete(pool, job.id, owner=owner)),
}


async def first_of(page: Awaitable[tuple[list[Job], Any]]) -> list[Job]:
    return (await page)[0]


@pytest.mark.parametrize("owner", [OWN, None])
@pytest.mark.parametrize("name", OWNED)
async def test_a_job_of_another_owner_is_not_found(name: str, owner: str | None, pool: asyncpg.Pool) -> None:
    status, call = OWNED[name]
    job = await new(pool, OWN)
    if status is Status.CANCELLED:
        assert await lifecycle.request_cancel(pool, job.id, owner=OWN)
    assert not await call(pool, job, OTHER)
    assert await call(pool, job, owner)


@pytest.mark.parametrize("owner", [OWN, None])
@pytest.mark.parametrize("name", ["cancel", "retry", "delete"])
async def test_an_action_finds_no_job_of_another_owner(
    name: str, owner: str | None, client: TestClient, pool: asyncpg.Pool
) -> None:
    assert client.app
    services = client.app[SERVICES]
    job = await new(pool, OWN)
    if name == "retry":
        assert await lifecycle.request_cancel(pool, job.id, owner=OWN)
    more = ({},) if name == "retry" else ()
    with pytest.raises(JobNotFound):
        await getattr(actions, name)(services, job.id, *more, owner=OTHER)
    before = await lookup.get(pool, job.id, owner=OWN)
    assert before
    assert before.status is (Status.CANCELLED if name == "retry" else Status.PENDING)
    await getattr(actions, name)(services, job.id, *more, owner=owner)
    after = await lookup.get(pool, job.id, owner=OWN)
    assert before != after


async def test_a_lookup_carries_the_text_only_if_asked_for(pool: asyncpg.Pool) -> None:
    job = await done(pool)
    short, whole = await lookup.get(pool, job.id), await lookup.get(pool, job.id, text=True)
    assert short
    assert whole
    assert (short.transcription_text, whole.transcription_text) == (None, "old")
    assert replace(whole, transcription_text=None) == short
