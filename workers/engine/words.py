"""Corrects the times of words, and makes segments that are sentences or clauses. Uses no model, no audio.

A word's text keeps the space it begins with, so joining all texts gives exactly what the model said, in
languages with spaces and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stt.transcript import schema, scripts
from workers.audio.vad import Speech

# Seconds by which a word may begin before, and end after, detected speech: its first and last sound are soft.
SOFT = 0.1
RESOLUTION = 0.02  # seconds: the time resolution of Whisper; no word is shorter
# Seconds of a pause that ends a segment, even inside a sentence.
LONG_PAUSE = 1.5
# Seconds of a pause that ends a segment after a comma.
CLAUSE_PAUSE = 0.6
# A longer segment is cut.
LONGEST_SECONDS = 15.0
LONGEST_WIDTH = 180  # columns of text; a Chinese or Japanese character takes two
# Letters for which a wide character (Chinese, Japanese, Korean) counts: it is a syllable or a word.
WIDE_LETTERS = 3

_ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "jr", "vs", "e.g", "i.e", "z.b", "d.h", "u.a", "mme", "sra", "dra")
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word from `start` to `end`, in seconds.

    `score`, 0 to 1, is the model's probability of the word, or wav2vec2's alignment score; None if the times
    were not measured. `logprob` is the mean log probability of the text that the word is part of.
    """

    text: str
    start: float
    end: float
    score: float | None = None
    logprob: float = 0.0


def letters(text: str) -> int:
    """The length of a text in letters; a wide character counts as `WIDE_LETTERS`."""
    return sum(WIDE_LETTERS if scripts.wide(character) else 1 for character in text.strip())


def whole(words: Sequence[Word]) -> list[Word]:
    """The words, with those that are empty or only spaces joined to a neighbour."""
    joined: list[Word] = []
    before = ""
    for word in words:
        if word.text.strip():
            joined.append(replace(word, text=before + word.text))
            before = ""
        elif joined:
            joined[-1] = replace(joined[-1], text=joined[-1].text + word.text)
        else:
            before += word.text
    return joined


def place(words: Sequence[Word], speech: Sequence[Speech], start: float, end: float) -> list[Word]:
    """The words with corrected times: in order, none empty, from `start` to `end`, in speech where possible.

    Args:
        words: The words of a window, in order.
        speech: The speech of the window.
        start: The start of the window, in seconds.
        end: Its end, in seconds.
    """
    shortest = min(RESOLUTION, (end - start) / max(1, len(words)))
    placed: list[Word] = []
    clock = start
    for word in words:
        first, last = _within(word, speech)
        first = max(clock, first)
        clock = max(first + shortest, last)
        placed.append(replace(word, start=first, end=clock))
    limit = end
    for number in reversed(range(len(placed))):
        last = min(placed[number].end, limit)
        limit = min(placed[number].start, last - shortest)
        placed[number] = replace(placed[number], start=limit, end=last)
    return placed


def spread(text: str, logprob: float, speech: Sequence[Speech]) -> list[Word]:
    """The words of a text without times, spread over speech: each as long as its share of the characters.

    Args:
        text: The text of a window.
        logprob: Its mean log probability, which each word gets.
        speech: The speech of the window.
    """
    total = sum(part.end - part.start for part in speech)
    letters, words = 0, []
    for piece in _pieces(text):
        start = at(letters / len(text) * total, speech)
        letters += len(piece)
        words.append(Word(piece, start, at(letters / len(text) * total, speech), None, logprob))
    return words


def at(seconds: float, speech: Sequence[Speech]) -> float:
    """The time in the span of a time in its joined speech; between two parts, the end of the first."""
    for part in speech:
        if seconds <= part.end - part.start:
            return part.start + seconds
        seconds -= part.end - part.start
    return speech[-1].end


def segments(words: Sequence[Word], *, with_words: bool = True) -> list[schema.Segment]:
    """The segments of a span, in WhisperX's format. Their joined texts are the joined texts of the words."""
    return [_segment(part, with_words) for sentence in _sentences(words) for part in _short(sentence) if part]


