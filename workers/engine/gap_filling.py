"""Recognises again what the first pass over a span skipped, and inserts the words.

:mod:`workers.engine.coverage` finds the gaps: speech over which no word lies. A gap is recognised in windows
of its own, at a raised level. Its short pauses are kept in these windows, since the voice activity detector
finds only parts of a quiet voice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

import structlog

from workers.audio.sound import Samples
from workers.audio.vad import Speech
from workers.engine import coverage
from workers.engine.coverage import Gap
from workers.engine.hypothesis import WindowResult
from workers.engine.weak_speech import joined
from workers.engine.windows import Window, pack
from workers.engine.words import Word, ends_sentence, letters, spread

log = structlog.stdlib.get_logger(__name__)

# These numbers were chosen on constructed recordings (docs/benchmarks.md, "Speech that was skipped").
# Seconds before and after detected speech that are recognised with it.
MARGIN = 1.0
# A text contains some words if it has this share of their letters, in runs of at least so many letters.
SAME_SHARE, SAME_LETTERS = 0.6, 3
# The windows of a gap may have gaps too, so gaps are looked for up to `ROUNDS` times. In the windows of a
# gap, which contain pauses, a gap has at least so many seconds of speech without words.
ROUNDS, LEAST_AGAIN_SECONDS = 2, 1.5

Recognise = Callable[[Samples, list[Window]], list[WindowResult]]


@dataclass(slots=True)
class Filled:
    """What filling the gaps of a span gave."""

    results: list[WindowResult]  # of the windows of the span, in order
    uncovered: list[Window] = field(default_factory=list)  # windows of gaps, in which nothing was recognised
    seconds: float = 0.0  # of audio that was recognised again


def fill(
    results: Sequence[WindowResult], samples: Samples, recognise: Recognise, rounds: int = ROUNDS
) -> Filled:
    """The results of a span with the gaps recognised and filled.

    Args:
        results: The results of the span's windows, in order.
        samples: The audio of the span, 16 kHz mono.
        recognise: Recognises windows of the samples that it gets, with word times.
        rounds: How many rounds are left. Each round recognises the gaps that the round before left.
    """
    checked = [_ResultWithGaps.of(result, samples) for result in results]
    windows = [window for one in checked for gap in one.windows for window in gap]
    if not windows or not rounds:
        return Filled(list(results))
    raised = coverage.with_raised_parts(samples, windows)
    inner = fill(recognise(raised, windows), raised, recognise, rounds - 1)
    inner.seconds += sum(window.spoken for window in windows)
    recognised = iter(inner.results)
    inner.results = [
        one.filled([[next(recognised) for _ in gap] for gap in one.windows], inner.uncovered)
        for one in checked
    ]
    return inner


@dataclass(frozen=True, slots=True)
class _ResultWithGaps:
    """A result, its words with corrected times, its gaps, and the windows in which each gap is recognised."""

    result: WindowResult
    words: list[Word]
    gaps: list[Gap]
    windows: list[list[Window]]

    @classmethod
    def of(cls, result: WindowResult, samples: Samples) -> _ResultWithGaps:
        """Find the gaps of a result; `samples` are the audio of the span."""
        speech = result.window.speech
        # Words without times do not show what they cover.
        untimed = result.timed_words is None and result.text.strip()
        # A text that was rejected as noise would be rejected again.
        rejected = result.window.weak and not result.text.strip()
        if untimed or rejected:
            return cls(result, [], [], [])
        words = coverage.unstretched(result.timed_words or [], speech)
        least = LEAST_AGAIN_SECONDS if result.window.weak else coverage.LEAST_SECONDS
        gaps = coverage.gaps(words, speech, least)
        return cls(result, words, gaps, [_windows(gap, speech, samples) for gap in gaps])

    def filled(self, recognised: Sequence[list[WindowResult]], uncovered: list[Window]) -> WindowResult:
        """The result with the words that were recognised for its gaps.

        Args:
            recognised: For each gap, the results of its windows.
            uncovered: The windows of gaps for which nothing was recognised are appended to it.
        """
        filled = self
        # The last gap is filled first, so that the indices of the words before it stay.
        for gap, results in reversed(list(zip(self.gaps, recognised, strict=True))):
            texts = [result for result in results if result.text.strip()]
            if texts:
                filled = filled._with(gap, texts)
            else:
                uncovered += [result.window for result in results]
        found = [passage for gap in recognised for result in gap for passage in result.passages]
        changed = replace(filled.result, passages=[*self.result.passages, *found])
        return (
            replace(changed, text=_text(filled.words), timed_words=filled.words) if filled.words else changed
        )

    def _with(self, gap: Gap, results: Sequence[WindowResult]) -> _ResultWithGaps:
        """The result with the words for one gap, if they have more letters than those that they replace."""
        new = [word for result in results for word in _words(result)]
        old = self.words[gap.first : gap.last]
        log.debug("a gap was recognised", start=gap.start, end=gap.end, words=len(new), replaced=len(old))
        if letters(_text(new)) <= letters(_text(old)):
            return self
        before, after = _kept(old, _text(new))
        window = self.result.window
        speech = [
            *coverage.within(window.speech, 0.0, gap.start),
            *(part for result in results for part in result.window.speech),
            *coverage.within(window.speech, gap.end, window.end),
        ]
        words = [*self.words[: gap.first], *before, *new, *after, *self.words[gap.last :]]
        return replace(self, words=words, result=replace(self.result, window=replace(window, speech=speech)))


def _words(result: WindowResult) -> list[Word]:
    return result.timed_words or spread(result.text, result.logprob, result.window.speech)


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


def _kept(replaced: Sequence[Word], text: str) -> tuple[Sequence[Word], Sequence[Word]]:
    """The replaced words that the new text lacks: of the sentence before the gap, and of the one after it.

    Word times beside a gap are uncertain: a word of a neighbouring sentence may be timed inside the gap.
    """
    cut = max((number + 1 for number, word in enumerate(replaced) if ends_sentence(word.text)), default=0)
    before, after = replaced[:cut], replaced[cut:]
    return [] if _contains(text, before) else before, [] if _contains(text, after) else after


def _contains(text: str, words: Sequence[Word]) -> bool:
    """Whether the text contains most letters of the words, in order."""
    wanted = _text(words).strip().lower()
    matcher = SequenceMatcher(None, text.lower(), wanted, autojunk=False)
    same = sum(block.size for block in matcher.get_matching_blocks() if block.size >= SAME_LETTERS)
    return same >= SAME_SHARE * len(wanted)


def _windows(gap: Gap, speech: Sequence[Speech], samples: Samples) -> list[Window]:
    """The windows in which a gap is recognised: its speech with a margin and with the short pauses."""
    parts = joined(coverage.within(speech, gap.start, gap.end))
    windows = pack([_with_margin(part, gap) for part in parts], samples)
    return [replace(window, weak=True) for window in windows]


def _with_margin(part: Speech, gap: Gap) -> Speech:
    start, end = max(gap.start, part.start - MARGIN), min(gap.end, part.end + MARGIN)
    lead, tail = part.lead + part.start - start, part.tail + end - part.end
    return replace(part, start=start, end=end, lead=lead, tail=tail)
