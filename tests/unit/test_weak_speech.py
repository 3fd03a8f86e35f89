"""A telephone voice or a quiet one beside louder ones is found; noise, music and tones are not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audio import decode
from tests.support.sounds import NOISES, level, narrow
from workers.audio import vad
from workers.audio.sound import RATE, Samples
from workers.audio.vad import Speech
from workers.engine import weak_speech
from workers.engine.windows import LONGEST, Window, pack

PAUSE = np.zeros(RATE, np.float32)


def found(samples: Samples) -> tuple[list[Speech], list[Speech]]:
    speech = vad.speech(vad.probabilities(samples), len(samples) / RATE)
    return speech, weak_speech.find(samples, speech, vad.SileroDetector)


def seconds(parts: list[Speech], start: float, end: float) -> float:
    return sum(max(0.0, min(part.end, end) - max(part.start, start)) for part in parts)


@pytest.mark.parametrize("db", [-26, -34, -42])
@pytest.mark.parametrize(
    "name", ["libri_61-70968-0000.flac", "story_0262_p01.mp3", "telephone8k_demo-abouttotry.wav"]
)
def test_a_narrow_voice_between_full_ones_is_speech(shared_audio: Path, name: str, db: int) -> None:
    full = level(decode(shared_audio / "clips" / "librivox_austen_0870.wav"), -20)
    voice = level(narrow(decode(shared_audio / "clips" / name))[: 12 * RATE], db)
    start = (len(full) + len(PAUSE)) / RATE
    speech, weak = found(np.concatenate([full, PAUSE, voice, PAUSE, full]))
    assert seconds([*speech, *weak], start, start + len(voice) / RATE) > 0.7 * len(voice) / RATE


@pytest.mark.parametrize("name", sorted(NOISES))
@pytest.mark.parametrize("db", [-15, -30, -45])
def test_a_noise_between_two_who_speak_is_none(shared_audio: Path, name: str, db: int) -> None:
    full = level(decode(shared_audio / "clips" / "librivox_austen_0870.wav"), -20)
    noise = level(NOISES[name], db)
    start, end = len(full) / RATE, (len(full) + len(noise)) / RATE
    _, weak = found(np.concatenate([full, noise, full]))
    assert seconds(weak, start + 1, end - 1) == 0.0


def test_pauses_without_sound_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_detector() -> vad.SpeechDetector:
        raise AssertionError("a silent pause was judged")

    assert weak_speech.find(np.zeros(20 * RATE, np.float32), [Speech(5.0, 10.0)], no_detector) == []


def make(speech: list[Speech]) -> list[Window]:
    return pack(speech, np.zeros(60 * RATE, np.float32))


def test_weak_speech_has_windows_of_its_own_in_its_place() -> None:
    speech = [Speech(0.0, 5.0, probability=0.9), Speech(12.0, 20.0, probability=0.9)]
    weak = [Speech(6.0, 8.0, probability=0.3), Speech(8.5, 11.0, probability=0.4)]
    windows = weak_speech.windows(speech, weak, make)
    assert [(window.start, window.end, window.weak) for window in windows] == [
        (0.0, 5.0, False), (6.0, 11.0, True), (12.0, 20.0, False)
    ]  # fmt: skip
    assert windows[1].speech[0].end == 11.0  # the pause between is recognised with it


def test_weak_speech_beside_speech_that_is_hardly_clearer_is_one_with_it() -> None:
    speech = [Speech(0.0, 5.0, probability=0.95), Speech(8.0, 12.0, probability=0.6)]
    windows = weak_speech.windows(speech, [Speech(6.0, 7.5, probability=0.4)], make)
    assert [(window.start, window.end, window.weak) for window in windows] == [
        (0.0, 5.0, False), (6.0, 12.0, False)
    ]  # fmt: skip


def test_pauses_of_clear_speech_stay_pauses() -> None:
    speech = [
        Speech(0.0, 5.0, probability=0.9),
        Speech(6.0, 9.0, probability=0.6),
        Speech(9.5, 12.0, probability=0.9),
    ]
    assert weak_speech.bridged(speech) == [[part] for part in speech]


def test_bridged_speech_fits_a_window() -> None:
    parts = [Speech(start, start + 4.0, probability=0.4) for start in np.arange(0.0, 60.0, 5.0).tolist()]
    assert all(part.end - part.start <= LONGEST for part in weak_speech.joined(parts))


@given(
    edges=st.lists(st.floats(0, 60), min_size=4, max_size=20, unique=True),
    flags=st.lists(st.tuples(st.booleans(), st.sampled_from([0.3, 0.6, 0.9])), min_size=10, max_size=10),
    touch=st.sampled_from([0.0, 0.0001]),
)
def test_all_speech_lies_in_a_window(
    edges: list[float], flags: list[tuple[bool, float]], touch: float
) -> None:
    """Also where weak speech ends where other speech begins, or a sample later."""
    times = sorted(edges)
    parts = [
        (Speech(start, end - 0.01 * touch if touch else end, probability=probability), weak)
        for (start, end), (weak, probability) in zip(pairwise(times), flags, strict=False)
        if end - start > 0.1
    ]
    speech = [part for part, weak in parts if not weak]
    found = [replace(part, end=part.end + touch) for part, weak in parts if weak]
    windows = weak_speech.windows(speech, found, make)
    held = [part for window in windows for part in window.speech]
    for part in [*speech, *found]:
        assert seconds(held, part.start, part.end) > part.end - part.start - 0.01
    starts = [window.start for window in windows]
    assert starts == sorted(starts)
