"""Assigns the words of a transcript to the turns of speakers. Pure.

The rule is that of WhisperX's `assign_word_speakers`: a word is assigned to the speaker whose turns overlap
it most. A word outside all turns is assigned to the nearest turn if that is close, else to the speaker of the
word before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import TypeVar

from stt.transcript.schema import Segment, Turn, Word
from stt.transcript.subtitles import split_words

T = TypeVar("T", Segment, Word)

# Seconds. A word farther from every turn is assigned to none: voice activity detections of recognition and
# of diarization differ by less.
NEAR = 2.0


def ordered(turns: Iterable[Turn]) -> list[Turn]:
    """Turns by time; SPEAKER_00 is the first to speak, and so on."""
    names: dict[str, str] = {}
    found: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: (turn["start"], turn["end"])):
        name = names.setdefault(turn["speaker"], f"SPEAKER_{len(names):02d}")
        found.append({"start": turn["start"], "end": turn["end"], "speaker": name})
    return found


def assign(segments: Sequence[Segment], turns: Iterable[Turn]) -> list[Segment]:
    """Segments and their words with speakers; a segment is split where the speaker changes inside.

    No text is lost: the texts of all segments joined stay as they were.
    """
    timeline = _Timeline(turns)
    return [part for segment in segments for part in _split(segment, timeline)]


class _Timeline:
    """Turns, found by time."""

    def __init__(self, turns: Iterable[Turn]) -> None:
        self._turns = sorted(turns, key=lambda turn: turn["start"])
        self._starts = [turn["start"] for turn in self._turns]
        # The latest end so far: how far back a turn may still be going on.
        self._ends = list(accumulate((turn["end"] for turn in self._turns), max))

    def who(self, start: float, end: float) -> str | None:
        """The speaker whose turns overlap `start` to `end` most; else that of a turn near by."""
        overlaps: dict[str, float] = {}
        for turn in self._around(start, end):
            shared = min(end, turn["end"]) - max(start, turn["start"])
            if shared > 0:
                overlaps[turn["speaker"]] = overlaps.get(turn["speaker"], 0.0) + shared
        if overlaps:
            return max(overlaps, key=lambda speaker: overlaps[speaker])
        around = self._around(start - NEAR, end + NEAR)
        near = min(around, key=lambda turn: _gap(turn, start, end), default=None)
        return near["speaker"] if near and _gap(near, start, end) <= NEAR else None

    def _around(self, start: float, end: float) -> Iterator[Turn]:
        for number in range(bisect_left(self._starts, end) - 1, -1, -1):
            if self._ends[number] <= start:
                return
            yield self._turns[number]


def _gap(turn: Turn, start: float, end: float) -> float:
    return float(max(turn["start"] - end, start - turn["end"], 0.0))


def _split(segment: Segment, timeline: _Timeline) -> list[Segment]:
    """One segment a speaker; whole, with the speaker of most of it, where its words have no times."""
    words = segment.get("words") or []
    texts = split_words(segment["text"], words)
    if not words or texts is None:
        return [_named(segment, timeline.who(segment["start"], segment["end"]))]
    who = _filled([timeline.who(*_times(word)) if "start" in word else None for word in words])
    numbered = groupby(range(len(words)), key=lambda number: who[number])
    parts = [(speaker, list(numbers)) for speaker, numbers in numbered]
    return [_part(segment, speaker, numbers, texts) for speaker, numbers in parts]


def _times(word: Word) -> tuple[float, float]:
    return word["start"], word.get("end", word["start"])


def _filled(who: list[str | None]) -> list[str | None]:
    """Words without a speaker get that of the word before them, the first ones that of the word after."""
    last = next((speaker for speaker in who if speaker), None)
    filled = []
    for speaker in who:
        last = speaker or last
        filled.append(last)
    return filled


def _part(segment: Segment, speaker: str | None, numbers: list[int], texts: list[str]) -> Segment:
    words = [_named(segment["words"][number], speaker) for number in numbers]
    timed = [word for word in words if "start" in word]
    whole = len(numbers) == len(texts)
    part: Segment = {
        **segment,
        "start": segment["start"] if numbers[0] == 0 or not timed else timed[0]["start"],
        "end": segment["end"] if whole or numbers[-1] == len(texts) - 1 or not timed else timed[-1]["end"],
        "text": "".join(texts[number] for number in numbers),
        "words": words,
    }
    return _named(part, speaker)


def _named(thing: T, speaker: str | None) -> T:
    named = thing.copy()
    if speaker:
        named["speaker"] = speaker
    return named
