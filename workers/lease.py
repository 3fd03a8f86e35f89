"""The lease of a claimed job: renewed about once a second, so that no other worker takes the job.

A lease is a time in the row of the job. When it is over, maintenance may give the job to another worker. A
claim is a number in that row: every claim has a higher one, and a write with an old claim changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import asyncpg
import structlog

from stt import tracebacks
from stt.codes import Stage
from stt.jobs import lifecycle
from stt.outages import UNAVAILABLE
from workers.attempt_state import AttemptState
from workers.failures import Stop

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

_HEARTBEAT_SECONDS = 1.0
_RETRY_SECONDS = 0.5
# The engine is ended after this part of the lease without a renewal: before another worker can have the job.
_GUARDED_SHARE = 0.8


class Lease:
    """The lease of one attempt."""

    def __init__(
        self, pool: asyncpg.Pool, state: AttemptState, seconds: float, stop: Callable[[Stop], Awaitable[None]]
    ) -> None:
        """A lease that has just been taken by a claim.

        Args:
            pool: The database.
            state: The job, and the progress that is written with each renewal.
            seconds: How long a lease is valid.
            stop: Ends the engine's work, for a reason.
        """
        self._pool, self._state, self._seconds, self._stop = pool, state, seconds, stop
        self._renewed_at = time.monotonic()

    @property
    def may_be_over(self) -> bool:
        """Whether the lease has not been renewed in time, so that another worker may have the job."""
        return time.monotonic() - self._renewed_at > self._seconds

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None, None]:
        """Renew the lease in the background, and end the engine if that fails for too long."""
        tasks = [asyncio.create_task(keep) for keep in (self._renew_regularly(), self._guard())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def renew(self) -> None:
        """Renew the lease and save the progress; stop if the row says so, or if the claim is gone."""
        state, warnings = self._state, list(self._state.warnings)
        job = state.job
        row = await lifecycle.heartbeat(
            self._pool,
            job,
            lease=self._seconds,
            stage=job.stage or Stage.DECODE,
            progress=job.progress,
            eta_seconds=state.eta,
            duration_seconds=job.duration_seconds,
            language=job.language,
            warnings=warnings,
        )
        state.warnings_saved = state.warnings_saved or warnings == state.warnings
        if row is None:
            await self._stop(Stop.LOST)
        elif row.cancel_requested:
            await self._stop(Stop.CANCEL)
        else:
            state.job = replace(state.job, updated_at=row.updated_at, warnings=row.warnings)

    async def retry_while_unavailable(self, do: Callable[[], Awaitable[T]]) -> T:
        """Call `do`, again and again while PostgreSQL is unavailable.

        Raises:
            UNAVAILABLE: The lease may be over by now.
        """
        while True:
            try:
                return await do()
            except UNAVAILABLE as error:
                if self.may_be_over:
                    raise
                log.warning("waiting for PostgreSQL", error=tracebacks.said(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _renew_regularly(self) -> None:
        pause = min(_HEARTBEAT_SECONDS, self._seconds / 5)
        while not self._state.has_lost_claim:  # also while a stopped attempt comes to its end
            began = time.monotonic()
            try:
                await asyncio.wait_for(self.renew(), self._seconds / 2)
                if not self._state.has_lost_claim:
                    self._renewed_at = began
            except (*UNAVAILABLE, TimeoutError) as error:
                log.warning(
                    "the lease was not renewed", error_type=type(error).__name__, error=tracebacks.said(error)
                )
            except Exception:  # without renewals the guard ends the attempt
                log.exception("the lease was not renewed")
            await asyncio.sleep(pause)

    async def _guard(self) -> None:
        """End the engine before another worker could have the job, by the clock of this process.

        It does not wait for the renewal, which may hang for any time.
        """
        while self._state.stop_reason is None:
            left = self._renewed_at + self._seconds * _GUARDED_SHARE - time.monotonic()
            if left <= 0:
                await self._stop(Stop.LOST)
            await asyncio.sleep(left)
