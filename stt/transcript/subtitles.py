"""Cuts a transcript into subtitles (cues) of at most two lines that a viewer can read in time. Pure.

The limits of width and time are those of broadcasters. A cue belongs to one segment, and so to one speaker. A
long segment is cut where a reader would pause: the cuts are those with the smallest sum of prices, found by
dynamic programming.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from stt.transcript import phrases, scripts
from stt.transcript.schema import Segment, Word

COLUMNS = 42  # of a line
COLUMNS_WIDE = 36  # of a line of Chinese, Japanese or Korean: 18 characters
# The shortest and longest time of a cue on the screen, in milliseconds. It is shorter if the next cue begins.
SHORTEST, LONGEST = 1000, 7000
BARELY = 50  # milliseconds between the starts of two cues, at least
COLUMNS_A_SECOND = 20  # that people can read; a Chinese character takes two columns
# Columns a second below which nobody speaks. A text whose words have no times takes no more time than that:
# the rest of the segment is silence.
SLOWEST_A_SECOND = 4
PAUSE = 500  # milliseconds of silence at which a cut is good

# The price of a cut after a sentence, after a clause or in a pause, or elsewhere.
_AFTER_SENTENCE, _AFTER_CLAUSE, _ANYWHERE = 0.0, 0.15, 0.6
# The price of a cut inside a word of a script without spaces. Only words that are longer than a line are cut.
_INSIDE_A_WORD = 4.0
# The price of each cue, of one shorter than `SHORTEST`, and of one that fills its lines little.
_A_CUE, _TOO_SHORT, _UNEVEN = 1.0, 1.0, 0.5
# The price of a cue that is shown for less time than its reader needs: half of this for half of that time.
# Only for cues with a label: the labels make many short cues more to read than few long ones.
_TOO_FAST = 20.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text in which no line is broken, with the space before it. Times are in milliseconds."""

    text: str
    start: int
    end: int
    inside: bool = False  # it begins inside a word of a script without spaces


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: the lines that are shown from `start` to `end`, in milliseconds.

    `label`: columns that are left free in the first line, for the name of the speaker.
    """

    start: int
    end: int
    lines: tuple[tuple[Piece, ...], ...]
    speaker: str | None
    label: int = 0

    @property
    def texts(self) -> list[str]:
        """The lines as texts."""
        return ["".join(piece.text for piece in line).strip() for line in self.lines]


def cues(segments: Iterable[Segment], *, label: int = 0) -> list[Cue]:
    """Make cues that are in order and never overlap.

    With a speaker the first line leaves `label` columns free.
    """
    shown = list(segments)
    ends = [_ms(following["start"]) for following in shown[1:]]
    parts = zip(shown, [*ends, None], strict=False)
    return _timed([cue for segment, end in parts for cue in _cut(segment, label, end)])


def word_times(cue: Cue) -> list[list[tuple[int | None, str]]]:
    """The lines of a cue, word by word, each with its start in milliseconds, for WebVTT's highlighting.

    WebVTT requires that a time is inside the cue and later than the one before. None: the word has no such
    time.
    """
    clock = cue.start
    lines: list[list[tuple[int | None, str]]] = []
    for line in cue.lines:
        lines.append([])
        for piece in line:
            later = clock < piece.start < cue.end
            clock = piece.start if later else clock
            text = piece.text if lines[-1] else piece.text.lstrip()
            lines[-1].append((piece.start if later else None, text))
    return lines


def split_words(text: str, words: Sequence[Word]) -> list[str] | None:
    """Split a text into one part for each word, with spaces; None: the words are not those of the text."""
    ends: list[int] = []
    for word in words:
        at = ends[-1] if ends else 0
        at += len(text[at:]) - len(text[at:].lstrip())
        bare = word["word"].strip()
        if not text.startswith(bare, at):
            return None
        ends.append(at + len(bare))
    if not ends or text[ends[-1] :].strip():
        return None
    ends[-1] = len(text)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _cut(segment: Segment, label: int, end: int | None) -> Iterator[Cue]:
    """The cues of a segment.

    Args:
        segment: The segment.
        label: Columns for the name of the speaker, if it has one.
        end: The start of the next segment in milliseconds; None: there is none.
    """
    pieces = _pieces(segment)
    label = label if segment.get("speaker") else 0
    columns = COLUMNS_WIDE if any(scripts.wide(char) for char in segment["text"]) else COLUMNS
    layout = _Layout(pieces, columns, label, end)
    for first, last in layout.parts():
        part = pieces[first:last]
        lines = tuple(tuple(pieces[start:end]) for start, end in layout.lines(first, last))
        yield Cue(part[0].start, max(part[0].start, part[-1].end), lines, segment.get("speaker"), label)


def _timed(found: list[Cue]) -> list[Cue]:
    """The cues with their times on the screen: as long as a reader needs, but not beyond the next cue."""
    starts = list(accumulate((cue.start for cue in found), lambda before, now: max(before + BARELY, now)))
    timed = []
    for cue, start, following in zip(found, starts, [*starts, None][1:], strict=True):
        reading = _reading(cue.label + sum(map(scripts.width, cue.texts)))
        end = min(max(cue.end, start + SHORTEST, start + reading), start + LONGEST)
        end = end if following is None else min(end, following)
        timed.append(replace(cue, start=start, end=end))
    return timed


def _reading(columns: int) -> int:
    """Milliseconds in which people read so many columns."""
    return columns * 1000 // COLUMNS_A_SECOND


class _Layout:
    """How the pieces of a segment may be cut into cues and lines."""

    def __init__(self, pieces: Sequence[Piece], columns: int, label: int, end: int | None) -> None:
        self._pieces, self._columns, self._label, self._end = pieces, columns, label, end
        self._words = [at for at, piece in enumerate(pieces) if not piece.inside]
        self._before = [0, *accumulate(scripts.width(piece.text) for piece in pieces)]

    def parts(self) -> list[tuple[int, int]]:
        """Cut all pieces into cues by dynamic programming: the first piece of each, and the one after it."""
        count = len(self._pieces)
        cost = [0.0] + [float("inf")] * count
        begins = [0] * (count + 1)
        for last in range(1, count + 1):
            for first in range(last - 1, -1, -1):
                if not self._fits(first, last):
                    break
                price = cost[first] + self._price(first, last)
                if price < cost[last]:
                    cost[last], begins[last] = price, first
        return list(reversed(list(self._back(begins))))

    def lines(self, first: int, last: int) -> list[tuple[int, int]]:
        """Cut the pieces of a cue into one line if it is short enough, else into two."""
        if last - first == 1 or self._width(first, last) + self._label <= self._columns:
            return [(first, last)]
        cut = min(range(first + 1, last), key=lambda cut: self._line_price(first, cut, last))
        return [(first, cut), (cut, last)]

    @staticmethod
    def _back(begins: list[int]) -> Iterator[tuple[int, int]]:
        last = len(begins) - 1
        while last:
            yield begins[last], last
            last = begins[last]

    def _width(self, first: int, last: int) -> int:
        leading = self._pieces[first].text[:1].isspace()
        return self._before[last] - self._before[first] - leading

    def _fits(self, first: int, last: int) -> bool:
        if last - first == 1:
            return True
        if self._pieces[last - 1].end - self._pieces[first].start > LONGEST:
            return False
        if self._width(first, last) + self._label <= self._columns:
            return True
        cut = self._first_line(first)
        return first < cut and self._width(cut, last) <= self._columns

    def _first_line(self, first: int) -> int:
        """The piece before which the longest possible first line ends."""
        room = self._before[first] + self._columns - self._label + self._pieces[first].text[:1].isspace()
        return bisect_right(self._before, room) - 1

    def _price(self, first: int, last: int) -> float:
        columns = self._width(first, last) + self._label
        slack = 1 - columns / (2 * self._columns)
        short = self._pieces[last - 1].end - self._pieces[first].start < SHORTEST
        price = _A_CUE + self._cut_price(last) + _TOO_SHORT * short + _UNEVEN * slack**2
        if self._label:
            price += _TOO_FAST * max(0.0, 1 - self._shown(first, last) / _reading(columns))
        return price + _INSIDE_A_WORD * (columns > self._columns and not self._parts_words(first, last))

    def _parts_words(self, first: int, last: int) -> bool:
        """Whether a cue can be cut into two lines between words."""
        cut = self._words[bisect_right(self._words, self._first_line(first)) - 1]
        return first < cut < last and self._width(cut, last) <= self._columns

    def _shown(self, first: int, last: int) -> float:
        """Milliseconds from the first word of a cue to the next cue; infinite if none follows."""
        following = self._pieces[last].start if last < len(self._pieces) else self._end
        return float("inf") if following is None else following - self._pieces[first].start

    def _line_price(self, first: int, cut: int, last: int) -> float:
        upper, lower = self._width(first, cut) + self._label, self._width(cut, last)
        over = max(upper, lower) > self._columns
        return 10.0 * over + abs(upper - lower) / self._columns + self._cut_price(cut)

    def _cut_price(self, at: int) -> float:
        if at == len(self._pieces) or scripts.ends_sentence(self._pieces[at - 1].text):
            return _AFTER_SENTENCE
        pause = self._pieces[at].start - self._pieces[at - 1].end
        if pause >= PAUSE or scripts.ends_clause(self._pieces[at - 1].text):
            return _AFTER_CLAUSE
        return _INSIDE_A_WORD if self._pieces[at].inside else _ANYWHERE


def _pieces(segment: Segment) -> list[Piece]:
    """The text of a segment in pieces, timed by its words, or else in proportion to their length."""
    words = segment.get("words") or []
    texts = split_words(segment["text"], words)
    parts = list(_spread(segment)) if texts is None else _of_words(segment, words, texts)
    pieces = _whole(parts)
    inside = phrases.continued("".join(piece.text for piece in pieces))
    begins = accumulate((len(piece.text) for piece in pieces), initial=0)
    return [replace(piece, inside=at in inside) for piece, at in zip(pieces, begins, strict=False)]


def _of_words(segment: Segment, words: Sequence[Word], texts: list[str]) -> list[Piece]:
    parts: list[Piece] = []
    clock = _ms(segment["start"])
    for word, text in zip(words, texts, strict=True):
        start = max(clock, _ms(word.get("start", clock / 1000)))
        clock = max(start, _ms(word.get("end", start / 1000)))
        parts.append(Piece(_line(text), start, clock))
    return parts


def _spread(segment: Segment) -> Iterator[Piece]:
    """Pieces of a segment's text without word times. Each takes time in proportion to its width."""
    text = _line(segment["text"])
    total = scripts.width(text) or 1
    start = _ms(segment["start"])
    length = min(_ms(segment["end"]) - start, total * 1000 // SLOWEST_A_SECOND)
    before = 0
    for part in _broken(text):
        after = before + scripts.width(part)
        yield Piece(part, start + length * before // total, start + length * after // total)
        before = after


def _broken(text: str) -> Iterator[str]:
    begin = 0
    for at in range(1, len(text)):
        if text[at].isspace() or scripts.may_break(text[at - 1], text[at]):
            yield text[begin:at]
            begin = at
    yield text[begin:]


def _whole(parts: Iterable[Piece]) -> list[Piece]:
    """Join pieces between which no line may be broken, and drop empty ones."""
    joined: list[Piece] = []
    for part in parts:
        if not part.text:
            continue
        if joined and not _parted(joined[-1].text, part.text):
            joined[-1] = replace(joined[-1], text=joined[-1].text + part.text, end=part.end)
        elif part.text.strip():
            joined.append(part)
    return joined


def _parted(left: str, right: str) -> bool:
    return right[0].isspace() or scripts.may_break(left[-1], right[0])


def _line(text: str) -> str:
    """The text in one line, as line breaks would end a cue early. A space before it stays."""
    return " " * text[:1].isspace() + " ".join(text.split())


def _ms(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)
