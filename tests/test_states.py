"""Claims, progress, lease expiry, cancels, retries, deletes and completions in random order, several at once.

A trigger in the database notes every change of status, so that a forbidden one cannot hide between two
looks at the row.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stt import db, jobs, options
from stt.jobs import Job, Status
from tests.test_jobs import SETTINGS, beat, claim, complete, expire, new

ALLOWED = {
    ("pending", "processing"), ("pending", "cancelled"),
    ("pending", "failed"),  # its recording is gone
    ("processing", "completed"), ("processing", "failed"), ("processing", "cancelled"),
    ("processing", "pending"),
    ("completed", "pending"), ("failed", "pending"), ("cancelled", "pending"),
}  # fmt: skip
MAX_ATTEMPTS = 3
WATCH = """
create table seen (id uuid, before text, after text, old_claim bigint, claim bigint, asked boolean);
create function watch() returns trigger language plpgsql as $$ begin
    insert into seen values (new.id, old.status, new.status, old.claim, new.claim, old.cancel_requested);
    return new;
end $$;
create trigger watch after update on jobs for each row execute function watch();
"""


class Jobs(RuleBasedStateMachine):
    """Some jobs, and every claim that was ever handed out, the stale ones too."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.held: list[Job] = []
        self.made: list[Job] = []

    def do(self, awaitable: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await awaitable

        return self.loop.run(run())

    @initialize()
    def connect(self) -> None:
        self.pool: asyncpg.Pool = self.do(db.create_pool(self.url, min_size=3, max_size=3))
        self.do(self.pool.execute("truncate jobs cascade; truncate seen"))
        self.create()

    @precondition(lambda self: len(self.made) < 3)  # few, so that stale claims on them are many
    @rule()
    def create(self) -> None:
        self.made.append(self.do(new(self.pool)))

    @rule()
    def take(self) -> None:
        if job := self.do(claim(self.pool)):
            self.held.append(job)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A worker goes silent, and another one takes its job."""
        self.do(expire_if_leased(self.pool, data.draw(st.sampled_from(self.held))))
        self.do(jobs.release_expired(self.pool, max_attempts=MAX_ATTEMPTS))
        self.take()

    @precondition(lambda self: len(self.held) > 1)
    @rule(data=st.data())
    def write_late(self, data: st.DataObject) -> None:
        """A worker that was thought dead comes back and writes."""
        job = data.draw(st.sampled_from(self.held[:-1]))
        self.do(as_holder(job, data.draw(st.sampled_from(self._writes(job)))))

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """One to three of the things that can happen to a job, at once, from several connections."""
        actions = [self._choose(data) for _ in range(data.draw(st.integers(1, 3)))]

        async def together() -> None:
            await asyncio.gather(*(action() for action in actions))

        self.do(together())

    def _choose(self, data: st.DataObject) -> Callable[[], Awaitable[Any]]:
        pool = self.pool
        made = data.draw(st.sampled_from(self.made))
        asked = options.parse({"language": data.draw(st.sampled_from(["", "de"]))}, SETTINGS)
        anybody: list[Callable[[], Awaitable[Any]]] = [
            lambda: jobs.request_cancel(pool, made.id),
            lambda: jobs.restart(pool, made, asked),
            lambda: jobs.delete(pool, made.id),
            lambda: jobs.fail_waiting(pool, made.id, code="file_gone", message="x"),
            lambda: expire_if_leased(pool, made),
            lambda: jobs.release_expired(pool, max_attempts=MAX_ATTEMPTS),
        ]
        if not self.held:
            return data.draw(st.sampled_from(anybody))
        if data.draw(st.booleans()):
            return data.draw(st.sampled_from(anybody))
        job = data.draw(st.sampled_from(self.held))
        act = data.draw(st.sampled_from(self._writes(job)))
        return lambda: as_holder(job, act)

    def _writes(self, job: Job) -> list[Callable[[], Awaitable[Any]]]:
        pool = self.pool
        return [
            lambda: beat(pool, job, 0.5),
            lambda: jobs.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "a"}]),
            lambda: complete(pool, job),
            lambda: fail_as_workers_do(pool, job),
            lambda: jobs.fail(pool, job, code="x", message="x"),
            lambda: jobs.hand_back(pool, job),
            lambda: jobs.cancelled_as_asked(pool, job),
        ]

    @invariant()
    def only_allowed_transitions(self) -> None:
        if not hasattr(self, "pool"):
            return
        for row in self.do(self.pool.fetch("select * from seen")):
            change = (row["before"], row["after"])
            assert change[0] == change[1] or change in ALLOWED, change
            taken = change == ("pending", "processing")
            assert row["claim"] > row["old_claim"] if taken else row["claim"] == row["old_claim"]
            if row["asked"] and row["before"] == "processing":
                assert row["after"] in ("processing", "cancelled"), "something came after a cancel"
        for row in self.do(self.pool.fetch("select * from jobs")):
            self._check(row)

    def _check(self, row: asyncpg.Record) -> None:
        status = Status(row["status"])
        assert 0 <= row["attempt"] <= MAX_ATTEMPTS
        assert (row["worker"] is not None) == (status is Status.PROCESSING)
        if status is Status.COMPLETED:
            assert row["transcription_text"] == "hello"
            assert row["progress"] == 1
        if status is Status.FAILED:
            assert row["error_message"]

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.do(self.pool.close())
        self.loop.close()


async def fail_as_workers_do(pool: asyncpg.Pool, job: Job) -> Job | None:
    if job.attempt < MAX_ATTEMPTS:
        return await jobs.retry_later(pool, job, delay=0, code="x", message="x")
    return await jobs.fail(pool, job, code="x", message="x")


async def as_holder(job: Job, act: Callable[[], Awaitable[Any]]) -> None:
    row = await act()
    assert not isinstance(row, Job) or row.claim == job.claim, "an old claim has written"


async def expire_if_leased(pool: asyncpg.Pool, job: Job) -> None:
    found = await jobs.get(pool, job.id)
    if found and found.status is Status.PROCESSING:
        # The status may change before the update: then its check refuses, as it should.
        with contextlib.suppress(asyncpg.CheckViolationError):
            await expire(pool, job)


def test_no_order_of_events_makes_a_forbidden_transition(database_url: str) -> None:
    asyncio.run(_watch(database_url))
    machine = type("Machine", (Jobs,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip


async def _watch(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(WATCH)
    await connection.close()
