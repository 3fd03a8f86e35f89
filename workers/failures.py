"""Why an attempt ends before its transcript is stored: a failure, or a stop from outside."""

from __future__ import annotations

from enum import Enum
from typing import Any

from stt import codes
from stt.codes import ErrorCode


class Stop(Enum):
    """Why an attempt is stopped from outside the engine."""

    CANCEL = "cancelled by a person"
    LOST = "the claim is gone, or could not be kept"
    SHUTDOWN = "the worker is shutting down"


class Stopped(Exception):
    """The attempt was stopped from outside; `AttemptState.stop_reason` says why."""


class AttemptError(codes.CodedError):
    """The attempt failed; the text is for people.

    `log` is what the engine wrote last, where that may tell more.
    """

    def __init__(self, code: ErrorCode, /, *, log: str | None = None, **parameters: Any) -> None:
        super().__init__(code, **parameters)
        self.log = log


class PermanentError(AttemptError):
    """Another attempt would fail too: the recording cannot be transcribed."""


class TransientError(AttemptError):
    """Another attempt may succeed, so the job is tried again."""


class StorageError(TransientError):
    """Nothing can be read or written at the moment. The job is not at fault, so no attempt is spent."""
