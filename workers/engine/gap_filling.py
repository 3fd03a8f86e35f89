"""Recognises again what the first pass over a span skipped, and inserts the words.

:mod:`workers.engine.coverage` finds the gaps: speech over which no word lies. A gap is recognised in windows
of its own, at a raised level. Its short pauses are kept in these windows, since the voice activity detector
finds only parts of a quiet voice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from workers.audio.sound import Samples
from workers.audio.vad import Speech
from workers.engine import coverage
from workers.engine.coverage import Gap
from workers.engine.hypothesis import Heard
from workers.engine.weak_speech import joined
from workers.engine.windows import Window, pack
from workers.engine.words import Word, ends_sentence, letters, spread

log = logging.getLogger(__name__)

# So many seconds before and after what was detected as speech are recognised with it.
MARGIN = 1.0
# A text contains some words if it has this share of their letters, in runs of at least so many letters.
SAME_SHARE, SAME_LETTERS = 0.6, 3
# A gap that was filled may have a gap in it, so it is checked again, up to `ROUNDS` passes in all. In these
# windows, which have pauses, a gap is at least so many seconds long.
ROUNDS, LEAST_AGAIN_SECONDS = 2, 1.5

Recognise = Callable[[Samples, list[Window]], list[Heard]]


@dataclass(slots=True)
class Result:
    """The hypotheses of a span in order, and the windows for which nothing was recognised.

    `seconds` of sound were recognised again.
    """

    heard: list[Heard]
    uncovered: list[Window] = field(default_factory=list)
    seconds: float = 0.0


def fill(heard: Sequence[Heard], samples: Samples, recognise: Recognise, rounds: int = ROUNDS) -> Result:
    """The hypotheses of a span with their gaps recognised and filled.

    Args:
        heard: The hypotheses of a span's windows, in order.
        samples: Of the span, 16 kHz mono.
        recognise: Recognises windows of the samples that it gets, with word times.
        rounds: How many times gaps may be recognised, one inside the other.
    """
    checked = [_Checked.of(hypothesis, samples) for hypothesis in heard]
    windows = [window for one in checked for gap in one.windows for window in gap]
    if not windows or not rounds:
        return Result(list(heard))
    raised = coverage.raised(samples, windows)
    result = fill(recognise(raised, windows), raised, recognise, rounds - 1)
    result.seconds += sum(window.spoken for window in windows)
    recognised = iter(result.heard)
    result.heard = [
        one.filled([[next(recognised) for _ in gap] for gap in one.windows], result.uncovered)
        for one in checked
    ]
    return result


@dataclass(frozen=True, slots=True)
class _Checked:
    """A hypothesis with its gaps, and for each gap the windows in which it is recognised."""

    heard: Heard
    words: list[Word]
    gaps: list[Gap]
    windows: list[list[Window]]

    @classmethod
    def of(cls, heard: Heard, samples: Samples) -> _Checked:
        speech = heard.window.speech
        # Words without times do not show what they cover.
        untimed = heard.timed is None and heard.text.strip()
        # What was rejected as noise would be rejected again.
        rejected = heard.window.weak and not heard.text.strip()
        if untimed or rejected:
            return cls(heard, [], [], [])
        words = coverage.unstretched(heard.timed or [], speech)
        least = LEAST_AGAIN_SECONDS if heard.window.weak else coverage.LEAST_SECONDS
        gaps = coverage.gaps(words, speech, least)
        return cls(heard, words, gaps, [_windows(gap, speech, samples) for gap in gaps])

    def filled(self, recognised: Sequence[list[Heard]], uncovered: list[Window]) -> Heard:
        """The hypothesis with the words that were recognised for its gaps.

        Args:
            recognised: The hypotheses for each gap.
            uncovered: The windows of a gap for which nothing was recognised are appended to it.
        """
        filled = self
        for gap, hypotheses in reversed(list(zip(self.gaps, recognised, strict=True))):
            texts = [hypothesis for hypothesis in hypotheses if hypothesis.text.strip()]
            if texts:
                filled = filled._with(gap, texts)
            else:
                uncovered += [hypothesis.window for hypothesis in hypotheses]
        found = [passage for gap in recognised for hypothesis in gap for passage in hypothesis.passages]
        heard = replace(filled.heard, passages=[*self.heard.passages, *found])
        return replace(heard, text=_text(filled.words), timed=filled.words) if filled.words else heard

    def _with(self, gap: Gap, hypotheses: Sequence[Heard]) -> _Checked:
        """The hypothesis with the words for one gap, if they say more than the words that they replace.

        The last gap is filled first: the numbers of the words before it stay.
        """
        new = [word for hypothesis in hypotheses for word in _words(hypothesis)]
        old = self.words[gap.first : gap.last]
        log.debug("a gap from %.1f to %.1f s: %r instead of %r", gap.start, gap.end, _text(new), _text(old))
        if letters(_text(new)) <= letters(_text(old)):
            return self
        before, after = _kept(old, _text(new))
        window = self.heard.window
        speech = [
            *coverage.within(window.speech, 0.0, gap.start),
            *(part for hypothesis in hypotheses for part in hypothesis.window.speech),
            *coverage.within(window.speech, gap.end, window.end),
        ]
        words = [*self.words[: gap.first], *before, *new, *after, *self.words[gap.last :]]
        return replace(self, words=words, heard=replace(self.heard, window=replace(window, speech=speech)))


def _words(heard: Heard) -> list[Word]:
    return heard.timed or spread(heard.text, heard.logprob, heard.window.speech)


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


def _kept(replaced: Sequence[Word], text: str) -> tuple[Sequence[Word], Sequence[Word]]:
    """The replaced words that the new text lacks: those of the sentence before it, and of the one after it.

    Word times beside a gap are uncertain. A word of a neighbouring sentence may be timed inside the gap.
    """
    cut = max((number + 1 for number, word in enumerate(replaced) if ends_sentence(word.text)), default=0)
    before, after = replaced[:cut], replaced[cut:]
    return [] if _contains(text, before) else before, [] if _contains(text, after) else after


def _contains(text: str, words: Sequence[Word]) -> bool:
    """Whether most letters of the words are in the text, in order."""
    wanted = _text(words).strip().lower()
    matcher = SequenceMatcher(None, text.lower(), wanted, autojunk=False)
    same = sum(block.size for block in matcher.get_matching_blocks() if block.size >= SAME_LETTERS)
    return same >= SAME_SHARE * len(wanted)


def _windows(gap: Gap, speech: Sequence[Speech], samples: Samples) -> list[Window]:
    """The windows in which a gap is recognised: its speech with its short pauses and a margin."""
    parts = joined(coverage.within(speech, gap.start, gap.end))
    windows = pack([_with_margin(part, gap) for part in parts], samples)
    return [replace(window, weak=True) for window in windows]


def _with_margin(part: Speech, gap: Gap) -> Speech:
    start, end = max(gap.start, part.start - MARGIN), min(gap.end, part.end + MARGIN)
    lead, tail = part.lead + part.start - start, part.tail + end - part.end
    return replace(part, start=start, end=end, lead=lead, tail=tail)
