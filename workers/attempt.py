"""The task behind a ticket: claim the best row, run the engine, save its spans, finish.

Every write carries the claim. Once a write finds the claim gone, the attempt ends and writes nothing more.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncpg
from arq import ArqRedis

from stt import codes
from stt.codes import ErrorCode, JobWarning, Stage, WarningCode, given_up
from stt.jobs import lifecycle, lookup, messages, results, tickets
from stt.jobs.messages import current
from stt.jobs.model import Job
from stt.outages import UNAVAILABLE
from stt.pubsub import Message, publish
from stt.settings import Settings
from stt.storage import Storage
from stt.transcript import formats, passages, speakers
from stt.transcript.schema import Segment, Turn
from workers.engine.handle import EngineDied, EngineHung, EngineProcess
from workers.engine.protocol import ErrorEvent, Event, SpanEvent, StageEvent, TranscribeRequest, WarningEvent
from workers.failures import AttemptError, PermanentError, Stop, Stopped, StorageError, TransientError

log = logging.getLogger(__name__)

T = TypeVar("T")

_HEARTBEAT_SECONDS = 1.0
_PUBLISH_SECONDS = 0.25
_RETRY_SECONDS = 0.5


@dataclass
class Context:
    """What the attempts of one worker share."""

    settings: Settings
    pool: asyncpg.Pool
    redis: ArqRedis
    storage: Storage
    engine: EngineProcess
    name: str
    attempt: Attempt | None = field(default=None, init=False)
    stopping: bool = field(default=False, init=False)
    idle_since: float = field(default_factory=time.monotonic, init=False)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def shut_down(self) -> None:
        """Hand the running job back and take no other."""
        self.stopping = True
        if self.attempt:
            await self.attempt.stop(Stop.SHUTDOWN)
        async with self.busy:  # a claim on its way is waited for: cut off, nobody would know who has the job
            pass


async def transcribe(ctx: dict[str, Any]) -> None:
    """A ticket says that there is work, not which: the claim decides. No row, no work."""
    context: Context = ctx["context"]
    async with context.busy:
        if not context.stopping:
            await _claim_and_try(context, ctx["job_id"])


async def _claim_and_try(context: Context, ticket: str) -> None:
    await tickets.acknowledge(context.redis, ticket)
    job = await lifecycle.claim_next(context.pool, worker=context.name, lease=context.settings.lease_seconds)
    if job is None:
        return
    context.attempt = Attempt(context, job)
    try:
        await context.attempt.run()
    finally:
        context.attempt = None
        context.idle_since = time.monotonic()


class Attempt:
    """One try at one job, from its claim to its end."""

    def __init__(self, context: Context, job: Job) -> None:
        self.context, self.job = context, job
        self.pool, self.settings = context.pool, context.settings
        self.warnings = list(job.warnings)
        self.spans = self.segments = 0
        self.turns: list[Turn] = []
        self._why: Stop | None = None
        self._renewed = time.monotonic()
        self._left: tuple[float, float] | None = None  # seconds to the end, and when that was told
        self._published = 0.0
        self._unsaved = False  # whether there are warnings that the row does not hold

    @property
    def about(self) -> dict[str, str]:
        """For the log: which job a line is about."""
        return {"job": str(self.job.id)}

    async def run(self) -> None:
        if self.context.stopping:  # asked to stop between the claim and now
            self._why = Stop.SHUTDOWN
        log.info("attempt %d begins", self.job.attempt, extra=self.about)
        await self._publish(current(self.job))
        keepers = [asyncio.create_task(keep) for keep in (self._keep_lease(), self._guard_lease())]
        try:
            await self._try()
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        log.info("attempt %d ends", self.job.attempt, extra=self.about)

    async def stop(self, why: Stop) -> None:
        """End the engine's work; the first reason given counts."""
        if self._why is None:
            self._why = why
            log.info("stopping: %s", why.value, extra=self.about)
        await self.context.engine.kill()

    async def _try(self) -> None:
        try:
            await self._recognise()
            await self._finish()
        except Stopped:
            await self.context.engine.kill()
        except (EngineDied, EngineHung) as error:
            if self._why is None:
                log.warning("the engine's last lines:\n%s", error.stderr_tail, extra=self.about)
                failure = TransientError(error.code, log=error.stderr_tail, **error.parameters)
                await self._fail(failure, sentence=str(error))
        except AttemptError as error:
            await self._fail(error)
        except UNAVAILABLE as error:  # and the lease ran out meanwhile
            log.warning("given up: %s", error, extra=self.about)
        except OSError as error:  # storage: full, read-only, gone
            log.exception("storage failed", extra=self.about)
            await self._fail(StorageError(ErrorCode.STORAGE_FAILED, error=str(error.strerror)))
        except asyncio.CancelledError:
            self._why = self._why or Stop.SHUTDOWN
            await self.context.engine.kill()
            await asyncio.shield(self._end())
            raise
        except Exception as error:  # a fault of ours must not leave the job to its lease
            log.exception("the attempt failed", extra=self.about)
            await self.context.engine.kill()
            await self._fail(TransientError(ErrorCode.INTERNAL, error=str(error)))
        await self._end()

    async def _end(self) -> None:
        """What is left to do after a stop from outside."""
        if self._why is Stop.CANCEL:
            await self._cancelled()
        elif self._why is Stop.SHUTDOWN:
            await self._hand_back()

    # The engine's events

    async def _recognise(self) -> None:
        if await self._is_lost():
            raise PermanentError(ErrorCode.FILE_GONE)
        async with self.context.storage.local_copy(self.job.file_path) as recording:
            await self._run_engine(await self._request(recording))

    async def _run_engine(self, request: TranscribeRequest) -> None:
        try:
            await self.context.engine.start()
        except OSError as error:
            raise TransientError(
                ErrorCode.ENGINE_DIED, reason="not_started", error=str(error.strerror)
            ) from error
        if self._why:  # there was nothing to kill when it was stopped
            raise Stopped
        async with aclosing(self.context.engine.transcribe(request)) as events:
            async for event in events:
                if self._why:
                    raise Stopped
                await self._on_event(event)

    async def _is_lost(self) -> bool:
        """Whether the recording is gone; where it is missing, others tell whether all the storage is away."""
        own = self.job.file_path
        if not await asyncio.to_thread(self.context.storage.lost, [own]):
            return False
        waiting = await self._patiently(lambda: lookup.waiting_files(self.pool))
        return own in await asyncio.to_thread(self.context.storage.lost, {*waiting.values(), own})

    async def _request(self, recording: Path) -> TranscribeRequest:
        """What the engine is asked: a retry begins after the last saved span."""
        job = self.job
        spans = await self._patiently(lambda: results.spans(self.pool, job))
        self.spans, self.segments = len(spans), sum(len(span["segments"]) for span in spans)
        return {
            "type": "transcribe",
            "job": str(job.id),
            "path": str(recording),
            "model": job.model,
            "language": job.requested_language or "",
            "task": job.task,
            "options": job.options,
            "less_memory": any(warning["code"] == WarningCode.LESS_MEMORY for warning in self.warnings),
            "resume": {
                "spans": len(spans),
                "end": spans[-1]["end"] if spans else 0.0,
                "segments": self.segments,
                "language": job.language,
                "complete": bool(spans) and spans[-1]["last"],
                "unsure": [span["unsure"] for span in spans if span["unsure"] is not None][-2:],
            },
        }

    async def _on_event(self, event: Event) -> None:
        match event["type"]:
            case "stage":
                await self._on_stage(event)
            case "language":
                self.job = replace(self.job, language=event["language"])
            case "span":
                await self._on_span(event)
            case "speakers":
                self.turns = event["turns"]
            case "warning":
                self._on_warning(event)
            case "done":
                # A retry keeps what the first try heard; nobody spoke at all: no language.
                language = event["language"] if self.segments else None
                duration = event.get("duration") or self.job.duration_seconds
                self.job = replace(self.job, language=language, duration_seconds=duration)
            case "error":
                if event.get("less_memory"):
                    self._warn(WarningCode.LESS_MEMORY)
                raise self._error_of(event)

    def _error_of(self, event: ErrorEvent) -> AttemptError:
        """The error that the engine reports."""
        code, kind = ErrorCode(event["code"]), TransientError
        if code is ErrorCode.STORAGE_UNREACHABLE:
            kind = StorageError
        elif event["kind"] == "permanent":
            return PermanentError(code, **event["parameters"])
        log = self.context.engine.tail if code is ErrorCode.ENGINE_FAILED else None
        return kind(code, log=log, **event["parameters"])

    async def _on_stage(self, event: StageEvent) -> None:
        progress = min(max(self.job.progress, event["progress"]), 0.999)  # 1 is for what is stored
        if event["left"] is not None:
            self._left = event["left"], time.monotonic()
        self.job = replace(
            self.job,
            stage=event["stage"],
            progress=progress,
            eta_seconds=self._eta(),
            duration_seconds=event.get("duration") or self.job.duration_seconds,
        )
        lost = (
            time.monotonic() - self._renewed > self.settings.lease_seconds
        )  # frozen: it may even be deleted
        if not lost and time.monotonic() - self._published >= _PUBLISH_SECONDS:
            self._published = time.monotonic()
            await self._publish(current(self.job))

    def _eta(self) -> float | None:
        """Seconds left, counted down from what the engine said last; None until there is a pace."""
        if self._left is None:
            return None
        left, told_at = self._left
        return round(max(0.0, left - (time.monotonic() - told_at)), 1)

    async def _on_span(self, event: SpanEvent) -> None:
        # A later try does not recognise this span again: its warnings are kept first, and so is the language
        # with the last one.
        if event["last"] or self._unsaved:
            await self._patiently(self._beat)
        saved = await self._patiently(
            lambda: results.save_span(
                self.pool,
                self.job,
                number=event["number"],
                start=event["start"],
                end=event["end"],
                segments=event["segments"],
                last=event["last"],
                peaks=base64.b64decode(event["peaks"]),
                unsure=event.get("unsure"),
            )
        )
        if not saved:
            await self.stop(Stop.LOST)
            return
        self.spans += 1
        first, self.segments = self.segments, self.segments + len(event["segments"])
        if event["segments"]:
            numbered = results.numbered(event["segments"], first)
            await self._publish(messages.segments(self.job, first, numbered))

    def _on_warning(self, event: WarningEvent) -> None:
        warning = cast(JobWarning, {key: value for key, value in event.items() if key != "type"})
        if "times" not in warning:
            self._add_warning(warning)
            return
        log.warning("%s: %s", warning["code"], warning["message"], extra=self.about)
        self.warnings = passages.add(self.warnings, warning)
        self._unsaved = True

    def _warn(self, code: WarningCode) -> None:
        self._add_warning(codes.warning(code))

    def _add_warning(self, warning: JobWarning) -> None:
        log.warning("%s: %s", warning["code"], warning["message"], extra=self.about)
        known = [(one["code"], one["message"]) for one in self.warnings]
        if (warning["code"], warning["message"]) not in known:
            self.warnings.append(warning)
            self._unsaved = True

    # Lease

    async def _keep_lease(self) -> None:
        """Renew the lease and keep the progress about once a second; see there whether to stop."""
        lease = self.settings.lease_seconds
        pause = min(_HEARTBEAT_SECONDS, lease / 5)
        while not self._has_lost():  # also while what was stopped comes to its end
            began = time.monotonic()
            try:
                await asyncio.wait_for(self._beat(), lease / 2)
                if not self._has_lost():
                    self._renewed = began
            except (*UNAVAILABLE, TimeoutError) as error:
                log.warning("the lease was not renewed: %s", error, extra=self.about)
            except Exception:  # a lease that is not kept ends the attempt
                log.exception("the lease was not renewed", extra=self.about)
            await asyncio.sleep(pause)

    def _has_lost(self) -> bool:
        return self._why is Stop.LOST

    async def _guard_lease(self) -> None:
        """By our own clock, end the engine before another worker could have the job.

        Apart from the renewal, which may hang for as long as it likes.
        """
        while self._why is None:
            left = self._renewed + self.settings.lease_seconds * 0.8 - time.monotonic()
            if left <= 0:
                await self.stop(Stop.LOST)
            await asyncio.sleep(left)

    async def _beat(self) -> None:
        job, warnings = self.job, list(self.warnings)
        row = await lifecycle.heartbeat(
            self.pool,
            job,
            lease=self.settings.lease_seconds,
            stage=job.stage or Stage.DECODE,
            progress=job.progress,
            eta_seconds=self._eta(),
            duration_seconds=job.duration_seconds,
            language=job.language,
            warnings=warnings,
        )
        self._unsaved = self._unsaved and warnings != self.warnings
        if row is None:
            await self.stop(Stop.LOST)
        elif row.cancel_requested:
            await self.stop(Stop.CANCEL)
        else:
            self.job = replace(self.job, updated_at=row.updated_at, warnings=row.warnings)

    # Ends

    async def _finish(self) -> None:
        """Publish the file, then commit the row: a crash in between leaves a file that no row names."""
        self.job = replace(self.job, stage=Stage.FINISH)
        spans = await self._patiently(lambda: results.spans(self.pool, self.job))
        if len(spans) != self.spans:
            raise TransientError(ErrorCode.SPANS_MISSING)
        segments: list[Segment] = [segment for span in spans for segment in span["segments"]]
        # Only now: spans are saved before speakers are known.
        segments = self._with_speakers(segments)
        text, file = await asyncio.to_thread(self._rendered, segments)
        key = self.context.storage.result_key(self.job.id, self.job.claim)
        await self.context.storage.write(key, file.encode())
        job = await self._patiently(
            lambda: lifecycle.complete(
                self.pool,
                self.job,
                text=text,
                segments=segments,
                file_path=key,
                language=self.job.language,
                duration_seconds=self.job.duration_seconds,
                warnings=self.warnings,
            )
        )
        if job is None and not await self._is_committed(key):
            await self.context.storage.delete(key)
            await self._cancelled()
        elif job is not None:
            await self._publish(current(job))

    def _with_speakers(self, segments: list[Segment]) -> list[Segment]:
        """A failure costs the names, never the text."""
        try:
            return speakers.assign(segments, speakers.ordered(self.turns))
        except Exception:
            log.exception("no word could be given to a speaker", extra=self.about)
            self._warn(WarningCode.SPEAKERS_FAILED)
            return segments

    def _rendered(self, segments: list[Segment]) -> tuple[str, str]:
        """The text, and the file with all that is known; a failure costs the form, never the text."""
        language, duration = self.job.language, self.job.duration_seconds
        try:
            document = formats.document(segments, language=language, duration=duration)
            return document["text"], formats.to_json(document)
        except Exception:
            log.exception("the result could not be brought into its form", extra=self.about)
            self._warn(WarningCode.RENDERING_FAILED)
            text = "".join(segment["text"] for segment in segments).strip()
            plain = {"text": text, "language": language, "duration": duration, "segments": segments}
            return text, json.dumps(plain, ensure_ascii=False)

    async def _is_committed(self, key: str) -> bool:
        """Whether a commit went through though PostgreSQL went away before it said so."""
        job = await self._patiently(lambda: lookup.get(self.pool, self.job.id, owner=None))
        if job is None or job.transcription_file_path != key:
            return False
        await self._publish(current(job))
        return True

    async def _fail(self, error: AttemptError, sentence: str | None = None) -> None:
        """End the attempt with an error.

        Args:
            error: What failed. A transient error makes the job wait for its next attempt, if one is left.
            sentence: The text for a person, if it says more than that of the error's code.
        """
        job, sentence, parameters = self.job, sentence or str(error), error.parameters
        log.warning("%s: %s", error.code, sentence, extra=self.about)
        reason: dict[str, Any] = {"code": error.code, "log": error.log, "warnings": self.warnings}
        given_back = isinstance(error, StorageError)
        spent = job.attempt >= self.settings.max_attempts and not given_back
        final = not isinstance(error, TransientError) or spent
        if final:
            if isinstance(error, TransientError):
                sentence = given_up(sentence, job.attempt)
                parameters = {**parameters, "attempts": job.attempt}
            ended = await self._patiently(
                lambda: lifecycle.fail(self.pool, job, message=sentence, parameters=parameters, **reason)
            )
        else:
            # An attempt that is given back does not count, but whoever fails again and again waits longer.
            delay = lifecycle.backoff(job.claim if given_back else job.attempt)
            ended = await self._patiently(
                lambda: lifecycle.retry_later(
                    self.pool, job, delay=delay, message=sentence, parameters=parameters,
                    given_back=given_back, **reason,
                )
            )  # fmt: skip
        if ended is None:
            await self._cancelled()
            return
        await self._publish(current(ended))
        if not final:
            await tickets.announce(self.context.redis, ended)

    async def _cancelled(self) -> None:
        """The job was asked to stop, or is not ours any more: then no row is found and nothing happens."""
        job = await self._patiently(lambda: lifecycle.finish_cancel(self.pool, self.job))
        if job:
            await self._publish(current(job))

    async def _hand_back(self) -> None:
        job = await self._patiently(lambda: lifecycle.hand_back(self.pool, self.job))
        if job is None:
            await self._cancelled()
            return
        await self._publish(current(job))
        await tickets.announce(self.context.redis, job)

    async def _publish(self, message: Message) -> None:
        await publish(self.context.redis, message)

    async def _patiently(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do it; while PostgreSQL is away wait and try again, as long as the lease may still be ours."""
        while True:
            try:
                return await do()
            except UNAVAILABLE as error:
                if time.monotonic() - self._renewed > self.settings.lease_seconds:
                    raise
                log.warning("waiting for the database: %s", error, extra=self.about)
                await asyncio.sleep(_RETRY_SECONDS)
