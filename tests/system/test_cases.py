"""Files from public bug reports: each goes through the whole service and comes out right.

`../shared/audio/cases/README.md` says where each comes from and what is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.journeys import ended, upload
from tests.support.uploads import form

pytestmark = [pytest.mark.engine, pytest.mark.process]

JFK = (
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
)
LEO = "mr quilter is the apostle of the middle classes and we are glad to welcome his gospel"


@dataclass(frozen=True)
class Case:
    """What is right for a file: its words, when the first begins and the last ends, and its warnings."""

    words: str
    wrong: int = 0  # so many words may be wrong or missing
    first: float | None = None
    last: float | None = None
    within: float = 0.4  # seconds
    warnings: frozenset[str] = field(default_factory=frozenset)
    options: dict[str, str] = field(default_factory=dict)


CASES = {
    "v_phone_m10.opus": Case(f"{LEO} {JFK} {LEO}", wrong=1),
    "two_tracks_first_silent.mkv": Case(JFK),
    # It ends after "what your country can do for you".
    "stereo_in_phase_then_inverted.flac": Case(f"{LEO} {JFK.partition(' ask what')[0]}"),
    "webm_live_audio_starts_late.webm": Case(JFK, first=4.3, last=14.45),
    "ogg_chained_rate_change.ogg": Case(f"{LEO} {JFK}"),
    "surround_speech_in_centre.mka": Case(JFK, wrong=1),
    "v_dc.flac": Case(JFK),
    "pop_left_then_soft_right.flac": Case(JFK),
    "adts_broken_frames.aac": Case(JFK, wrong=5, last=10.36, warnings=frozenset({"damaged_audio"})),
    "adts_rate_change.aac": Case(f"{LEO} {JFK}", last=16.27),
    "wav_header_says_1s.wav": Case(JFK),
}
REFUSED = {
    "audible_like.aax": ("encrypted", "copy protect"),
    "telephone_raw.ulaw": ("not_media", "-f mulaw"),
    "hostile_flac_1hz.flac": ("unsupported_codec", ""),
    "hostile_wav_1GHz.wav": ("unsupported_codec", ""),
    "hostile_wav_65_channels.wav": ("unsupported_codec", ""),
}


def plain(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def wrong(found: list[str], wanted: list[str]) -> int:
    """Words of the one text that are not in the other, in order."""
    same = SequenceMatcher(None, found, wanted, autojunk=False)
    return max(len(found), len(wanted)) - sum(block.size for block in same.get_matching_blocks())


async def transcript(session: aiohttp.ClientSession, path: Path, **options: str) -> dict[str, Any]:
    """The finished job, with its transcript's words."""
    job = await ended(session, await upload(session, path, **options), 300)
    assert job["status"] == "completed", job
    async with session.get(f"/api/jobs/{job['id']}/download?format=json") as response:
        document = await response.json()
    return job | {"words": [word for segment in document["segments"] for word in segment["words"]]}


@pytest.mark.parametrize("name", CASES)
async def test_a_file_that_once_failed_comes_out_right(
    shared_audio: Path, session: aiohttp.ClientSession, name: str
) -> None:
    case = CASES[name]
    job = await transcript(session, shared_audio / "cases" / name, **case.options)
    found = plain(job["transcription_text"])
    assert wrong(found, case.words.split()) <= case.wrong, found
    if case.first is not None:
        assert job["words"][0]["start"] == pytest.approx(case.first, abs=case.within)
    if case.last is not None:
        assert job["words"][-1]["end"] == pytest.approx(case.last, abs=case.within)
    assert {warning["code"] for warning in job["warnings"]} == case.warnings


async def test_another_language_inside_a_window_is_at_least_a_warning(
    shared_audio: Path, session: aiohttp.ClientSession
) -> None:
    job = await transcript(session, shared_audio / "cases" / "l_de_en.opus")
    assert job["language"] == "de"
    assert plain(job["transcription_text"])[:3] == ["der", "hinter", "diesem"]
    [warning] = [one for one in job["warnings"] if one["code"] == "other_language"]
    assert warning["language"] == "en"
    assert warning["instead"] == "de"
    [[start, end]] = warning["times"]
    assert start == pytest.approx(5.3, abs=1.5)
    assert end == pytest.approx(16.0, abs=1.5)
    assert "English is spoken from 0:0" in warning["message"]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_file_that_cannot_be_transcribed_is_refused_with_a_reason(
    shared_audio: Path, session: aiohttp.ClientSession, name: str
) -> None:
    path, (code, sentence) = shared_audio / "cases" / name, REFUSED[name]
    async with session.post("/api/jobs/upload", data=form(path, name)) as response:
        problem = await response.json()
    assert (response.status, problem["code"]) == (415, code)
    assert sentence in problem["detail"]


async def test_hours_of_almost_nothing_are_done_in_no_time(
    shared_audio: Path, session: aiohttp.ClientSession
) -> None:
    job = await transcript(session, shared_audio / "cases" / "hostile_flac_hours.flac")
    assert job["words"] == []
    assert job["duration_seconds"] > 4 * 3600
