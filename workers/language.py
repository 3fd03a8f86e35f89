"""Which language is spoken where in a window. Pure: no model.

Whisper writes all of a window in one language. It skips or translates a passage in another one, so that
passage is reported. Its language is detected from the encoder's output for that passage alone, which was made
anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers import words
from workers.vad import Speech

# Seconds of a slice: less tells little, more may hold both languages.
SHORTEST_SLICE, LONGEST_SLICE = 3.0, 8.0
# How probable another language must be, and how improbable that of the window. Of 150 slices of recordings in
# one language (clips and languages of the test recordings) none was another language with more than 0.63.
SURE, UNLIKELY = 0.85, 0.05


@dataclass(frozen=True, slots=True)
class Passage:
    """From `start` to `end`, in seconds, `language` is spoken, which is not that of the window."""

    language: str
    start: float
    end: float


def slices(speech: Sequence[Speech]) -> list[tuple[float, float]]:
    """Where to look for another language: seconds of the speech of a window, cut in its pauses where there
    are some.
    """
    found: list[tuple[float, float]] = []
    start = end = 0.0
    for part in speech:
        end += part.end - part.start
        if end - start >= SHORTEST_SLICE:
            found += _even(start, end)
            start = end
    return found


def passages(
    found: Sequence[tuple[tuple[float, float], Mapping[str, float]]], language: str, speech: Sequence[Speech]
) -> list[Passage]:
    """The passages in another language than `language`.

    Args:
        found: Slices and, for each, the probability of each language.
        language: That of the window.
        speech: Of the window; times are in its clock.
    """
    made: list[Passage] = []
    previous = 0.0  # the end of the slice before, if that was in another language
    for (start, end), probabilities in found:
        other = max(probabilities, key=lambda one: probabilities[one])
        if probabilities[other] < SURE or probabilities.get(language, 0.0) > UNLIKELY:
            continue
        first, last = words.at(start + words.SHORTEST, speech), words.at(end, speech)
        if made and made[-1].language == other and start == previous:
            made[-1] = Passage(other, made[-1].start, last)
        else:
            made.append(Passage(other, first, last))
        previous = end
    return made


def _even(start: float, end: float) -> list[tuple[float, float]]:
    """A stretch in equal parts, none longer than a slice may be."""
    count = int((end - start) // LONGEST_SLICE) + 1
    step = (end - start) / count
    return [(start + number * step, start + (number + 1) * step) for number in range(count)]
