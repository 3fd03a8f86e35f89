"""The part of an attempt in which the engine works: request, events, saved spans."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import asyncpg
from arq import ArqRedis

from stt.codes import ErrorCode, JobWarning, WarningCode
from stt.jobs import lookup, messages, results
from stt.pubsub import publish
from stt.storage import Storage
from workers.attempt_metrics import AttemptMetrics
from workers.attempt_state import AttemptState
from workers.engine.handle import EngineProcess
from workers.engine.protocol import DoneEvent, ErrorEvent, Event, SpanEvent, StageEvent, TranscribeRequest
from workers.failures import AttemptError, PermanentError, Stop, Stopped, StorageError, TransientError
from workers.lease import Lease

_PUBLISH_SECONDS = 0.25


@dataclass
class Recognition:
    """Sends the job to the engine, and follows the engine's events."""

    pool: asyncpg.Pool
    redis: ArqRedis
    storage: Storage
    engine: EngineProcess
    state: AttemptState
    lease: Lease
    stop: Callable[[Stop], Awaitable[None]]
    counted: AttemptMetrics
    _published_at: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """Have the recording recognised and every span saved.

        Raises:
            AttemptError: The recording is gone, or the engine could not be started or reported an error.
            Stopped: `state.stop_reason` was set.
            EngineDied, EngineHung: See `EngineProcess.transcribe`.
        """
        if await self._is_file_gone():
            raise PermanentError(ErrorCode.FILE_GONE)
        async with self.storage.local_copy(self.state.job.file_path) as recording:
            await self._run_engine(await self.request(recording))

    async def _run_engine(self, request: TranscribeRequest) -> None:
        try:
            await self.engine.start()
        except OSError as error:
            reason = str(error.strerror)
            raise TransientError(ErrorCode.ENGINE_DIED, reason="not_started", error=reason) from error
        if self.state.stop_reason:  # there was no process to kill when it was set
            raise Stopped
        async with aclosing(self.engine.transcribe(request)) as events:
            async for event in events:
                if self.state.stop_reason:
                    raise Stopped
                await self._on_event(event)

    async def _is_file_gone(self) -> bool:
        """Whether the recording is gone. If all waiting files are missing, the storage is unavailable."""
        own = self.state.job.file_path
        if not await asyncio.to_thread(self.storage.lost, [own]):
            return False
        waiting = await self.lease.retry_while_unavailable(lambda: lookup.waiting_files(self.pool))
        return own in await asyncio.to_thread(self.storage.lost, {*waiting.values(), own})

    async def request(self, recording: Path) -> TranscribeRequest:
        """The request to the engine to go on after the last saved span; `recording` is a local file."""
        state, job = self.state, self.state.job
        spans = await self.lease.retry_while_unavailable(lambda: results.spans(self.pool, job))
        state.resumed = bool(spans)
        state.spans, state.segments = len(spans), sum(len(span["segments"]) for span in spans)
        return {
            "type": "transcribe",
            "path": str(recording),
            "model": job.model,
            "language": job.requested_language or "",
            "task": job.task,
            "options": job.options,
            "log": job.log_keys,
            "less_memory": any(warning["code"] == WarningCode.LESS_MEMORY for warning in state.warnings),
            "resume": {
                "spans": len(spans),
                "end": spans[-1]["end"] if spans else 0.0,
                "segments": state.segments,
                "language": job.language,
                "complete": bool(spans) and spans[-1]["last"],
                "unsure": [span["unsure"] for span in spans if span["unsure"] is not None][-2:],
            },
        }

    async def _on_event(self, event: Event) -> None:
        state = self.state
        match event["type"]:
            case "stage":
                await self._on_stage(event)
            case "language":
                state.job = replace(state.job, language=event["language"])
            case "span":
                await self._on_span(event)
            case "speakers":
                state.turns = event["turns"]
            case "warning":
                without_type = {key: value for key, value in event.items() if key != "type"}
                state.add_warning(cast(JobWarning, without_type))
            case "model":
                self.counted.model_loaded(event["seconds"])
            case "done":
                self._on_done(event)
            case "error":
                if event.get("less_memory"):
                    state.warn(WarningCode.LESS_MEMORY)
                raise self._error_of(event)

    async def _on_stage(self, event: StageEvent) -> None:
        self.state.on_stage(event)
        # If this process was frozen for longer than the lease, another worker may have the job.
        if self.lease.may_be_over or time.monotonic() - self._published_at < _PUBLISH_SECONDS:
            return
        self._published_at = time.monotonic()
        await publish(self.redis, messages.current(self.state.job))

    async def _on_span(self, event: SpanEvent) -> None:
        state = self.state
        # No later attempt recognises this span again, so its warnings are saved first. With the last span the
        # language is saved too.
        if event["last"] or not state.warnings_saved:
            await self.lease.retry_while_unavailable(self.lease.renew)
        saved = await self.lease.retry_while_unavailable(lambda: self._save(event))
        if not saved:
            await self.stop(Stop.LOST)
            return
        state.spans += 1
        first, state.segments = state.segments, state.segments + len(event["segments"])
        if event["segments"]:
            numbered = results.numbered(event["segments"], first)
            await publish(self.redis, messages.segments(state.job, first, numbered))

    async def _save(self, event: SpanEvent) -> bool:
        return await results.save_span(
            self.pool,
            self.state.job,
            number=event["number"],
            start=event["start"],
            end=event["end"],
            segments=event["segments"],
            last=event["last"],
            peaks=base64.b64decode(event["peaks"]),
            unsure=event.get("unsure"),
        )

    def _on_done(self, event: DoneEvent) -> None:
        state = self.state
        # If neither this attempt nor an earlier one saved a segment, nobody speaks, and there is no language.
        language = event["language"] if state.segments else None
        duration = event.get("duration") or state.job.duration_seconds
        state.job = replace(state.job, language=language, duration_seconds=duration)
        state.stage_seconds = event.get("seconds", {})

    def _error_of(self, event: ErrorEvent) -> AttemptError:
        code = ErrorCode(event["code"])
        if code is ErrorCode.STORAGE_UNREACHABLE:
            return StorageError(code, **event["parameters"])
        if event["kind"] == "permanent":
            return PermanentError(code, **event["parameters"])
        stderr_tail = self.engine.tail if code is ErrorCode.ENGINE_FAILED else None
        return TransientError(code, log=stderr_tail, **event["parameters"])