def _within(word: Word, speech: Sequence[Speech]) -> tuple[float, float]:
    """Start and end of a word without the silence that cross-attention adds before or after it."""

    def shared(part: Speech) -> float:
        """Seconds of the word in this part, padding not counted; below 0: the distance."""
        return min(word.end, part.end - part.tail) - max(word.start, part.start + part.lead)

    best = max(speech, key=shared, default=None)
    if best is None:
        return word.start, word.end
    start = max(word.start, best.start + max(0.0, best.lead - SOFT))
    end = min(word.end, best.end - max(0.0, best.tail - SOFT))
    return (start, end) if start < end else (word.start, word.end)


def _pieces(text: str) -> list[str]:
    """The words of a text with the space before them; in a script without spaces, its characters."""
    pieces: list[str] = []
    for character in text:
        wide = scripts.wide(character) and character.isalpha()
        if not pieces or wide or (character.isspace() and not pieces[-1].isspace()):
            pieces.append(character)
        else:
            pieces[-1] += character
    return [word.text for word in whole([Word(piece, 0, 0) for piece in pieces])]


def _sentences(words: Sequence[Word]) -> list[list[Word]]:
    found: list[list[Word]] = [[]]
    for number, word in enumerate(words):
        found[-1].append(word)
        pause = words[number + 1].start - word.end if number + 1 < len(words) else 0.0
        if (
            ends_sentence(word.text, words[number + 1 : number + 2])
            or pause >= LONG_PAUSE
            or (pause >= CLAUSE_PAUSE and _mark(word.text) in scripts.CLAUSE_ENDS)
        ):
            found.append([])
    return found


def ends_sentence(text: str, following: Sequence[Word] = ()) -> bool:
    """Whether a sentence ends with a word; `following` is the next word, if there is one."""
    mark = _mark(text)
    if mark not in scripts.SENTENCE_ENDS:
        return False
    if mark != ".":
        return True
    bare = text.strip().rstrip(scripts.CLOSERS).rstrip(".").lower()
    initial = len(bare) == 1 and bare.isalpha()
    glued = bool(following) and not following[0].text[:1].isspace()  # "3." "5", "www." "example"
    return not (initial or glued or bare.lstrip("(\"'“«[") in _ABBREVIATIONS)


def _mark(text: str) -> str:
    """The last character of a word, closing quotes and brackets not counted."""
    return text.strip().rstrip(scripts.CLOSERS)[-1:]


def _short(words: list[Word]) -> list[list[Word]]:
    """A sentence, or if it is too long, its parts: it is cut at a comma or in a pause, near the middle."""
    if len(words) < 2 or (
        words[-1].end - words[0].start <= LONGEST_SECONDS and _width(words) <= LONGEST_WIDTH
    ):
        return [words]
    cut = max(range(1, len(words)), key=lambda number: _fitness(words, number))
    return _short(words[:cut]) + _short(words[cut:])


def _fitness(words: list[Word], cut: int) -> float:
    """How good a cut before the word `cut` is: higher near the middle, in a long pause, after a comma."""
    balance = min(cut, len(words) - cut) / len(words) * 2
    pause = min(1.0, max(0.0, words[cut].start - words[cut - 1].end))
    comma = _mark(words[cut - 1].text) in scripts.CLAUSE_ENDS
    return balance + pause * 2 + comma * 0.7


def _width(words: list[Word]) -> int:
    return sum(2 if scripts.wide(character) else 1 for word in words for character in word.text)


def _segment(words: list[Word], with_words: bool) -> schema.Segment:
    return {
        "start": round(words[0].start, 3),
        "end": round(words[-1].end, 3),
        "text": "".join(word.text for word in words),
        "avg_logprob": round(sum(word.logprob for word in words) / len(words), 4),
        "words": [_word(word) for word in words] if with_words else [],
    }


def _word(word: Word) -> schema.Word:
    start, end = round(word.start, 3), round(word.end, 3)
    timed: schema.Word = {"word": word.text.strip(), "start": start, "end": end}
    if word.score is not None:
        timed["score"] = round(word.score, 3)
    return timed
