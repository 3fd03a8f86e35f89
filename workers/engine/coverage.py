"""Finds speech without words: what the recogniser skipped of a window. Uses no model.

Whisper may skip a passage inside a window: a quieter voice between louder ones, the middle of three sentences
of which two are alike, or a second language. The voice activity detector finds speech there, but no word is
timed there, or cross-attention stretches one word over all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.audio.sound import RATE, Samples
from workers.audio.vad import Speech
from workers.engine.windows import Window
from workers.engine.words import Word, ends_sentence, letters

# These numbers were chosen on constructed recordings (docs/benchmarks.md, "Speech that was skipped").
# The longest duration that a word can have, in seconds: `WORD_SECONDS`, and `LETTER_SECONDS` for each letter.
WORD_SECONDS, LETTER_SECONDS = 0.5, 0.12
# Less speech without words than this, in seconds, is a breath, a soft end of a word, or an error of the word
# times.
LEAST_SECONDS = 0.7
# A gap is widened to the next pause if that is at most so many seconds away: the text of a window that begins
# inside a word begins with a wrong word.
MOST_WIDENING = 3.0
# Seconds by which cross-attention may end a word too early.
EARLY_END = 0.35
# Less speech than this, in seconds, holds no word.
SHORTEST_WORD = 0.1
# Speech without words is reported if it has at least this probability and so many seconds.
PROBABLE, LEAST_WARNED_SECONDS = 0.7, 1.5
# The level (RMS, dB of full scale) to which each part of a gap is brought, and by how many dB at most.
LEVEL, MOST_GAIN = -20.0, 40.0

Times = tuple[float, float]  # start and end, in seconds


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a window from `start` to `end`, with `seconds` of speech without words.

    The words with the indices from `first` up to, not including, `last` are timed inside it. A new text for
    the gap replaces them.
    """

    first: int
    last: int
    start: float
    end: float
    seconds: float


def gaps(words: Sequence[Word], speech: Sequence[Speech], least: float = LEAST_SECONDS) -> list[Gap]:
    """The gaps of a window, in order.

    Args:
        words: The words of the window, with times that count from the same moment as those of `speech`.
        speech: Where the voice activity detector found speech, padding included.
        least: Seconds of speech without words from which a stretch is a gap.
    """
    found: list[Gap] = []
    for gap in _between_plausible_words(words, _without_padding(speech), speech):
        if gap.seconds >= least:
            wide = _widened(gap, words, speech)
            found.append(_joined(found.pop(), wide) if found and found[-1].end > wide.start else wide)
    return found


def longest_duration(text: str) -> float:
    """The longest duration that a word can have, in seconds."""
    return WORD_SECONDS + LETTER_SECONDS * letters(text)


def unstretched(words: Sequence[Word], speech: Sequence[Speech]) -> list[Word]:
    """The words, with each word that is too long for its letters moved beside a neighbour if it fits there.

    Cross-attention stretches the word before or after a skipped passage over all of that passage. Such a word
    is moved to the speech right after the word before it, or right before the word after it, if that speech
    is no longer than the word can be.
    """
    voiced = _without_padding(speech)
    ends = [speech[0].start, *(word.end for word in words)]
    starts = [*(word.start for word in words[1:]), speech[-1].end]
    return [
        _unstretched(word, voiced, end, start) for word, end, start in zip(words, ends, starts, strict=False)
    ]


def within(speech: Iterable[Speech], start: float, end: float) -> list[Speech]:
    """The speech inside a stretch; parts that reach beyond it are cut there.

    Args:
        speech: Parts of speech, in order.
        start: The start of the stretch, in seconds.
        end: Its end, in seconds.
    """
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


def probable_speech(
    windows: Iterable[Window], speech: Sequence[Speech], words: Sequence[Word]
) -> list[Times]:
    """The start and end, in seconds, of probable speech without words.

    Args:
        windows: Windows for which nothing was recognised.
        speech: What the voice activity detector found in them, with its probability.
        words: All words, with their times.
    """
    found = []
    for window in windows:
        parts = [part for part in within(speech, window.start, window.end) if part.probability >= PROBABLE]
        inside = [word for word in words if window.start <= _middle(word) <= window.end]
        voiced = sum(end - start for start, end in _without_padding(parts))
        if voiced - sum(longest_duration(word.text) for word in inside) >= LEAST_WARNED_SECONDS:
            found.append((parts[0].start + parts[0].lead, parts[-1].end - parts[-1].tail))
    return found


