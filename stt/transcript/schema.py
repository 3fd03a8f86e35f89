"""The shape of a transcript, which is WhisperX's: what rows, files and messages hold as JSON.

All times are seconds from the beginning of the recording.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Word(TypedDict):
    """A word of a segment. A word that nothing has timed has no `start` and no `end`."""

    word: str  # without the space before it
    start: NotRequired[float]
    end: NotRequired[float]
    score: NotRequired[float]  # 0 to 1; absent where nothing was measured
    speaker: NotRequired[str]


class Segment(TypedDict):
    """A sentence or a clause. Its text may begin with a space: the texts joined are the whole text."""

    id: NotRequired[int]  # its number in the recording, from 0
    start: float
    end: float
    text: str
    avg_logprob: NotRequired[float]
    words: NotRequired[list[Word]]  # empty if no word times are wanted
    speaker: NotRequired[str | None]  # such as SPEAKER_00


class Turn(TypedDict):
    """A time in which one speaker speaks without a longer pause."""

    start: float
    end: float
    speaker: str


class Transcript(TypedDict):
    """The document that downloads are written from."""

    text: str
    language: str | None  # a code such as "en"; None if nobody speaks
    duration: float | None
    segments: list[Segment]


class Paragraph(TypedDict):
    """Segments that are shown together; their texts joined are the text of the paragraph."""

    id: int | None  # of the first segment
    start: float
    speaker: str | None
    text: str
    segments: list[Segment]
