"""A worker without a model: a test says when it makes the calls of the real one."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
from arq import ArqRedis

from stt import pubsub
from stt.jobs import lifecycle, messages, results
from stt.jobs.messages import current, state
from stt.jobs.model import Job, NewJob
from stt.jobs.options import JobOptions

Segment = dict[str, Any]


def segment(text: str, start: float = 0.0, **more: Any) -> Segment:
    return {"start": start, "end": start + 1.0, "text": text, **more}


class Actor:
    """With `publish=False` the message of a call is lost, as when Redis is away."""

    def __init__(self, pool: asyncpg.Pool, redis: ArqRedis) -> None:
        self.pool, self.redis = pool, redis

    async def create(self, filename: str = "talk.mp3", *, publish: bool = True, **options: Any) -> Job:
        job_id = uuid4()
        new = NewJob(
            id=job_id,
            original_filename=filename,
            file_path=f"uploads/{job_id}",
            file_type="audio",
            file_size=187_404,
            duration_seconds=12.6,
            options=JobOptions(**{"model": "base", **options}),
        )
        job = await lifecycle.create(self.pool, new)
        if publish:
            await pubsub.publish(self.redis, state("created", job))
        return job

    async def claim(self) -> Job:
        job = await lifecycle.claim_next(self.pool, worker="actor", lease=600)
        assert job
        return await self.publish(job)

    async def running(self, filename: str = "talk.mp3", **options: Any) -> Job:
        await self.create(filename, **options)
        return await self.claim()

    async def beat(self, job: Job, progress: float, stage: str = "transcribe") -> Job:
        beaten = await lifecycle.heartbeat(
            self.pool,
            job,
            lease=600,
            stage=stage,
            progress=progress,
            eta_seconds=31.5,
            duration_seconds=12.6,
            language="en",
            warnings=[],
        )
        return await self.publish(beaten)

    async def say(self, job: Job, number: int, *segments: Segment, publish: bool = True) -> None:
        """A finished span."""
        first = len(await results.segments(self.pool, job))
        said = list(segments)
        assert await results.save_span(self.pool, job, number=number, start=0, end=1, segments=said)
        if publish:
            await pubsub.publish(self.redis, messages.segments(job, first, results.numbered(said, first)))

    async def complete(self, job: Job, language: str | None = "en", *, publish: bool = True) -> Job:
        spans = await results.spans(self.pool, job)
        segments = [segment for span in spans for segment in span["segments"]]
        done = await lifecycle.complete(
            self.pool,
            job,
            text=" ".join(segment["text"] for segment in segments),
            segments=segments,
            file_path=f"results/{job.id}/1.json",
            language=language,
            duration_seconds=12.6,
            warnings=[],
        )
        return await self.publish(done, publish=publish)

    async def fail(self, job: Job, code: str, message: str) -> Job:
        return await self.publish(await lifecycle.fail(self.pool, job, code=code, message=message))

    async def publish(self, job: Job | None, *, publish: bool = True) -> Job:
        assert job, "the claim was lost"
        if publish:
            await pubsub.publish(self.redis, current(job))
        return job
