"""A passage in another language inside a window is reported where the model is sure of it."""

from __future__ import annotations

import pytest

from workers.audio.vad import Speech
from workers.engine.language import Passage, passages, slices

SPEECH = [Speech(1.0, 6.0), Speech(7.0, 11.0), Speech(20.0, 21.0), Speech(22.0, 26.0)]


def test_slices_end_in_pauses() -> None:
    assert slices(SPEECH) == [(0.0, 5.0), (5.0, 9.0), (9.0, 14.0)]


def test_who_does_not_pause_is_cut_evenly() -> None:
    found = slices([Speech(0.0, 25.0)])
    assert [end - start for start, end in found] == pytest.approx([6.25] * 4)


def of(*languages: dict[str, float]) -> list[Passage]:
    return passages(list(zip(slices(SPEECH), languages, strict=True)), "de", SPEECH)


GERMAN, ENGLISH = {"de": 0.97, "en": 0.01}, {"de": 0.02, "en": 0.95}


def test_a_window_in_one_language_has_no_passage() -> None:
    assert of(GERMAN, GERMAN, GERMAN) == []


def test_a_passage_has_the_times_of_the_recording() -> None:
    [one] = of(GERMAN, GERMAN, ENGLISH)
    assert (one.language, one.end) == ("en", 26.0)
    assert one.start == pytest.approx(20.0, abs=0.1)


def test_neighbours_in_one_language_are_one_passage() -> None:
    [one] = of(GERMAN, ENGLISH, ENGLISH)
    assert one.start == pytest.approx(7.0, abs=0.1)
    assert one.end == 26.0


@pytest.mark.parametrize("unsure", [{"de": 0.2, "en": 0.7}, {"de": 0.1, "en": 0.88}, {"nl": 0.6, "en": 0.3}])
def test_what_the_model_is_not_sure_of_is_no_passage(unsure: dict[str, float]) -> None:
    assert of(GERMAN, unsure, GERMAN) == []
