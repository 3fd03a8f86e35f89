"""Steps that maintenance repeats for ever, and what is known of each: when it last ended and succeeded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from stt.outages import UNAVAILABLE
from stt.telemetry import metrics
from stt.telemetry.health import Health, Unhealthy

log = structlog.stdlib.get_logger(__name__)

_STEP_SECONDS = 300.0  # the longest that a step may take
_GRACE_SECONDS = 60.0  # before a late step counts as a fault


class Step:
    """Something that is done again and again, with a pause in between."""

    def __init__(self, name: str, pause: float, do: Callable[[], Awaitable[None]]) -> None:
        """A step that has not begun.

        Args:
            name: For metrics and health.
            pause: Seconds between the end of one time and the next.
            do: What is done.
        """
        self.name = name
        self._pause, self._do = pause, do
        self._ended = self._succeeded = time.monotonic()
        self._problem = ""
        metrics.STEP_FAILURES.labels(name)
        metrics.STEP_SUCCESS.labels(name)

    async def repeat(self) -> None:
        """Do it for ever. A failure is logged and counted, and the step is repeated all the same."""
        while True:
            await self.do_once()
            await asyncio.sleep(self._pause)

    async def do_once(self) -> None:
        """Do it, and note how it ended."""
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                await self._do()
        except (*UNAVAILABLE, TimeoutError) as error:  # or a step took too long
            self._failed(error)
            log.warning("the database or Redis is away", step=self.name, error=self._problem)
        except Exception as error:
            self._failed(error)
            log.exception("a step failed", step=self.name)
        else:
            self._problem, self._succeeded = "", time.monotonic()
            metrics.STEP_SUCCESS.labels(self.name).set_to_current_time()
        finally:
            self._ended = time.monotonic()

    def _failed(self, error: Exception) -> None:
        metrics.STEP_FAILURES.labels(self.name).inc()
        self._problem = f"{type(error).__name__}: {error}"

    def checked_by(self, health: Health) -> None:
        """Have the health of the role tell of this step."""
        health.live[self.name] = self.check_repeats
        health.ready[self.name] = self.check_succeeds

    async def check_repeats(self) -> None:
        """Whether the step comes to an end, again and again; how it ends does not matter.

        Raises:
            Unhealthy: It hangs.
        """
        self._check(self._ended, self._pause + _STEP_SECONDS + _GRACE_SECONDS, "has not ended")

    async def check_succeeds(self) -> None:
        """Whether the step succeeds now and then.

        Raises:
            Unhealthy: It has not for too long.
        """
        self._check(self._succeeded, 3 * self._pause + _GRACE_SECONDS, "has not succeeded")

    def _check(self, last: float, limit: float, what: str) -> None:
        since = time.monotonic() - last
        if since > limit:
            raise Unhealthy(f"{what} for {since:.0f} s" + (f" ({self._problem})" if self._problem else ""))
