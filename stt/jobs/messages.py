"""The messages about jobs that processes publish, with their types.

Every published message names its job, the job's owner and the claim, which tells one attempt from another. A
listener of one owner receives no message of another (see `pubsub.Hub.listen`).
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypedDict, cast
from uuid import UUID

from stt.jobs.model import Job, Status
from stt.pubsub import Message
from stt.transcript.schema import Segment

StateName = Literal["created", "progress", "completed", "failed", "cancelled"]
# The names of the messages that say that a job has ended.
END_EVENTS: Final = frozenset(str(status) for status in Status if status.ended)


class _Published(TypedDict):
    job: str  # uuid
    owner: str
    claim: int


class StateMessage(_Published):
    """How a job stands."""

    event: StateName
    at: float  # when the row changed, in seconds since 1970 by PostgreSQL's clock
    data: dict[str, Any]  # `Job.public` without the text


class SegmentsMessage(_Published):
    """Segments that have just been saved; each has its number in the recording as `id`."""

    event: Literal["segments"]
    first: int  # the number of the first one
    segments: list[Segment]


class DeletedMessage(_Published):
    """A job was deleted."""

    event: Literal["deleted"]
    data: dict[str, str]  # its id


class ResyncMessage(TypedDict):
    """Messages may have been lost: read the rows again. Made by `pubsub`."""

    event: Literal["resync"]


class IdleMessage(TypedDict):
    """No message came for a while. Made by `stt.web.sse`."""

    event: Literal["idle"]


JobMessage = StateMessage | SegmentsMessage | DeletedMessage | ResyncMessage | IdleMessage
IDLE: Final[IdleMessage] = {"event": "idle"}


def state(event: StateName, job: Job) -> StateMessage:
    """The message that says how a job stands."""
    return {
        "event": event,
        "job": str(job.id),
        "owner": job.owner,
        "claim": job.claim,
        "at": job.updated_at.timestamp(),
        "data": job.public(text=False),
    }


def current(job: Job) -> StateMessage:
    """The message for the job's status as it stands: its end, or its progress."""
    return state(cast(StateName, str(job.status)) if job.ended else "progress", job)


def segments(job: Job, first: int, numbered: list[Segment]) -> SegmentsMessage:
    """The message that carries segments which have just been saved.

    Args:
        job: Their job, with the claim of the worker that saved them.
        first: The number of the first one in the recording.
        numbered: WhisperX segments, each with its number as `id` (see `results.numbered`).
    """
    return {
        "event": "segments",
        "job": str(job.id),
        "owner": job.owner,
        "claim": job.claim,
        "first": first,
        "segments": numbered,
    }


def deleted(job_id: UUID, owner: str, claim: int) -> DeletedMessage:
    """The message that says that a job was deleted.

    Args:
        job_id: The job, whose row is gone.
        owner: Whose job it was.
        claim: The claim of its last attempt.
    """
    name = str(job_id)
    return {"event": "deleted", "job": name, "owner": owner, "claim": claim, "data": {"id": name}}


def received(message: Message) -> JobMessage:
    """A message as it came from the hub, with its type."""
    return cast(JobMessage, message)
