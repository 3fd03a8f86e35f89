"""The GPU as metrics show it, by a library in the place of NVIDIA's: no GPU is here."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from stt.telemetry import gpu
from stt.telemetry.metrics import GPU_MEMORY, GPU_MEMORY_USED, GPU_USE
from tests.support import metrics

UUIDS = ["GPU-11-aa", "GPU-22-bb"]


class NVMLError(Exception):
    pass


class Driver(SimpleNamespace):
    """Two GPUs: the second has twice the memory."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_FOUND = 6
    away = False

    def nvmlInit(self) -> None:
        if self.away:
            raise NVMLError

    def nvmlDeviceGetCount(self) -> int:
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if number >= len(UUIDS):
            raise NVMLError
        return number

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if self.away:
            raise NVMLError
        return SimpleNamespace(total=80 * (handle + 1), used=20)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=50 + handle)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


@pytest.fixture(autouse=True)
def _no_series() -> Any:
    yield
    for gauge in (GPU_MEMORY, GPU_MEMORY_USED, GPU_USE):
        gauge.clear()


@pytest.mark.parametrize(
    ("chosen", "uuid"),
    [(None, "GPU-11-aa"), ("1", "GPU-22-bb"), ("GPU-22", "GPU-22-bb"), (" GPU-22-bb ,0", "GPU-22-bb")],
)
@pytest.mark.usefixtures("driver")
def test_the_gpu_of_this_process_is_shown(chosen: str | None, uuid: str) -> None:
    assert gpu.watch(chosen)
    told = metrics.of_this_process()
    assert {has["gpu"] for name, has, _ in told.samples if name.startswith("stt_gpu_")} == {uuid}
    number = UUIDS.index(uuid)
    assert told.sum("stt_gpu_memory_total_bytes", gpu=uuid) == 80 * (number + 1)
    assert told.sum("stt_gpu_memory_used_bytes", gpu=uuid) == 20
    assert told.sum("stt_gpu_utilization_ratio", gpu=uuid) == (50 + number) / 100


@pytest.mark.parametrize("chosen", ["", "-1", "7", "GPU-33"])
@pytest.mark.usefixtures("driver")
def test_a_process_without_a_gpu_shows_none(chosen: str) -> None:
    assert not gpu.watch(chosen)
    assert "stt_gpu_memory_total_bytes{" not in metrics.of_this_process().text


def test_no_driver_and_no_library_are_silent(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.away = True
    assert not gpu.watch(None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not gpu.watch(None)


def test_a_driver_that_goes_away_does_not_break_the_scrape(driver: Driver) -> None:
    assert gpu.watch(None)
    driver.away = True
    assert 'stt_gpu_memory_total_bytes{gpu="GPU-11-aa"} NaN' in metrics.of_this_process().text
