"""Speech without words is found, and what was recognised again comes into its place."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.audio.sound import RATE, Samples
from workers.audio.vad import Speech
from workers.engine import coverage, gap_filling
from workers.engine.hypothesis import WindowResult
from workers.engine.windows import Window
from workers.engine.words import Word

# Three voices: 0 to 5 s, 7 to 13 s, 15 to 20 s.
FIRST, MIDDLE, LAST = Speech(0.0, 5.0), Speech(7.0, 13.0), Speech(15.0, 20.0)
SPEECH = [FIRST, MIDDLE, LAST]
SILENCE = np.zeros(20 * RATE, np.float32)


def said(text: str, start: float, end: float) -> list[Word]:
    """Words spread evenly from `start` to `end`."""
    parts = text.split()
    step = (end - start) / len(parts)
    return [Word(f" {part}", start + n * step, start + (n + 1) * step) for n, part in enumerate(parts)]


def text_of(words: list[Word]) -> str:
    return "".join(word.text for word in words)


ONE = said("we are glad to welcome his gospel and the middle classes.", 0.0, 5.0)
TWO = said("ask not what your country can do for you but ask what you can do for it.", 7.0, 13.0)
THREE = said("He was not an ill disposed young man unless that is selfish.", 15.0, 20.0)


def test_speech_that_all_has_words_has_no_gap() -> None:
    assert coverage.gaps([*ONE, *TWO, *THREE], SPEECH) == []


def test_speech_without_words_is_a_gap() -> None:
    [gap] = coverage.gaps([*ONE, *THREE], SPEECH)
    assert (gap.first, gap.last) == (len(ONE), len(ONE))
    assert gap.seconds == pytest.approx(6.0)
    assert gap.start <= 7.0
    assert gap.end >= 13.0


@pytest.mark.parametrize(
    ("words", "lost"), [([*TWO, *THREE], 0), ([*ONE, *TWO], 2), ([], 3)], ids=["first", "last", "all"]
)
def test_a_gap_may_lie_anywhere(words: list[Word], lost: int) -> None:
    [gap] = coverage.gaps(words, SPEECH)
    wanted = SPEECH[lost] if lost < 3 else Speech(0.0, 20.0)
    assert gap.start <= wanted.start
    assert gap.end >= wanted.end


def test_a_word_that_is_stretched_over_a_gap_does_not_cover_it() -> None:
    stretched = replace(THREE[0], start=5.4, end=15.3)
    words = [*ONE, stretched, *THREE[1:]]
    words[len(ONE) + 1] = replace(THREE[1], start=15.4)
    unstretched = coverage.unstretched(words, SPEECH)
    assert unstretched[len(ONE)].start >= LAST.start
    [gap] = coverage.gaps(unstretched, SPEECH)
    assert (gap.first, gap.last) == (len(ONE), len(ONE))
    assert gap.seconds > 5.0


def test_a_word_that_ends_a_sentence_stays_with_it() -> None:
    words = [*ONE[:-1], replace(ONE[-1], end=14.0), *THREE]
    unstretched = coverage.unstretched(words, SPEECH)
    assert unstretched[len(ONE) - 1].end <= FIRST.end
    assert len(coverage.gaps(unstretched, SPEECH)) == 1


def test_a_soft_end_of_a_word_and_a_breath_are_no_gap() -> None:
    early = [*ONE[:-1], replace(ONE[-1], end=4.6)]
    assert coverage.gaps([*early, *TWO, *THREE], [*SPEECH, Speech(21.0, 21.5)]) == []


_texts = st.lists(st.sampled_from(["a", "word", "Leichenhalle", "日", "you."]), max_size=12)


@settings(max_examples=200)
@given(
    texts=_texts,
    times=st.lists(st.floats(0, 20), min_size=24, max_size=24),
    borders=st.lists(st.floats(0, 20), min_size=4, max_size=8, unique=True),
)
def test_gaps_are_in_order_apart_and_hold_each_word_at_most_once(
    texts: list[str], times: list[float], borders: list[float]
) -> None:
    clocks = sorted(times)
    words = [Word(text, clocks[2 * n], clocks[2 * n + 1]) for n, text in enumerate(texts)]
    edges = sorted(borders)[: len(borders) // 2 * 2]
    speech = [Speech(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    gaps = coverage.gaps(coverage.unstretched(words, speech), speech)
    for before, after in pairwise(gaps):
        assert before.end <= after.start
        assert before.last <= after.first
    assert all(0 <= gap.first <= gap.last <= len(words) for gap in gaps)
    assert all(gap.start < gap.end for gap in gaps)


def test_each_part_is_raised_to_one_level_and_the_rest_stays() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    noise[RATE : 2 * RATE] *= 0.01
    windows = [Window(0.0, 2.0, [Speech(0.0, 1.0), Speech(1.0, 2.0)])]
    raised = coverage.with_raised_parts(noise, windows)
    levels = [float(np.sqrt(np.mean(raised[n * RATE : (n + 1) * RATE] ** 2))) for n in range(3)]
    assert levels[0] == pytest.approx(0.1, rel=0.05)
    assert levels[1] == pytest.approx(0.1, rel=0.05)
    assert np.array_equal(raised[2 * RATE :], noise[2 * RATE :])
    assert float(np.abs(coverage.with_raised_parts(np.zeros_like(noise), windows)).max()) == 0.0


# What is recognised again


class Recogniser:
    """Says what was prepared for the windows that begin in a second of the recording."""

    def __init__(self, **texts: str) -> None:
        self.texts = {int(key.strip("s")): text for key, text in texts.items()}
        self.asked: list[Window] = []

    def __call__(self, samples: Samples, windows: list[Window]) -> list[WindowResult]:
        assert len(samples) == len(SILENCE)
        self.asked += windows
        return [self._heard(window) for window in windows]

    def _heard(self, window: Window) -> WindowResult:
        text = next((text for at, text in self.texts.items() if window.start <= at < window.end), "")
        words = said(text, window.start, window.end) if text else None
        return WindowResult(window, text and f" {text}", -0.1, timed_words=words)


def heard(words: list[Word], speech: list[Speech] | None = None) -> WindowResult:
    parts = speech or SPEECH
    return WindowResult(Window(parts[0].start, parts[-1].end, parts), text_of(words), -0.1, timed_words=words)


def test_what_was_skipped_comes_between_what_surrounds_it() -> None:
    recognise = Recogniser(s9=text_of(TWO).strip())
    result = gap_filling.fill([heard([*ONE, *THREE])], SILENCE, recognise)
    [filled] = result.results
    assert filled.text == text_of([*ONE, *TWO, *THREE])
    assert [word.text for word in filled.timed_words or []] == [word.text for word in [*ONE, *TWO, *THREE]]
    starts = [word.start for word in filled.timed_words or []]
    assert starts == sorted(starts)
    assert result.uncovered == []
    assert result.seconds > 6.0
    assert all(window.weak for window in recognise.asked)  # only a likely text is believed


def test_nothing_is_recognised_again_where_nothing_is_missing() -> None:
    recognise = Recogniser()
    one = heard([*ONE, *TWO, *THREE])
    assert gap_filling.fill([one], SILENCE, recognise).results == [one]
    assert recognise.asked == []


def test_what_stays_without_words_is_reported() -> None:
    result = gap_filling.fill([heard([*ONE, *THREE])], SILENCE, Recogniser())
    assert result.results[0].text == text_of([*ONE, *THREE])
    assert coverage.probable_speech(result.uncovered, SPEECH, [*ONE, *THREE]) == [(7.0, 13.0)]


@pytest.mark.parametrize("probability", [0.5, 0.69])
def test_what_hardly_sounds_like_speech_is_not_reported(probability: float) -> None:
    result = gap_filling.fill([heard([*ONE, *THREE])], SILENCE, Recogniser())
    unsure = [FIRST, replace(MIDDLE, probability=probability), LAST]
    assert coverage.probable_speech(result.uncovered, unsure, [*ONE, *THREE]) == []


def test_a_gap_may_hold_another() -> None:
    speech = [FIRST, Speech(7.0, 10.0), Speech(14.0, 17.0), Speech(22.0, 26.0)]
    samples = np.zeros(26 * RATE, np.float32)
    last = said("He was not an ill disposed young man.", 22.0, 26.0)
    texts = {
        7.0: said("ask not what your country", 7.0, 10.0),
        14.0: said("can do for you today", 14.0, 17.0),
    }

    def recognise(_: Samples, windows: list[Window]) -> list[WindowResult]:
        # Of a window with both parts only the first is recognised.
        made = []
        for window in windows:
            at = next(start for start in texts if window.start <= start + 1 < window.end)
            made.append(WindowResult(window, text_of(texts[at]), -0.1, timed_words=texts[at]))
        return made

    result = gap_filling.fill([heard([*ONE, *last], speech)], samples, recognise)
    wanted = [*ONE, *texts[7.0], *texts[14.0], *last]
    assert result.results[0].text == text_of(wanted)


def test_a_word_beside_a_gap_is_not_lost_to_it() -> None:
    misplaced = [Word(" Friends", 12.0, 12.9)]  # said at 15 s, as the first word of the last part
    words = [*ONE, *misplaced, *THREE]
    result = gap_filling.fill([heard(words)], SILENCE, Recogniser(s9=text_of(TWO).strip()))
    assert result.results[0].text == text_of([*ONE, *TWO, *misplaced, *THREE])


def test_words_that_are_recognised_again_are_not_doubled() -> None:
    words = [*ONE, *TWO[:3], *THREE]
    result = gap_filling.fill([heard(words)], SILENCE, Recogniser(s9=text_of(TWO).strip()))
    assert result.results[0].text == text_of([*ONE, *TWO, *THREE])


def test_a_shorter_text_does_not_replace_a_longer_one() -> None:
    words = [*ONE, *TWO[:6], *THREE]
    result = gap_filling.fill([heard(words)], SILENCE, Recogniser(s9="ask"))
    assert result.results[0].text == text_of(words)


def test_weak_speech_that_was_dropped_is_not_recognised_again() -> None:
    recognise = Recogniser()
    window = Window(0.0, 5.0, [FIRST], weak=True)
    gap_filling.fill([WindowResult(window, "", -1.2)], SILENCE, recognise)
    assert recognise.asked == []
