"""Every code has a sentence, and SQL and templates name only codes and stages that there are."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from stt import codes, paths
from stt.codes import ErrorCode, Stage, WarningCode, message

CODES: tuple[codes.Code, ...] = (*ErrorCode, *WarningCode)
SENTENCES = {
    **{str(code): said for code, said in codes.ERRORS.items()},
    **{str(code): said for code, said in codes.WARNINGS.items()},
}


def test_every_code_has_sentences_and_no_two_codes_are_the_same() -> None:
    assert set(SENTENCES) == set(map(str, CODES))
    assert len(SENTENCES) == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_sentence_can_be_filled_in(code: codes.Code) -> None:
    said = SENTENCES[code]
    reasons = said if isinstance(said, dict) else {"": said}
    for reason, sentence in reasons.items():
        fields = [(name, spec or "") for _, name, spec, _ in Formatter().parse(sentence) if name]
        parameters = {name: _value(spec) for name, spec in fields}
        if reason:
            parameters["reason"] = reason
        filled = message(code, **parameters)
        assert "{" not in filled
        assert filled.endswith(".") or code in (ErrorCode.INTERNAL, ErrorCode.MODEL_UNAVAILABLE)


def _value(spec: str) -> object:
    if spec in ("and", "list"):
        return ["audio track 2", "audio track 3"]
    return 3 if spec else "this"


def test_values_are_written_for_a_person() -> None:
    too_long = message(ErrorCode.TOO_LONG, reason="length", seconds=5400, longest=59.5)
    assert too_long.startswith("The recording is 1 h 30 min long; at most 59.5 s are taken")
    left_out = message(WarningCode.TRACKS_LEFT_OUT, left_out=["a", "b", "c"], kept=["d"])
    assert left_out.startswith("Left out: a, b and c, with speech at the same time as in d,")


def test_sql_names_only_codes_and_stages_that_there_are() -> None:
    text = (paths.SQL / "queries.sql").read_text()
    stages = re.findall(r"\bstage = '([^']*)'", text)
    named = re.findall(r'"code": "([^"]*)"', text)
    assert stages
    assert named
    assert set(stages) <= set(Stage)
    assert set(named) <= set(WarningCode)


def test_templates_name_only_codes_that_there_are() -> None:
    texts = [path.read_text() for path in Path(paths.TEMPLATES).rglob("*.html")]
    named = [code for text in texts for code in re.findall(r'"code", "equalto", "([^"]*)"', text)]
    assert named
    assert set(named) <= set(map(str, CODES))
