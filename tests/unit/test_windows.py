"""Speech is packed into windows that cut no word."""

from __future__ import annotations

import numpy as np
import pytest

from workers.audio.sound import Samples
from workers.audio.vad import Speech
from workers.engine import words
from workers.engine.hypothesis import Hypothesis
from workers.engine.windows import LONGEST, Window, batches, pack

SILENCE = np.zeros(16_000 * 120, np.float32)


def test_windows_are_cut_in_the_longest_pauses_and_hold_all_speech() -> None:
    # Sentences of 9 s, each of three clauses; a window of 29 s would reach into the fourth.
    speech = [
        Speech(10.0 * n + 3 * part, 10.0 * n + 3 * part + 2.8, 1.2 if part == 2 else 0.2)
        for n in range(9)
        for part in range(3)
    ]
    windows = pack(speech, SILENCE)
    assert [part for window in windows for part in window.speech] == speech
    assert all(window.spoken <= LONGEST for window in windows)
    assert all(window.start % 10 == 0 for window in windows)


def loud(seconds: int) -> Samples:
    """1, -1, 1, …: samples of one value are no sound, and would be raised as something very quiet."""
    return np.tile(np.array([1, -1], np.float32), 8_000 * seconds)


def test_pauses_fill_no_windows_and_times_are_those_of_the_recording() -> None:
    samples = np.repeat(np.arange(120, dtype=np.float32), 16_000) * loud(120)
    [window] = pack([Speech(2, 12, 30), Speech(50, 60)], samples)
    heard = window.cut(samples)
    assert heard[::16_000].tolist() == [*range(2, 12), *range(50, 60)]
    timed = [
        words.Word("a", *(words.at(time, window.speech) for time in pair)) for pair in ((9.9, 10.4), (15, 16))
    ]
    placed = words.place(timed, window.speech, window.start, window.end)
    assert [(word.start, word.end) for word in placed] == [(50, pytest.approx(50.4)), (55, 56)]


def test_where_times_are_guessed_windows_do_not_reach_over_long_pauses() -> None:
    speech = [Speech(0, 2, 18), Speech(20, 22, 33), Speech(55, 57, 73), Speech(130, 132)]
    assert [window.start for window in pack(speech, SILENCE)] == [0, 130]
    assert [window.start for window in pack(speech, SILENCE, LONGEST)] == [0, 55, 130]


def test_a_word_beside_a_pause_stays_on_its_side() -> None:
    """The model gives the silence after a word to it, and the padding before the next one."""
    speech = [Speech(2, 12, 58, 0.3, 0.3), Speech(70, 80, 0, 0.3, 0.3)]
    last = words.Word("a", words.at(9.6, speech), words.at(10.3, speech))
    first = words.Word("a", words.at(9.98, speech), words.at(10.8, speech))
    assert [word.start for word in words.place([last], speech, 2, 80)] == [pytest.approx(11.6)]
    assert [word.start for word in words.place([first], speech, 2, 80)] == [pytest.approx(70.2)]


def test_short_words_far_apart_do_not_look_wrong() -> None:
    """Numbers called out: most of what is heard is padding."""
    speech = [Speech(3 * n, 3 * n + 1, 2, 0.3, 0.3) for n in range(20)]
    window = Window(0, 60, speech)
    assert not Hypothesis([1], " One, six, ten, two, nine, 7, 40, 3, five, 81", -0.1, 0.0).needs_fallback(
        window
    )


def test_somebody_who_never_pauses_is_cut_where_it_is_quietest() -> None:
    samples = np.ones(16_000 * 40, np.float32)
    samples[22 * 16_000 : 22 * 16_000 + 3200] = 0
    first, second = pack([Speech(0, 40)], samples)
    assert first.end == second.start == pytest.approx(22.1, abs=0.15)


def test_nobody_speaks_no_windows() -> None:
    assert pack([], SILENCE) == []
    assert batches([], 4, 2) == []


def test_batches_hold_each_window_once_and_share_the_work() -> None:
    windows = [Window(0, end, [Speech(0, end)]) for end in (5.0, 28.0, 7.0, 27.0, 6.0)]
    parts = batches(windows, 4, 2)
    assert sorted(number for part in parts for number in part) == [0, 1, 2, 3, 4]
    assert len(parts) == 2
    assert set(parts[0]) == {1, 3, 2}
