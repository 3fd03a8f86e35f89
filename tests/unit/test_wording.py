"""Numbers, times and stages as words for a person."""

from __future__ import annotations

import datetime as dt

import pytest

from stt.web.pages import wording
from tests.support.acting import segment


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (187_404, "187 kB"),
        (999_999, "1.0 MB"),
        (4_200_000, "4.2 MB"),
        (21_474_836_480, "21 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert wording.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "a few seconds left"),
        (31.5, "about 30 s left"),
        (58, "about 1 min left"),
        (1800, "about 30 min left"),
        (4800, "about 1 h 20 min left"),
    ],
)
def test_estimates(seconds: float, words: str) -> None:
    assert wording.left(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (40, "in 40 s"),
        (39.2, "in 40 s"),
        (150, "in 2 min"),
        (0, "when a worker is free"),
        (-5, "when a worker is free"),
    ],
)
def test_times_to_come(seconds: float, words: str) -> None:
    now = dt.datetime.now(dt.UTC)
    assert wording.until(now + dt.timedelta(seconds=seconds), now) == words


def test_progress_is_whole_only_at_the_end() -> None:
    assert [wording.percent(part) for part in (0, 0.999, 1)] == [0, 99, 100]


def test_paragraphs_end_at_pauses_at_speakers_and_when_long() -> None:
    said = [
        segment(" One.", 0),
        segment(" Two.", 1.5),
        segment(" After a pause.", 9),
        segment(" Somebody else.", 10, speaker="SPEAKER_01"),
    ]
    numbered = [{"id": number, **item} for number, item in enumerate(said)]
    grouped = wording.paragraphs(numbered)
    assert [p["text"] for p in grouped] == ["One. Two.", "After a pause.", "Somebody else."]
    assert [p["id"] for p in grouped] == [0, 2, 3]
    long = [{"id": n, **segment(" A sentence of some length.", n)} for n in range(40)]
    assert [len(p["text"]) > 400 for p in wording.paragraphs(long)] == [True, True, False]
