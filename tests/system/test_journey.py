"""A recording goes all the way, upload to download, with nothing in between stood in for."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import aiohttp
import docx
import numpy as np
import pysubs2
import pytest
import webvtt

from tests.conftest import Live
from tests.support.journeys import Session, download, ended, english, first, get, listen, upload, words
from tests.support.uploads import form, until
from workers.audio import peaks as made
from workers.audio.decode import Recording

pytestmark = [pytest.mark.engine, pytest.mark.process]

ASK = "ask not what your country can do for you"
CONTAINERS = ("jfk_aac.m4a", "jfk_video_vp9_opus.webm")  # all others: tests/unit/test_containers.py


async def test_a_sample_becomes_its_words(session: Session) -> None:
    job = await ended(session, await upload(session, english()))
    assert (job["status"], job["language"], job["progress"]) == ("completed", "en", 1.0)
    expected = words((english().with_suffix(".txt")).read_text())
    heard = words(job["transcription_text"])
    assert len(set(expected.split()) & set(heard.split())) >= 0.8 * len(set(expected.split()))


async def test_jfk_asks_what_he_asked(session: Session, shared_audio: Path) -> None:
    job = await ended(session, await upload(session, shared_audio / "clips" / "jfk.flac"))
    assert ASK in words(await download(session, job, "txt"))


async def test_speakers_reach_every_format(session: Session, shared_audio: Path) -> None:
    path = shared_audio / "multispeaker" / "falcon_3spk.wav"
    job = await ended(session, await upload(session, path, diarize="true"))
    assert (job["status"], job["warnings"]) == ("completed", [])
    transcript = json.loads(await download(session, job, "json"))
    assert {segment["speaker"] for segment in transcript["segments"]} == {f"SPEAKER_0{n}" for n in range(3)}
    assert transcript["segments"][0]["speaker"] == "SPEAKER_00"
    assert (await download(session, job, "srt")).splitlines()[2].startswith("[SPEAKER_00]: ")
    highlighted = await download(session, job, "vtt&highlight=words")
    assert "<v SPEAKER_02>" in highlighted
    assert "<00:00:0" in highlighted
    async with session.get(f"/api/jobs/{job['id']}/download?format=docx") as response:
        made = docx.Document(io.BytesIO(await response.read()))
        assert response.headers["Content-Disposition"].startswith('attachment; filename="falcon_3spk.docx"')
    texts = [paragraph.text for paragraph in made.paragraphs]
    assert texts[0] == "falcon_3spk"
    assert any(text.startswith("Speaker 3  0:1") for text in texts)
    async with session.get(f"/jobs/{job['id']}") as page:
        assert "Speaker 3</p>" in await page.text()
    async with session.get(f"/api/jobs/{job['id']}/download?format=srt&highlight=words") as response:
        assert response.status == 422


async def test_every_format_is_what_other_programs_read(session: Session) -> None:
    job = await ended(session, await upload(session, english()))
    text = words(job["transcription_text"])
    srt = pysubs2.SSAFile.from_string(await download(session, job, "srt"), format_="srt")
    assert words(" ".join(cue.plaintext for cue in srt)) == text
    vtt = webvtt.from_string(await download(session, job, "vtt"))
    assert words(" ".join(cue.text for cue in vtt)) == text
    assert all(cue.start < cue.end for cue in srt)
    tsv = (await download(session, job, "tsv")).splitlines()
    assert words(" ".join(row.split("\t")[2] for row in tsv[1:])) == text
    transcript = json.loads(await download(session, job, "json"))
    assert words(transcript["text"]) == text
    times = [(word["start"], word["end"]) for segment in transcript["segments"] for word in segment["words"]]
    assert times == sorted(times)
    assert all(0 <= start < end <= transcript["duration"] for start, end in times)


@pytest.mark.parametrize("name", CONTAINERS)
async def test_another_container_of_the_same_speech_gives_the_same_words(
    session: Session, shared_audio: Path, name: str
) -> None:
    job = await ended(session, await upload(session, shared_audio / "containers" / name))
    assert ASK in words(job["transcription_text"])


async def test_text_appears_before_the_end_and_progress_never_goes_back(
    session: Session, long_recording: Path
) -> None:
    job = await upload(session, long_recording, language="en")
    names, seen = [], []
    async with asyncio.timeout(180):
        async for name, data in listen(session, job):
            names.append(name)
            if name == "progress":
                seen.append(data["progress"])
    assert names.index("segment") < len(names) - names[::-1].index("progress") - 1
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert names[-1] == "completed"
    job = await get(session, job)
    assert job["started_at"] < job["completed_at"]


async def test_broken_files_end_in_a_sentence_and_the_worker_goes_on(
    session: Session, shared_audio: Path
) -> None:
    for path in sorted((shared_audio / "containers" / "broken").iterdir()):
        async with session.post("/api/jobs/upload", data=form(path, path.name)) as response:
            answer = await response.json(content_type=None)
        if response.status == 201:
            answer = await ended(session, answer)
            assert answer["status"] in ("completed", "failed"), path.name
        else:
            assert response.status in (415, 422), path.name
        if answer["status"] != "completed":
            sentence = answer.get("detail") or answer["error_message"]
            assert sentence.endswith((".", "?")), path.name
            assert "Traceback" not in sentence
    job = await ended(session, await upload(session, english()))
    assert job["status"] == "completed"


@pytest.mark.parametrize(
    "name", ["digital_silence_30s.flac", "room_silence_4s.wav", "tone_440hz_10s.flac", "pyannote_empty.wav"]
)
async def test_where_nobody_speaks_there_is_no_text(session: Session, shared_audio: Path, name: str) -> None:
    job = await ended(session, await upload(session, shared_audio / "containers" / "edge" / name))
    assert (job["status"], job["transcription_text"], job["language"]) == ("completed", "", None)


async def test_a_running_job_is_cancelled_and_the_next_one_runs(
    live: Live, session: Session, long_recording: Path
) -> None:
    job = await upload(session, long_recording)
    await first(session, job, lambda name, _: name == "segment")
    async with session.post(f"/api/jobs/{job['id']}/cancel") as response:
        assert response.status == 200
    job = await ended(session, job, 5)
    assert (job["status"], job["transcription_text"]) == ("cancelled", None)
    assert (await ended(session, await upload(session, english())))["status"] == "completed"


async def test_a_running_job_is_deleted_with_all_its_files(
    live: Live, session: Session, long_recording: Path
) -> None:
    job = await upload(session, long_recording)
    await first(session, job, lambda name, _: name == "segment")
    async with session.delete(f"/api/jobs/{job['id']}") as response:
        assert response.status == 204
    async with session.get(f"/api/jobs/{job['id']}") as response:
        assert response.status == 404
    assert not list(live.data_dir.rglob(f"*{job['id']}*"))


async def test_a_killed_engine_costs_a_try_and_no_text(
    live: Live, session: Session, long_recording: Path
) -> None:
    whole = await ended(session, await upload(session, long_recording, language="en"))
    job = await upload(session, long_recording, language="en")
    await first(session, job, lambda name, data: name == "segment" and data["start"] > 20)
    [engine] = live.role("engine")
    engine.kill()
    waiting = await first(session, job, lambda name, data: data.get("retry_at") is not None)
    assert "killed" in waiting["error_message"]
    again = await ended(session, job)
    assert (again["status"], again["attempt"]) == ("completed", 2)
    assert again["error_message"] is None
    assert words(again["transcription_text"]) == words(whole["transcription_text"])


async def test_a_killed_worker_is_replaced_and_the_job_goes_on_from_its_last_span(
    live: Live, session: Session, long_recording: Path
) -> None:
    job = await upload(session, long_recording, language="en")
    await first(session, job, lambda name, data: name == "segment" and data["start"] > 20)
    [worker], [engine] = live.role("worker"), live.role("engine")
    worker.kill()
    await until(lambda: not engine.is_running())  # it dies with its parent
    again = await ended(session, job)
    assert (again["status"], again["attempt"]) == ("completed", 2)


async def test_a_file_with_an_awkward_name(session: Session, shared_audio: Path) -> None:
    path = shared_audio / "containers" / "edge" / "jfk with spaces & ünïcode (1).flac"
    job = await ended(session, await upload(session, path))
    assert job["original_filename"] == path.name
    assert ASK in words(job["transcription_text"])


async def test_a_transcribed_recording_has_its_wave_form(session: aiohttp.ClientSession) -> None:
    job = await ended(session, await upload(session, english()))
    async with session.get(f"/api/jobs/{job['id']}/peaks") as response:
        shown = await response.json()
    recording = Recording(english())
    samples = np.concatenate(list(recording.blocks()))
    recording.close()
    assert bytes(shown["peaks"]) == made.peaks_of(samples, 0)
    assert shown["per_second"] == 10
    assert max(shown["peaks"]) > 50
