"""Speech without words: what the recogniser skipped of a window. Pure: no model.

Whisper may skip a passage inside a window: a quieter voice between louder ones, the middle of three sentences
of which two are alike, a second language. The voice activity detector finds speech there, and no word lies
over it; or the cross-attention stretches one word over all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.audio import RATE, Samples
from workers.vad import Speech
from workers.windows import Window
from workers.words import Word, ends_sentence, letters

# The longest that a word is taken to last: so many seconds, and so many more for each letter.
LONGEST_WORD, LONGEST_LETTER = 0.5, 0.12
# Less speech without words than this, in seconds, is a breath, a soft word end, or an error of the word
# times.
LEAST = 0.7
# A gap is widened to the next pause where that is so close, in seconds: a window that begins inside a word
# begins with a wrong word.
WIDEN = 3.0
# Word times are this uncertain, in seconds: the end of a word comes too early by up to SOFT; a shorter bit
# than SCRAP is no word.
SOFT, SCRAP = 0.35, 0.1
# Speech without words is reported from this probability on, and from so many seconds on.
PROBABLE, LEAST_WARNED = 0.7, 1.5
# Each part of what is recognised again is raised to this level (RMS, dB of full scale), by so many dB at
# most.
LEVEL, MOST_GAIN = -20.0, 40.0

Times = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a window, from `start` to `end`, with `seconds` of speech over which no word lies.

    The words from `first` up to `last` are timed inside it: a text for the gap replaces theirs.
    """

    first: int
    last: int
    start: float
    end: float
    seconds: float


def gaps(words: Sequence[Word], speech: Sequence[Speech], least: float = LEAST) -> list[Gap]:
    """Stretches of a window with at least `least` seconds of speech over which no word lies, in order.

    Args:
        words: The words of the window, with times in the same clock as `speech`.
        speech: Where the voice activity detector found speech, padding included.
        least: In seconds.
    """
    found: list[Gap] = []
    for gap in _between_certain(words, _voiced(speech), speech):
        if gap.seconds >= least:
            wide = _widened(gap, words, speech)
            found.append(_joined(found.pop(), wide) if found and found[-1].end > wide.start else wide)
    return found


def longest(text: str) -> float:
    """The longest time that a word is taken to last, in seconds."""
    return LONGEST_WORD + LONGEST_LETTER * letters(text)


def settled(words: Sequence[Word], speech: Sequence[Speech]) -> list[Word]:
    """The words, of which one that is stretched over pauses is put beside its neighbour.

    Cross-attention stretches the word before or after a skipped passage over all of it. Where speech without
    a word joins a neighbour without a pause, and is no longer than the word can be, the word is there.
    """
    voiced = _voiced(speech)
    ends = [speech[0].start, *(word.end for word in words)]
    starts = [*(word.start for word in words[1:]), speech[-1].end]
    return [_settled(word, voiced, end, start) for word, end, start in zip(words, ends, starts, strict=False)]


def within(speech: Iterable[Speech], start: float, end: float) -> list[Speech]:
    """The parts of speech from `start` to `end`, in seconds; those at the borders are cut there."""
    return [
        replace(
            part,
            start=(first := max(part.start, start)),
            end=(last := min(part.end, end)),
            lead=max(0.0, part.start + part.lead - first),
            tail=max(0.0, last - part.end + part.tail),
        )
        for part in speech
        if part.end > start and part.start < end
    ]


def probable(windows: Iterable[Window], speech: Sequence[Speech], words: Sequence[Word]) -> list[Times]:
    """The start and end of the windows in which somebody probably speaks and no words lie, in seconds.

    Args:
        windows: Windows for which nothing was recognised.
        speech: What the voice activity detector found where they are, with its probability.
        words: All words, with their times.
    """
    found = []
    for window in windows:
        parts = [part for part in within(speech, window.start, window.end) if part.probability >= PROBABLE]
        inside = [word for word in words if window.start <= _middle(word) <= window.end]
        voiced = sum(end - start for start, end in _voiced(parts))
        if voiced - sum(longest(word.text) for word in inside) >= LEAST_WARNED:
            found.append((parts[0].start + parts[0].lead, parts[-1].end - parts[-1].tail))
    return found


def raised(samples: Samples, windows: Iterable[Window]) -> Samples:
    """A copy of the samples in which each part of the windows' speech has the same level, so that none is
    quiet.
    """
    made = samples.copy()
    for part in (part for window in windows for part in window.speech):
        piece = made[int(part.start * RATE) : int(part.end * RATE)]
        power = float(np.mean(np.square(piece, dtype=np.float64))) if len(piece) else 0.0
        if power > 0:
            gain = 10 ** (min(LEVEL - 10 * np.log10(power), MOST_GAIN) / 20)
            piece *= np.float32(min(gain, 1 / float(np.abs(piece).max())))
    return made


def _between_certain(
    words: Sequence[Word], voiced: Sequence[Times], speech: Sequence[Speech]
) -> Iterator[Gap]:
    """What lies between two words that are no longer than they can be."""
    borders = [
        (number, word)
        for number, word in enumerate(words)
        if _shared(word.start, word.end, voiced) <= longest(word.text)
    ]
    first, start = 0, speech[0].start
    for last, end, following in [
        *((number, word.start, word.end) for number, word in borders),
        (len(words), speech[-1].end, 0.0),
    ]:
        stretched = sum(longest(word.text) for word in words[first:last])
        yield Gap(first, last, start, end, _shared(start, end, voiced) - stretched)
        first, start = last + 1, following


def _voiced(speech: Sequence[Speech]) -> list[Times]:
    """Speech without its padding."""
    return [(part.start + part.lead, part.end - part.tail) for part in speech]


def _settled(word: Word, voiced: Sequence[Times], end: float, start: float) -> Word:
    """The word between one that ends at `end` and one that begins at `start`."""
    if _shared(word.start, word.end, voiced) <= longest(word.text):
        return word
    before = [(end, last) for first, last in voiced if first <= end < last - SOFT]
    after = [(first, start) for first, last in voiced if first < start - SCRAP and start <= last]
    fits = [time for time in (*before, *after) if time[1] - time[0] <= longest(word.text)]
    if not fits:
        return word
    first, last = fits[0] if ends_sentence(word.text) else fits[-1]
    return replace(word, start=first, end=last)


def _shared(start: float, end: float, voiced: Sequence[Times]) -> float:
    """Seconds of speech from `start` to `end`."""
    return sum(max(0.0, min(end, last) - max(start, first)) for first, last in voiced)


def _widened(gap: Gap, words: Sequence[Word], speech: Sequence[Speech]) -> Gap:
    """The gap from pause to pause, with the words that are timed inside it."""
    start, end = gap.start, gap.end
    for part, (begun, ended) in zip(speech, _voiced(speech), strict=True):
        if part.start <= gap.start < part.end:
            near = part.start if gap.start - part.start <= WIDEN else gap.start
            start = part.end if ended - gap.start <= SOFT else near
        if part.start < gap.end <= part.end:
            near = part.end if part.end - gap.end <= WIDEN else gap.end
            end = part.start if gap.end - begun <= SOFT else near
    first, last = gap.first, gap.last
    while first > 0 and _middle(words[first - 1]) > start:
        first -= 1
    while last < len(words) and _middle(words[last]) < end:
        last += 1
    return Gap(first, last, start, end, gap.seconds)


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _joined(one: Gap, other: Gap) -> Gap:
    return Gap(
        one.first, max(one.last, other.last), one.start, max(one.end, other.end), one.seconds + other.seconds
    )
