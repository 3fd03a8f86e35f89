"""The messages about a job that are published, and which of them say that it has ended."""

from __future__ import annotations

from stt.jobs.model import Job
from stt.pubsub import Message

TERMINAL = {"completed", "failed", "cancelled"}


def about(event: str, job: Job) -> Message:
    """The message that says how a job stands."""
    at = job.updated_at.timestamp()
    return {"event": event, "job": str(job.id), "at": at, "data": job.public(text=False)}


def current(job: Job) -> Message:
    """The message for the job's status as it stands: its end, or its progress."""
    return about(str(job.status) if job.ended else "progress", job)
