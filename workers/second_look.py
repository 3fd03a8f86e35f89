"""Recognising again what the first pass over a span skipped, and putting it in its place.

The first pass leaves speech without words where a quieter or another voice, a repeated sentence or another
language lies between louder or other speech (:mod:`workers.coverage` finds it). That speech is recognised in
windows of its own, at a raised level and with its pauses, since the voice activity detector finds only parts
of a quiet voice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from workers import coverage
from workers.audio import Samples
from workers.coverage import Gap
from workers.recognise import Heard
from workers.vad import Speech
from workers.weak_speech import joined
from workers.windows import Window, pack
from workers.words import Word, ends_sentence, letters, spread

log = logging.getLogger(__name__)

# So many seconds before and after what was detected as speech are recognised with it.
MARGIN = 1.0
# Words are in a text if this share of their letters is, in runs of so many at least.
SAME_SHARE, SAME_LETTERS = 0.6, 3
# A gap that was filled may have a gap in it. In windows with pauses it is of so many seconds at least.
ROUNDS, LEAST_AGAIN = 2, 1.5

Recognise = Callable[[Samples, list[Window]], list[Heard]]


@dataclass(slots=True)
class Result:
    """What came of it: the hypotheses in the order of the span, and windows that stay without words.

    `seconds` of sound were recognised again.
    """

    heard: list[Heard]
    uncovered: list[Window] = field(default_factory=list)
    seconds: float = 0.0


def fill(heard: Sequence[Heard], samples: Samples, recognise: Recognise, rounds: int = ROUNDS) -> Result:
    """The hypotheses of a span with what they skipped put in its place.

    Args:
        heard: The hypotheses of a span's windows, in order.
        samples: Of the span, 16 kHz mono.
        recognise: Recognises windows of some samples, with word times.
        rounds: How often a gap may be recognised again: a gap that was filled may have a gap in it.
    """
    found = [_Checked.of(one, samples) for one in heard]
    windows = [window for one in found for gap in one.windows for window in gap]
    if not windows or not rounds:
        return Result(list(heard))
    level = coverage.raised(samples, windows)
    again = fill(recognise(level, windows), level, recognise, rounds - 1)
    again.seconds += sum(window.spoken for window in windows)
    hypotheses = iter(again.heard)
    again.heard = [
        one.filled([[next(hypotheses) for _ in gap] for gap in one.windows], again.uncovered) for one in found
    ]
    return again


@dataclass(frozen=True, slots=True)
class _Checked:
    """A hypothesis with its gaps, and for each gap the windows in which it is recognised again."""

    heard: Heard
    words: list[Word]
    gaps: list[Gap]
    windows: list[list[Window]]

    @classmethod
    def of(cls, one: Heard, samples: Samples) -> _Checked:
        speech = one.window.speech
        unknown = one.timed is None and one.text.strip()  # words without times do not tell what they cover
        rejected = one.window.weak and not one.text.strip()  # again it would be rejected
        if unknown or rejected:
            return cls(one, [], [], [])
        words = coverage.settled(one.timed or [], speech)
        gaps = coverage.gaps(words, speech, LEAST_AGAIN if one.window.weak else coverage.LEAST)
        return cls(one, words, gaps, [_windows(gap, speech, samples) for gap in gaps])

    def filled(self, found: Sequence[list[Heard]], uncovered: list[Window]) -> Heard:
        """The hypothesis with those found for its gaps; what was found for none is added to `uncovered`."""
        words, speech = self.words, self.heard.window.speech
        passages = [
            *self.heard.passages,
            *(one for some in found for other in some for one in other.passages),
        ]
        for gap, hypotheses in reversed(list(zip(self.gaps, found, strict=True))):
            good = [one for one in hypotheses if one.text.strip()]
            new = [word for one in good for word in _words(one)]
            replaced = words[gap.first : gap.last]
            log.debug(
                "a gap from %.1f to %.1f s: %r instead of %r", gap.start, gap.end, _text(new), _text(replaced)
            )
            if not good:
                uncovered += [one.window for one in hypotheses]
            elif letters(_text(new)) > letters(_text(replaced)):
                before, after = _kept(replaced, _text(new))
                words = [*words[: gap.first], *before, *new, *after, *words[gap.last :]]
                speech = [
                    *coverage.within(speech, 0.0, gap.start),
                    *(part for one in good for part in one.window.speech),
                    *coverage.within(speech, gap.end, self.heard.window.end),
                ]
        window = replace(self.heard.window, speech=speech)
        made = replace(self.heard, passages=passages)
        return replace(made, window=window, text=_text(words), timed=words) if words else made


def _words(one: Heard) -> list[Word]:
    return one.timed or spread(one.text, one.logprob, one.window.speech)


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


def _kept(replaced: Sequence[Word], text: str) -> tuple[Sequence[Word], Sequence[Word]]:
    """The replaced words that are not in the new text: those of the sentence before it, and of the one after.

    Word times beside a gap are uncertain: a word may be timed inside it and belong to a sentence beside it.
    """
    cut = max((number + 1 for number, word in enumerate(replaced) if ends_sentence(word.text)), default=0)
    before, after = replaced[:cut], replaced[cut:]
    return [] if _contains(text, before) else before, [] if _contains(text, after) else after


def _contains(text: str, words: Sequence[Word]) -> bool:
    """Whether most letters of the words are in the text, in order."""
    said = _text(words).strip().lower()
    matcher = SequenceMatcher(None, text.lower(), said, autojunk=False)
    same = sum(block.size for block in matcher.get_matching_blocks() if block.size >= SAME_LETTERS)
    return same >= SAME_SHARE * len(said)


def _windows(gap: Gap, speech: Sequence[Speech], samples: Samples) -> list[Window]:
    """The windows in which a gap is recognised again: its speech with its short pauses, and a little around
    it.
    """
    made = pack(
        [_with_margin(part, gap) for part in joined(coverage.within(speech, gap.start, gap.end))], samples
    )
    return [replace(window, weak=True) for window in made]


def _with_margin(part: Speech, gap: Gap) -> Speech:
    start, end = max(gap.start, part.start - MARGIN), min(gap.end, part.end + MARGIN)
    lead, tail = part.lead + part.start - start, part.tail + end - part.end
    return replace(part, start=start, end=end, lead=lead, tail=tail)
