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

from stt import db
from stt.jobs import lifecycle, lookup, options, results
from stt.jobs.model import Job, Status
from tests.support.jobs import SETTINGS, beat, claim, complete, expire, new

ALLOWED = {
    ("pending", "processing"), ("pending", "cancelled"),
    ("pending", "failed"),  # its recording is gone
    ("processing", "completed"), ("processing", "failed"), ("processing", "cancelled"),
    ("processing", "pending"),
    ("completed", "pending"), ("failed", "pending"), ("cancelled", "pending"),
}  # fmt: skip
MAX_ATTEMPTS = 3
NUMBER = st.integers(0, 999)
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

    # What is drawn must not depend on who won a race in the database: numbers are, to index what is there.

    @rule(which=NUMBER)
    def lose(self, which: int) -> None:
        """A worker goes silent, and another one takes its job."""
        if self.held:
            self.do(expire_if_leased(self.pool, self.held[which % len(self.held)]))
        self.do(lifecycle.release_expired(self.pool, max_attempts=MAX_ATTEMPTS))
        self.take()

    @rule(which=NUMBER, what=NUMBER)
    def write_late(self, which: int, what: int) -> None:
        """A worker that was thought dead comes back and writes."""
        if len(self.held) > 1:
            job = self.held[which % (len(self.held) - 1)]
            writes = self._writes(job)
            self.do(as_holder(job, writes[what % len(writes)]))

    @rule(choices=st.lists(st.tuples(st.booleans(), NUMBER, NUMBER), min_size=1, max_size=3))
    def act(self, choices: list[tuple[bool, int, int]]) -> None:
        """One to three of the things that can happen to a job, at once, from several connections."""
        actions = [self._choose(*choice) for choice in choices]

        async def together() -> None:
            await asyncio.gather(*(action() for action in actions))

        self.do(together())

    def _choose(self, by_worker: bool, which: int, what: int) -> Callable[[], Awaitable[Any]]:
        if by_worker and self.held:
            job = self.held[which % len(self.held)]
            writes = self._writes(job)
            return lambda: as_holder(job, writes[what % len(writes)])
        asked = {"language": "de" if which % 2 else "", "diarize": which % 4 > 1}
        deeds = self._deeds(self.made[which % len(self.made)], asked)
        return deeds[what % len(deeds)]

    def _deeds(self, job: Job, fields: dict[str, Any]) -> list[Callable[[], Awaitable[Any]]]:
        """What people and maintenance do."""
        pool = self.pool
        asked = options.parse(fields, SETTINGS)
        return [
            lambda: lifecycle.request_cancel(pool, job.id),
            lambda: lifecycle.restart(pool, job, asked),
            lambda: lifecycle.delete(pool, job.id),
            lambda: expire_if_leased(pool, job),
            lambda: lifecycle.release_expired(pool, max_attempts=MAX_ATTEMPTS),
        ]

    def _writes(self, job: Job) -> list[Callable[[], Awaitable[Any]]]:
        """What the worker with this claim does."""
        pool = self.pool
        return [
            lambda: beat(pool, job, 0.5),
            lambda: results.save_span(pool, job, number=0, start=0, end=1, segments=[{"text": "a"}]),
            lambda: complete(pool, job),
            lambda: fail_as_workers_do(pool, job),
            lambda: lifecycle.fail(pool, job, code="x", message="x"),
            lambda: lifecycle.hand_back(pool, job),
            lambda: lifecycle.finish_cancel(pool, job),
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
        return await lifecycle.retry_later(pool, job, delay=0, code="x", message="x")
    return await lifecycle.fail(pool, job, code="x", message="x")


async def as_holder(job: Job, act: Callable[[], Awaitable[Any]]) -> None:
    row = await act()
    assert not isinstance(row, Job) or row.claim == job.claim, "an old claim has written"


async def expire_if_leased(pool: asyncpg.Pool, job: Job) -> None:
    found = await lookup.get(pool, job.id)
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
