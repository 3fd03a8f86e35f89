"""What a worker does for a ticket: claim the next job, have it recognised, store the transcript.

Every write carries the claim. Once a write finds the claim gone, the attempt ends and writes nothing more.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import structlog
from arq import ArqRedis
from structlog.contextvars import bound_contextvars

from stt import codes, tracebacks
from stt.codes import ErrorCode, Stage, WarningCode
from stt.jobs import lifecycle, lookup, messages, results, tickets
from stt.jobs.model import Job
from stt.outages import UNAVAILABLE
from stt.pubsub import Message, publish
from stt.settings import Settings
from stt.storage import Storage
from stt.transcript import formats, speakers
from stt.transcript.schema import Segment
from workers.attempt_metrics import HANDED_BACK, AttemptMetrics
from workers.attempt_state import AttemptState
from workers.engine.handle import EngineDied, EngineHung, EngineProcess
from workers.failures import AttemptError, Stop, Stopped, StorageError, TransientError
from workers.lease import Lease
from workers.recognition import Recognition

log = structlog.stdlib.get_logger(__name__)


@dataclass
class Context:
    """What the attempts of one worker share."""

    settings: Settings
    pool: asyncpg.Pool
    redis: ArqRedis
    storage: Storage
    engine: EngineProcess
    name: str  # of the worker, as the rows of its jobs give it
    attempt: Attempt | None = field(default=None, init=False)  # the one that runs
    stopping: bool = field(default=False, init=False)
    idle_since: float = field(default_factory=time.monotonic, init=False)  # seconds, by time.monotonic()
    busy: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)  # held while an attempt runs

    async def shut_down(self) -> None:
        """Hand the running job back and claim no other."""
        self.stopping = True
        if self.attempt:
            await self.attempt.stop(Stop.SHUTDOWN)
        async with self.busy:  # a claim is not interrupted: nobody would know who has the job
            pass


async def transcribe(ctx: dict[str, Any]) -> None:
    """Claim the next job and try it. A ticket names no job to claim; if none waits, nothing is done."""
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
    """One attempt at one job, from its claim to its end."""

    def __init__(self, context: Context, job: Job) -> None:
        self.context, self.pool = context, context.pool
        self.state = AttemptState(job)
        self.lease = Lease(context.pool, self.state, context.settings.lease_seconds, self.stop)
        self.counted = AttemptMetrics(self.state, context.settings)
        self.recognition = Recognition(
            context.pool, context.redis, context.storage, context.engine, self.state, self.lease, self.stop,
            self.counted,
        )  # fmt: skip

    async def run(self) -> None:
        """Do the job, and write how it ended. Nothing that goes wrong with a job is raised."""
        state = self.state
        if self.context.stopping:  # since the claim
            state.stop_reason = Stop.SHUTDOWN
        with bound_contextvars(**state.job.log_keys):
            log.info("attempt begins")
            await self._publish(messages.current(state.job))
            try:
                async with self.lease.kept():
                    await self._try()
            finally:
                self.counted.count()
            log.info("attempt ends")

    async def stop(self, reason: Stop) -> None:
        """End the engine's work; the first reason given counts."""
        if self.state.stop_reason is None:
            self.state.stop_reason = reason
            log.info("attempt is stopped", reason=reason.value, **self.state.job.log_keys)
        await self.context.engine.kill()

    async def _try(self) -> None:
        state, engine = self.state, self.context.engine
        try:
            await self.recognition.run()
            await self._finish()
        except Stopped:
            await engine.kill()
        except (EngineDied, EngineHung) as error:
            if state.stop_reason is None:
                await self._fail_by_engine(error)
        except AttemptError as error:
            await self._fail(error)
        except UNAVAILABLE as error:  # for longer than the lease
            log.warning("attempt given up", error_type=type(error).__name__, error=tracebacks.said(error))
        except OSError as error:  # the storage is full, read-only or unavailable
            log.exception("storage failed")
            await self._fail(StorageError(ErrorCode.STORAGE_FAILED, error=str(error.strerror)))
        except asyncio.CancelledError:
            state.stop_reason = state.stop_reason or Stop.SHUTDOWN
            await engine.kill()
            await asyncio.shield(self._end_stopped())
            raise
        except Exception as error:  # without this, the job would wait for its lease to end
            log.exception("the attempt failed")
            await engine.kill()
            await self._fail(TransientError(ErrorCode.INTERNAL, error=str(error)))
        await self._end_stopped()

    async def _end_stopped(self) -> None:
        """Write the end of an attempt that was stopped from outside."""
        if self.state.stop_reason is Stop.CANCEL:
            await self._finish_cancel()
        elif self.state.stop_reason is Stop.SHUTDOWN:
            await self._hand_back()

    async def _finish(self) -> None:
        """Write the file, then commit the row: a crash in between leaves a file that no row names."""
        state, storage = self.state, self.context.storage
        state.job, begun = replace(state.job, stage=Stage.FINISH), time.monotonic()
        spans = await self.lease.retry_while_unavailable(lambda: results.spans(self.pool, state.job))
        if len(spans) != state.spans:
            raise TransientError(ErrorCode.SPANS_MISSING)
        # Speakers are assigned now: they are not known when a span is saved.
        segments = _with_speakers(state, [segment for span in spans for segment in span["segments"]])
        text, file = await asyncio.to_thread(_rendered, state, segments)
        key = storage.result_key(state.job.id, state.job.claim)
        await storage.write(key, file.encode())
        job = await self.lease.retry_while_unavailable(lambda: self._complete(text, segments, key))
        state.stage_seconds[Stage.FINISH] = time.monotonic() - begun
        if job is None and not await self._is_committed(key):
            await storage.delete(key)
            await self._finish_cancel()
        elif job is not None:
            await self._ended(job)

    async def _complete(self, text: str, segments: list[Segment], key: str) -> Job | None:
        job = self.state.job
        return await lifecycle.complete(
            self.pool,
            job,
            text=text,
            segments=segments,
            file_path=key,
            language=job.language,
            duration_seconds=job.duration_seconds,
            warnings=self.state.warnings,
        )

    async def _is_committed(self, key: str) -> bool:
        """Whether a commit succeeded whose answer was lost, because PostgreSQL became unavailable."""
        job_id = self.state.job.id
        job = await self.lease.retry_while_unavailable(lambda: lookup.get(self.pool, job_id, owner=None))
        if job is None or job.transcription_file_path != key:
            return False
        await self._ended(job)
        return True

    async def _fail_by_engine(self, error: EngineDied | EngineHung) -> None:
        if isinstance(error, EngineDied):  # of one that hung, its handle has logged it
            log.error("the engine died", returncode=error.returncode)
        failure = TransientError(error.code, log=error.stderr_tail, **error.parameters)
        await self._fail(failure, sentence=str(error))

    async def _fail(self, error: AttemptError, sentence: str | None = None) -> None:
        """End the attempt with an error.

        Args:
            error: What failed. A transient error makes the job wait for its next attempt, if one is left.
            sentence: The text for a person, if it says more than that of the error's code.
        """
        job, sentence = self.state.job, sentence or str(error)
        log.warning("attempt failed", code=error.code)  # the sentence may quote the recording
        transient = isinstance(error, TransientError)
        spent = job.attempt >= self.context.settings.max_attempts and not isinstance(error, StorageError)
        final = spent or not transient
        write = self._fail_finally if final else self._retry_later
        ended = await self.lease.retry_while_unavailable(lambda: write(error, sentence))
        if ended is None:
            await self._finish_cancel()
            return
        await self._ended(ended)
        if not final:
            await tickets.announce(self.context.redis, ended)

    async def _fail_finally(self, error: AttemptError, sentence: str) -> Job | None:
        state, parameters = self.state, error.parameters
        if isinstance(error, TransientError):
            sentence = codes.given_up(sentence, state.job.attempt)
            parameters = {**parameters, "attempts": state.job.attempt}
        return await lifecycle.fail(
            self.pool, state.job, code=error.code, message=sentence, parameters=parameters, log=error.log,
            warnings=state.warnings,
        )  # fmt: skip

    async def _retry_later(self, error: AttemptError, sentence: str) -> Job | None:
        job, given_back = self.state.job, isinstance(error, StorageError)
        delay = lifecycle.outage_backoff(job) if given_back else lifecycle.backoff(job.attempt)
        return await lifecycle.retry_later(
            self.pool, job, delay=delay, code=error.code, message=sentence,
            parameters=error.parameters, log=error.log, warnings=self.state.warnings, given_back=given_back,
        )  # fmt: skip

    async def _finish_cancel(self) -> None:
        """Write that the job was cancelled. If another worker has the job, no row is changed."""
        job = await self.lease.retry_while_unavailable(
            lambda: lifecycle.finish_cancel(self.pool, self.state.job)
        )
        if job:
            await self._ended(job)

    async def _hand_back(self) -> None:
        """Give the job to another worker, without counting this attempt."""
        job = await self.lease.retry_while_unavailable(lambda: lifecycle.hand_back(self.pool, self.state.job))
        if job is None:
            await self._finish_cancel()
            return
        await self._ended(job, HANDED_BACK)
        await tickets.announce(self.context.redis, job)

    async def _ended(self, job: Job, outcome: str | None = None) -> None:
        """Count and tell how the attempt ended."""
        self.counted.ended(job, outcome)
        await self._publish(messages.current(job))

    async def _publish(self, message: Message) -> None:
        await publish(self.context.redis, message)


def _with_speakers(state: AttemptState, segments: list[Segment]) -> list[Segment]:
    """The segments with speakers; if that fails, without, and with a warning."""
    try:
        return speakers.assign(segments, speakers.ordered(state.turns))
    except Exception:
        log.exception("no word could be assigned to a speaker")
        state.warn(WarningCode.SPEAKERS_FAILED)
        return segments


def _rendered(state: AttemptState, segments: list[Segment]) -> tuple[str, str]:
    """The text, and the file with the whole transcript; if that fails, plain, and with a warning."""
    language, duration = state.job.language, state.job.duration_seconds
    try:
        document = formats.document(segments, language=language, duration=duration)
        return document["text"], formats.to_json(document)
    except Exception:
        log.exception("the result could not be brought into its form")
        state.warn(WarningCode.RENDERING_FAILED)
        text = "".join(segment["text"] for segment in segments).strip()
        plain = {"text": text, "language": language, "duration": duration, "segments": segments}
        return text, json.dumps(plain, ensure_ascii=False)
