"""The wave form: made with the spans, kept with them, served to players."""

from __future__ import annotations

import itertools
from typing import Any

import asyncpg
import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from stt.jobs import lifecycle, results
from stt.jobs.model import Job
from stt.transcript import waveform
from tests.support.jobs import claim, complete, new
from tests.support.uploads import problem
from workers.audio import peaks as made
from workers.audio.sound import RATE


def test_the_engine_and_the_web_side_mean_the_same() -> None:
    assert made.PER_SECOND == waveform.PER_SECOND


def test_a_peak_is_the_loudest_moment_of_its_tenth_of_a_second() -> None:
    samples = np.zeros(RATE, np.float32)
    samples[1700], samples[3199], samples[3200], samples[8000] = 0.5, -0.25, -1.0, 1.7
    found = list(made.peaks_of(samples, 0))
    assert found == [0, 128, 255, 0, 0, 255, 0, 0, 0, 0]


def test_damaged_samples_are_no_failure() -> None:
    samples = np.array([np.nan] * 1600 + [np.inf] * 1600 + [0.1] * 1600, np.float32)
    assert len(made.peaks_of(samples, 0)) == 3


def test_spans_cut_anywhere_give_the_peaks_of_the_whole() -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, RATE * 20).astype(np.float32) ** 9
    whole = made.peaks_of(samples, 0)
    assert len(whole) == 200
    cuts = [0, 512, 1600, 1600 + 512, 99 * 512, 250 * 512, 251 * 512, 500 * 512, len(samples)]
    pieces = [(a / RATE, made.peaks_of(samples[a:b], a)) for a, b in itertools.pairwise(cuts)]
    assert waveform.joined(pieces) == whole
    # Of two tries with other spans, in any order.
    others = [
        (a / RATE, made.peaks_of(samples[a:b], a))
        for a, b in itertools.pairwise([0, 120 * 512, len(samples)])
    ]
    assert waveform.joined([*others, *pieces]) == waveform.joined([*pieces, *others]) == whole


def test_what_is_missing_is_silent() -> None:
    assert list(waveform.joined([(0.5, b"\x07")])) == [0, 0, 0, 0, 0, 7]
    assert waveform.joined([]) == waveform.joined([(1.0, b"")]) == b""


@pytest.mark.parametrize("points", [1, 2, 3, 7, 9, 10, 11])
def test_fewer_points_hide_no_peak(points: int) -> None:
    whole = bytearray([0, 0, 9, 0, 0, 0, 0, 200, 0, 1])
    shown = waveform.fewer(whole, points)
    assert len(shown) == min(points, 10)
    assert max(shown) == 200
    assert list(waveform.fewer(whole, 5)) == [0, 9, 0, 200, 1]


async def saved(pool: asyncpg.Pool, job: Job, *pieces: bytes) -> None:
    for number, piece in enumerate(pieces):
        assert await results.save_span(
            pool, job, number=number, start=number, end=number + 1, segments=[], peaks=piece
        )


async def get(client: TestClient, job: Job, query: str = "") -> dict[str, Any]:
    async with client.get(f"/api/jobs/{job.id}/peaks{query}") as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def test_peaks_are_served_while_spans_come_and_after(client: TestClient, pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    await saved(pool, job, bytes(range(10)), bytes(range(10, 20)))
    shown = {"per_second": 10.0, "peaks": list(range(20))}
    assert await get(client, job) == shown
    assert await complete(pool, job)
    assert await get(client, job) == shown
    assert await get(client, job, "?points=4") == {"per_second": 2.0, "peaks": [4, 9, 14, 19]}
    assert await get(client, job, "?points=1000") == shown


async def test_a_retry_keeps_the_peaks_of_what_was_decoded(client: TestClient, pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    await saved(pool, job, b"\x01" * 10)
    await lifecycle.hand_back(pool, job)
    job = await claim(pool)
    assert job
    assert (await get(client, job))["peaks"] == [1] * 10
    assert await results.save_span(pool, job, number=1, start=1, end=2, segments=[], peaks=b"\x02" * 10)
    assert (await get(client, job))["peaks"] == [1] * 10 + [2] * 10


async def test_without_peaks_it_is_409(client: TestClient, pool: asyncpg.Pool) -> None:
    await new(pool)
    job = await claim(pool)
    assert job
    answer = await problem(client, "GET", f"/api/jobs/{job.id}/peaks")
    assert (answer["status"], answer["code"], answer["job_status"]) == (409, "no_peaks", "processing")
    # What an earlier version saved has none.
    assert await results.save_span(pool, job, number=0, start=0, end=1, segments=[])
    assert await complete(pool, job)
    answer = await problem(client, "GET", f"/api/jobs/{job.id}/peaks")
    assert (answer["status"], answer["job_status"]) == (409, "completed")
    assert "retry" in answer["detail"]


@pytest.mark.parametrize("points", ["0", "-1", "many", "1e3", "9999999999"])
async def test_a_bad_number_of_points_is_422(client: TestClient, pool: asyncpg.Pool, points: str) -> None:
    job = await new(pool)
    answer = await problem(client, "GET", f"/api/jobs/{job.id}/peaks?points={points}")
    assert (answer["status"], answer["code"], answer["field"]) == (422, "bad_parameter", "points")
