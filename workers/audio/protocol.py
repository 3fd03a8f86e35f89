"""The messages between `workers.audio.handle` (parent) and `workers.audio.__main__` (decoder process).

Each message is one line of JSON. A block's samples follow its line, as float32 in the machine's byte order.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from stt.codes import ErrorCode, Parameters


class OpenRequest(TypedDict):
    """Opens a file. The answer is a `BlockHeader` without samples, or a failure."""

    path: str
    longest: float  # seconds; a longer recording is an error; 0: no limit
    log: NotRequired[dict[str, Any]]  # keys of every line of the log about it


class DecodeRequest(TypedDict):
    """Decodes the open file.

    The answers are any number of `BlockHeader`, the last one with `end`, or a failure.
    """

    start: int  # the first sample to be sent


class Facts(TypedDict):
    """The public values of `workers.audio.decode.Recording`, by their names there."""

    kept: list[str]
    left_out: list[str]
    unreadable: list[str]
    decoded: int
    damaged: int
    broken_off: float | None
    duration: float | None
    missing: float


class BlockHeader(TypedDict):
    """So many float32 samples as `samples` says follow this line. `facts` are the values after the block."""

    facts: Facts
    samples: int
    end: NotRequired[bool]


class MediaFailure(TypedDict):
    """The file cannot be transcribed: the fields of a `stt.media.errors.MediaError`."""

    error: Literal["media"]
    code: ErrorCode
    parameters: Parameters


class MemoryFailure(TypedDict):
    """The machine has too little memory."""

    error: Literal["memory"]


class FileFailure(TypedDict):
    """The file cannot be read: the fields of an OSError."""

    error: Literal["file"]
    errno: int | None
    strerror: str | None


Failure = MediaFailure | MemoryFailure | FileFailure
Answer = BlockHeader | Failure
