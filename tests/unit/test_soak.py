"""`bench/soak.py` tells growth from noise."""

from __future__ import annotations

import math
import random
import sys

import pytest

from tests.support.places import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import soak_samples

MINUTES, EVERY = 25, 5.0
TIMES = [n * EVERY for n in range(int(MINUTES * 60 / EVERY))]


def noisy(value: float, spread: float) -> list[float]:
    rng = random.Random(1)
    return [value + rng.uniform(-spread, spread) for _ in TIMES]


def wave() -> list[float]:
    return [100 + 20 * math.sin(time / 120) for time in TIMES]


def outliers() -> list[float]:
    return [100 + 80 * (n % 40 == 39) for n in range(len(TIMES))]


def leak(per_hour: float) -> list[float]:
    return [value + time * per_hour / 3600 for value, time in zip(noisy(100, 3), TIMES, strict=True)]


def late_leak() -> list[float]:
    half = TIMES[len(TIMES) // 2]
    return [100 + max(0.0, time - half) * 60 / 3600 for time in TIMES]


@pytest.mark.parametrize("values", [noisy(100, 5), wave(), outliers(), noisy(100, 5)[::-1]])
def test_noise_waves_and_outliers_are_no_growth(values: list[float]) -> None:
    verdict = soak_samples.judge("web uss_mb", TIMES, values)
    assert verdict
    assert not verdict.growing


@pytest.mark.parametrize("values", [leak(30), late_leak()])
def test_a_leak_of_some_megabytes_an_hour_is_growth(values: list[float]) -> None:
    verdict = soak_samples.judge("web uss_mb", TIMES, values)
    assert verdict
    assert verdict.growing


def test_the_rate_and_the_least_growth_that_would_be_found_are_said() -> None:
    verdict = soak_samples.judge("web uss_mb", TIMES, [50 + time * 40 / 3600 for time in TIMES])
    assert verdict
    assert verdict.per_hour == pytest.approx(40)
    assert verdict.noticed == pytest.approx(verdict.tolerance / (MINUTES * 0.75 / 60), rel=0.01)


def test_one_descriptor_for_every_tenth_upload_is_growth() -> None:
    verdict = soak_samples.judge("web fds", TIMES, [25 + n // 30 for n in range(len(TIMES))])
    assert verdict
    assert verdict.growing


def test_of_the_engine_the_longest_life_is_judged_without_its_own_warm_up() -> None:
    """A new engine begins small, which is no growth."""
    lives = [(1, 20, 500.0), (2, 200, 600.0), (3, 80, 300.0)]  # process, samples, MB when warm
    samples = []
    for pid, count, megabytes in lives:
        for age in range(count):
            held = megabytes * min(1.0, 0.5 + age / 20)
            seconds = len(samples) * EVERY
            samples.append({"seconds": seconds, "engine": float(pid), "engine uss_mb": held})
    [verdict] = soak_samples.judge_all(samples, warm_up=60)
    assert (verdict.first, verdict.last, verdict.growing) == (600.0, 600.0, False)