def with_raised_parts(samples: Samples, windows: Iterable[Window]) -> Samples:
    """A copy of the samples. A gain of its own brings each part of the windows' speech to `LEVEL`."""
    copy = samples.copy()
    for part in (part for window in windows for part in window.speech):
        piece = copy[int(part.start * RATE) : int(part.end * RATE)]
        power = float(np.mean(np.square(piece, dtype=np.float64))) if len(piece) else 0.0
        if power > 0:
            gain = 10 ** (min(LEVEL - 10 * np.log10(power), MOST_GAIN) / 20)
            piece *= np.float32(min(gain, 1 / float(np.abs(piece).max())))
    return copy


def _between_plausible_words(
    words: Sequence[Word], voiced: Sequence[Times], speech: Sequence[Speech]
) -> Iterator[Gap]:
    """The stretches between words of plausible length.

    A longer word does not end a stretch, as its times are wrong. The longest duration that it can have is
    subtracted from the speech of the stretch.
    """
    plausible = [
        (number, word)
        for number, word in enumerate(words)
        if _overlap(word.start, word.end, voiced) <= longest_duration(word.text)
    ]
    first, start = 0, speech[0].start
    for last, end, following in [
        *((number, word.start, word.end) for number, word in plausible),
        (len(words), speech[-1].end, 0.0),
    ]:
        covered = sum(longest_duration(word.text) for word in words[first:last])
        yield Gap(first, last, start, end, _overlap(start, end, voiced) - covered)
        first, start = last + 1, following


def _without_padding(speech: Sequence[Speech]) -> list[Times]:
    return [(part.start + part.lead, part.end - part.tail) for part in speech]


def _unstretched(word: Word, voiced: Sequence[Times], previous_end: float, next_start: float) -> Word:
    """As `unstretched`, for one word between the end of the previous word and the start of the next."""
    if _overlap(word.start, word.end, voiced) <= longest_duration(word.text):
        return word
    before = [(previous_end, last) for first, last in voiced if first <= previous_end < last - EARLY_END]
    after = [
        (first, next_start)
        for first, last in voiced
        if first < next_start - SHORTEST_WORD and next_start <= last
    ]
    fitting = [time for time in (*before, *after) if time[1] - time[0] <= longest_duration(word.text)]
    if not fitting:
        return word
    first, last = fitting[0] if ends_sentence(word.text) else fitting[-1]
    return replace(word, start=first, end=last)


def _overlap(start: float, end: float, voiced: Sequence[Times]) -> float:
    """Seconds of speech from `start` to `end`."""
    return sum(max(0.0, min(end, last) - max(start, first)) for first, last in voiced)


def _widened(gap: Gap, words: Sequence[Word], speech: Sequence[Speech]) -> Gap:
    """The gap, extended to the pauses around it, with the words that are timed inside it."""
    start, end = gap.start, gap.end
    for part, (voice_start, voice_end) in zip(speech, _without_padding(speech), strict=True):
        if part.start <= gap.start < part.end:
            near = part.start if gap.start - part.start <= MOST_WIDENING else gap.start
            start = part.end if voice_end - gap.start <= EARLY_END else near
        if part.start < gap.end <= part.end:
            near = part.end if part.end - gap.end <= MOST_WIDENING else gap.end
            end = part.start if gap.end - voice_start <= EARLY_END else near
    first, last = gap.first, gap.last
    while first > 0 and _middle(words[first - 1]) > start:
        first -= 1
    while last < len(words) and _middle(words[last]) < end:
        last += 1
    return Gap(first, last, start, end, gap.seconds)


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _joined(gap: Gap, following: Gap) -> Gap:
    return Gap(
        gap.first,
        max(gap.last, following.last),
        gap.start,
        max(gap.end, following.end),
        gap.seconds + following.seconds,
    )
