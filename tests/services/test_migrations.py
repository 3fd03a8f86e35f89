"""Databases that earlier versions filled migrate forward, and every row reads as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from stt import db
from stt.jobs import lookup, results
from stt.jobs.model import Job, Status
from tests.support.schema_dump import DATA, dumps, load_dump, pg_dump

pytestmark = pytest.mark.usefixtures("servers")

TEXTS = ["Hello there.", "Grüße, 你好 — “quoted” \\ and 'so'.", "The second span."]
# Rows of schema-778cd98.sql: what is not given is as in a job that has just been uploaded.
ROWS_778CD98: dict[int, dict[str, Any]] = {
    1: {"original_filename": "waiting, low.mp3", "priority": "low", "model": "tiny"},
    2: {
        "original_filename": "video: “prompt”; 日本.mp4", "file_type": "video", "owner": "somebody",
        "requested_language": "de", "task": "translate", "priority": "high",
        "options": {
            "initial_prompt": "it's; a \\ prompt", "hotwords": "Ärzte", "word_timestamps": False,
            "diarize": True, "min_speakers": 2, "max_speakers": 3,
        },
    },
    3: {
        "original_filename": "tried again.wav", "attempt": 1, "claim": 1, "error_code": "engine_died",
        "error_message": "The engine ended unexpectedly.", "error_log": "Killed\nlast line",
        "warnings": [{"code": "less_memory", "message": "Less memory."}],
    },
    4: {
        "original_filename": "running.flac", "status": Status.PROCESSING, "attempt": 1, "claim": 2,
        "worker": "host:1", "stage": "transcribe", "progress": 0.5, "eta_seconds": 12.5, "language": "en",
        "requested_language": "en", "warnings": [{"code": "damaged_audio", "message": "2 damaged packets."}],
    },
    5: {
        "original_filename": "being cancelled.ogg", "status": Status.PROCESSING, "attempt": 1, "claim": 3,
        "worker": "host:2", "cancel_requested": True,
    },
    6: {
        "original_filename": "done.mp3", "status": Status.COMPLETED, "attempt": 1, "claim": 4, "progress": 1,
        "language": "de", "options": {"diarize": True}, "transcription_text": "\n".join(TEXTS),
        "warnings": [{"code": "speakers_few", "message": "Only one voice."}],
    },
    7: {
        "original_filename": "done twice.mp3", "status": Status.COMPLETED, "claim": 6, "progress": 1,
        "language": "de", "requested_language": "de", "transcription_text": "\n".join(TEXTS[:2]),
    },
    8: {
        "original_filename": "failed.mp3", "status": Status.FAILED, "attempt": 1, "claim": 7,
        "error_code": "unreadable", "error_message": "The file is damaged: it's cut off.",
        "error_log": "Traceback\n  last",
    },
    9: {
        "original_filename": "cancelled while waiting.mp3", "status": Status.CANCELLED,
        "cancel_requested": True,
    },
    10: {
        "original_filename": "cancelled while running.mp3", "status": Status.CANCELLED, "claim": 8,
        "cancel_requested": True,
    },
    11: {
        "original_filename": "done, then asked again.mp3", "claim": 9, "transcription_text": "\n".join(TEXTS),
    },
}  # fmt: skip
NEW = {
    "status": Status.PENDING, "owner": "local", "file_type": "audio", "priority": "normal", "model": "base",
    "task": "transcribe", "requested_language": None, "options": {}, "warnings": [], "error_code": None,
    "error_message": None, "error_log": None, "transcription_text": None, "cancel_requested": False,
}  # fmt: skip
# The texts of each job's segments. And its spans for the options it has now: number, whether it is the last,
# and whether most of its windows had low confidence.
SEGMENTS_778CD98 = {3: TEXTS[:2], 4: TEXTS[:2], 6: TEXTS, 7: TEXTS[:2], 10: TEXTS[:2]}
FIRST, BOTH = (0, False, None), [(0, False, None), (1, True, None)]
SPANS_778CD98 = {3: [(0, False, True)], 4: [(0, False, False)], 6: BOTH, 7: BOTH, 10: [FIRST]}


@pytest.fixture
async def migrated(empty_database: str) -> str:
    await load_dump(empty_database, DATA / "schema-778cd98.sql")
    await db.migrate(empty_database)
    return empty_database


async def job_of(pool: asyncpg.Pool, number: int) -> Job:
    job = await lookup.get(pool, UUID(f"0778cd98-0000-0000-0000-{number:012x}"), owner=None, text=True)
    assert job
    return job


@pytest.mark.parametrize("dump", dumps(), ids=lambda dump: dump.stem)
async def test_a_filled_database_migrates_to_the_schema_of_a_fresh_one(
    empty_database: str, database_url: str, dump: Path
) -> None:
    await load_dump(empty_database, dump)
    await db.migrate(empty_database)
    assert pg_dump(empty_database, "--schema-only") == pg_dump(database_url, "--schema-only")


async def test_every_job_of_778cd98_reads_as_it_was_written(migrated: str) -> None:
    async with await db.create_pool(migrated) as pool:
        for number, given in ROWS_778CD98.items():
            job = await job_of(pool, number)
            expected = {**NEW, "file_size": 1000 * number, **given}
            assert {name: getattr(job, name) for name in expected} == expected
            assert job.public()["id"] == str(job.id)
            assert (job.completed_at is not None) == job.ended
            assert job.has_transcript == (number in (6, 7, 11))
        listed, _ = await lookup.list_page(pool, owner=None, limit=50)
        assert len(listed) == len(ROWS_778CD98)


async def test_the_texts_of_778cd98_read_as_they_were_written(migrated: str) -> None:
    async with await db.create_pool(migrated) as pool:
        for number in ROWS_778CD98:
            job = await job_of(pool, number)
            found = await results.segments(pool, job)
            assert [segment["text"] for segment in found] == SEGMENTS_778CD98.get(number, [])
            assert [segment["id"] for segment in found] == list(range(len(found)))
            spans = [
                (span["number"], span["last"], span["unsure"]) for span in await results.spans(pool, job)
            ]
            assert spans == SPANS_778CD98.get(number, [])
        done = await job_of(pool, 6)
        transcript = await results.latest_transcript(pool, done)
        assert transcript and (transcript["version"], transcript["author"]) == (1, "whisperx")
        assert [segment["speaker"] for segment in transcript["segments"]] == [
            f"SPEAKER_0{n}" for n in range(3)
        ]
        assert transcript["segments"][0]["words"][1] == {
            "word": "there.",
            "start": 1.0,
            "end": 1.5,
            "score": 0.9,
        }
        twice = await results.latest_transcript(pool, await job_of(pool, 7))
        assert twice and twice["version"] == 2
        assert await results.peaks(pool, done) == [
            (0.0, bytes(range(0, 250, 25))), (45.0, bytes([255, 0, 128]))
        ]  # fmt: skip
