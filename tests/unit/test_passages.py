"""A job has one warning of each kind of passage, with all its times."""

from __future__ import annotations

from stt.codes import WarningCode
from stt.transcript import passages

OTHER_LANGUAGE, UNCOVERED = WarningCode.OTHER_LANGUAGE, WarningCode.UNCOVERED_SPEECH


def test_passages_of_one_kind_are_one_warning() -> None:
    warnings = [{"code": "damaged_audio", "message": "…"}]
    warnings = passages.add(warnings, passages.warning(UNCOVERED, [(65.2, 71.0)]))
    warnings = passages.add(warnings, passages.warning(UNCOVERED, [(10.0, 12.5), (71.5, 80.0)]))
    assert [one["code"] for one in warnings] == ["damaged_audio", UNCOVERED]
    assert warnings[1]["times"] == [[10.0, 12.5], [65.2, 80.0]]
    assert "from 0:10 to 0:13 and from 1:05 to 1:20" in warnings[1]["message"]


def test_each_language_has_a_warning_of_its_own() -> None:
    warnings = passages.add([], passages.warning(OTHER_LANGUAGE, [(1.0, 5.0)], "en", "de"))
    warnings = passages.add(warnings, passages.warning(OTHER_LANGUAGE, [(9.0, 15.0)], "fr", "de"))
    assert [one["language"] for one in warnings] == ["en", "fr"]
    assert warnings[0]["message"].startswith(
        "English is spoken from 0:01 to 0:05, where the text is written as German"
    )


def test_the_same_passage_twice_is_one() -> None:
    again = passages.warning(UNCOVERED, [(1.0, 5.0)])
    assert passages.add([again], again) == [again]


def test_a_sentence_does_not_name_hundreds_of_passages() -> None:
    warning = passages.warning(UNCOVERED, [(10.0 * n, 10.0 * n + 2) for n in range(100)])
    assert len(warning["times"]) == 100
    assert len(warning["message"]) < 500
    assert "and in 92 more places" in warning["message"]
