"""A transcript cut into what a viewer can read in time: cues of two lines. Pure.

The limits are those of broadcasters: so many columns a line, so long on the screen. A cue is of one segment,
so of one speaker; a long segment is cut where a reader would pause.
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
# Milliseconds on the screen; the shortest gives way where the next cue begins earlier.
SHORTEST, LONGEST = 1000, 7000
BARELY = 50  # what is left of a cue at the least
COLUMNS_A_SECOND = 20  # that people read; Chinese takes two columns a character
# A text whose words have no times is not spread over more: the rest of the segment is silence.
SLOWEST_A_SECOND = 4
PAUSE = 500  # milliseconds of silence that make a good cut

# What it costs to cut a text after a sentence, after a clause or in a pause, or elsewhere.
_AFTER_SENTENCE, _AFTER_CLAUSE, _ANYWHERE = 0.0, 0.15, 0.6
# The price of a cut inside a word of a script without spaces: only a word that is longer than a line is cut.
_INSIDE_A_WORD = 4.0
_A_CUE, _TOO_SHORT, _UNEVEN = 1.0, 1.0, 0.5
# The price of a cue that is shown for too short a time: half of this for half of the time that its reader
# needs. Only for cues with a label, which makes many short cues more to read than few long ones.
_TOO_FAST = 20.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What no line is broken in, with the space before it; times in milliseconds."""

    text: str
    start: int
    end: int
    inside: bool = False  # it begins inside a word, of a script without spaces


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown from `start` to `end`, in milliseconds; `lines` are of pieces.

    `label`: columns of what the writer puts before the first line.
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
    """Cues in order that never overlap; with a speaker the first line leaves `label` columns free."""
    shown = list(segments)
    ends = [_ms(following["start"]) for following in shown[1:]]
    parts = zip(shown, [*ends, None], strict=False)
    return _timed([cue for segment, end in parts for cue in _cut(segment, label, end)])


def stamped(cue: Cue) -> list[list[tuple[int | None, str]]]:
    """The lines of a cue word by word, each with the time it begins at, for WebVTT's highlighting.

    A time is inside the cue and later than the one before; None for a word that has no such time.
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
    """A text in parts, one for each word, spaces and all; None where the words are not those of the text."""
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
    """The cues of a segment; what follows it begins at `end`, in milliseconds."""
    pieces = _pieces(segment)
    label = label if segment.get("speaker") else 0
    columns = COLUMNS_WIDE if any(scripts.wide(char) for char in segment["text"]) else COLUMNS
    layout = _Layout(pieces, columns, label, end)
    for first, last in layout.parts():
        part = pieces[first:last]
        lines = tuple(tuple(pieces[start:end]) for start, end in layout.lines(first, last))
        yield Cue(part[0].start, max(part[0].start, part[-1].end), lines, segment.get("speaker"), label)


def _timed(found: list[Cue]) -> list[Cue]:
    """Cues in order, each as long as its reader needs and the next one allows."""
    starts = list(accumulate((cue.start for cue in found), lambda before, now: max(before + BARELY, now)))
    timed = []
    for cue, start, following in zip(found, starts, [*starts, None][1:], strict=True):
        reading = _reading(cue.label + sum(map(scripts.width, cue.texts)))
        end = min(max(cue.end, start + SHORTEST, start + reading), start + LONGEST)
        end = end if following is None else min(end, following)
        timed.append(replace(cue, start=start, end=end))
    return timed


def _reading(columns: int) -> int:
    """Milliseconds that it takes to read so many columns."""
    return columns * 1000 // COLUMNS_A_SECOND


class _Layout:
    """How the pieces of a segment may be cut into cues and lines."""

    def __init__(self, pieces: Sequence[Piece], columns: int, label: int, end: int | None) -> None:
        self._pieces, self._columns, self._label, self._end = pieces, columns, label, end
        self._words = [at for at, piece in enumerate(pieces) if not piece.inside]
        self._before = [0, *accumulate(scripts.width(piece.text) for piece in pieces)]

    def parts(self) -> list[tuple[int, int]]:
        """The cheapest way to cut all pieces into cues."""
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
        """One line if it is short enough, else two, cut at a clause or near the middle."""
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
        """Where a first line ends that holds as much as it can."""
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
        """Whether two lines can be parted between words."""
        cut = self._words[bisect_right(self._words, self._first_line(first)) - 1]
        return first < cut < last and self._width(cut, last) <= self._columns

    def _shown(self, first: int, last: int) -> float:
        """Milliseconds from its first word to the next cue, or as long as it takes where none follows."""
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
    """The text of a segment in pieces, by its words' times where they are its words', else by length."""
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
    """Each piece as long as its share of the text."""
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
    """Pieces between which a line may be broken, and none that is empty."""
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
    """Without line breaks, which would end a cue early; a space before it stays."""
    return " " * text[:1].isspace() + " ".join(text.split())


def _ms(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)
