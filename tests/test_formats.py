"""A transcript written in each format is what other programs read back."""

from __future__ import annotations

import json

import pysubs2
import pytest
import webvtt

from stt import formats

SEGMENTS = [
    {"start": 0.0, "end": 1.5, "text": " Hello <b>& goodbye</b>."},
    {"start": 1.5, "end": 3.0, "text": " One\n\ntwo --> three."},
    {"start": 3599.9996, "end": 3661.25, "text": " An hour later."},
]


@pytest.fixture
def transcript() -> dict[str, object]:
    return formats.document(SEGMENTS, language="en", duration=3700.0)


def test_srt_is_read_back(transcript: dict[str, object]) -> None:
    srt = formats.to_srt(transcript)
    cues = list(pysubs2.SSAFile.from_string(srt, format_="srt", keep_unknown_html_tags=True))
    assert [(cue.start, cue.end) for cue in cues] == [(0, 1500), (1500, 3000), (3_600_000, 3_661_250)]
    assert [cue.plaintext for cue in cues][1] == "One two -> three."


def test_vtt_is_read_back(transcript: dict[str, object]) -> None:
    cues = list(webvtt.from_string(formats.to_vtt(transcript)))
    assert [cue.start for cue in cues] == ["00:00:00.000", "00:00:01.500", "01:00:00.000"]
    assert "&lt;b&gt;&amp; goodbye&lt;/b&gt;" in formats.to_vtt(transcript)


def test_txt_begins_a_paragraph_after_a_pause(transcript: dict[str, object]) -> None:
    assert formats.to_txt(transcript) == ("Hello <b>& goodbye</b>. One\n\ntwo --> three.\n\nAn hour later.\n")


def test_tsv_has_a_row_a_segment(transcript: dict[str, object]) -> None:
    rows = [row.split("\t") for row in formats.to_tsv(transcript).splitlines()]
    assert rows[0] == ["start", "end", "text"]
    assert rows[2] == ["1500", "3000", "One two -> three."]


def test_json_is_whisperx_shape(transcript: dict[str, object]) -> None:
    read = json.loads(formats.to_json(transcript))
    assert set(read) == {"text", "language", "duration", "segments"}
    assert read["segments"][0] == {"id": 0, "start": 0.0, "end": 1.5, "text": "Hello <b>& goodbye</b>."}


def test_scripts_without_spaces_are_joined_without(transcript: dict[str, object]) -> None:
    chinese = [{"text": "广州市"}, {"text": "房地产。"}, {"text": "协会"}]
    assert formats.plain_text(chinese) == "广州市房地产。协会"
    korean = [{"text": "그는"}, {"text": "걸어갔다."}]
    assert formats.plain_text(korean) == "그는 걸어갔다."
    assert formats.plain_text([{"text": "a."}, {"text": " b"}, {"text": "c"}]) == "a. b c"


def test_nothing_said_is_an_empty_file() -> None:
    empty = formats.document([], language=None, duration=4.0)
    assert formats.to_txt(empty) == ""
    assert formats.to_srt(empty) == ""
    assert formats.to_vtt(empty) == "WEBVTT\n\n"
