"""Finds passages of a window in another language than the text of the window. Uses no model.

Whisper writes all of a window in one language. It skips or translates a passage in another language, so such
a passage is reported. The recogniser detects the language of each slice of a window
(`Recogniser.recognise`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.audio.vad import Speech
from workers.engine import words

# Seconds of a slice, at least and at most. In less the language is uncertain; more may be in both languages.
SHORTEST_SLICE, LONGEST_SLICE = 3.0, 8.0
# A slice is in another language if that has at least the first probability, and the window's language at most
# the second. In 150 slices of recordings in one language (`clips` and `languages` of the test recordings) no
# other language had more than 0.63.
SURE, UNLIKELY = 0.85, 0.05


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage in another language than the window's text, from `start` to `end`, in seconds."""

    language: str
    start: float
    end: float


def slices(speech: Sequence[Speech]) -> list[tuple[float, float]]:
    """Start and end of each slice of a window, in seconds of its speech without pauses.

    Slices end in pauses. Speech that is longer than a slice is cut into equal slices.
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
        found: Slices, each as start, end, and the probability of each language by its code.
        language: The language in which the window is written.
        speech: The speech of the window. The times of the passages count from the same moment.
    """
    result: list[Passage] = []
    previous = 0.0  # the end of the last slice that was in another language
    for (start, end), probabilities in found:
        other = max(probabilities, key=lambda code: probabilities[code])
        if probabilities[other] < SURE or probabilities.get(language, 0.0) > UNLIKELY:
            continue
        first, last = words.at(start + words.RESOLUTION, speech), words.at(end, speech)
        if result and result[-1].language == other and start == previous:
            result[-1] = Passage(other, result[-1].start, last)
        else:
            result.append(Passage(other, first, last))
        previous = end
    return result


def _even(start: float, end: float) -> list[tuple[float, float]]:
    """The stretch in equal slices, each at most `LONGEST_SLICE` seconds long."""
    count = int((end - start) // LONGEST_SLICE) + 1
    step = (end - start) / count
    return [(start + number * step, start + (number + 1) * step) for number in range(count)]
