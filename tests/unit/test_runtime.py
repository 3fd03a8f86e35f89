"""The engine's plan suits the machine: models, threads, batches, number types."""

from __future__ import annotations

from pathlib import Path

import pytest

from stt.settings import Settings
from workers import machine
from workers.engine import runtime
from workers.engine.recognise import Recogniser


def test_models_that_were_not_used_for_longest_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(bytes(100))
    loads: list[str] = []
    monkeypatch.setattr(Recogniser, "load", lambda folder, *_, **__: loads.append(folder.name) or folder.name)
    engine = runtime.Runtime(Settings(data_dir=tmp_path, device="cpu", model_memory=200))
    for name in ("a", "b", "a", "c", "a", "b"):
        assert engine.recogniser(str(tmp_path / name)) == name
    assert loads == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("threads", "free", "replicas", "each", "batch"),
    [(2, 2**34, 2, 1, 8), (1, 2**34, 1, 1, 8), (8, 2**34, 4, 2, 8), (2, 2**28, 2, 1, 1)],
)
def test_the_plan_suits_the_machine(threads: int, free: int, replicas: int, each: int, batch: int) -> None:
    plan = machine.plan(Settings(), "cpu", threads, free)
    assert (plan.replicas, plan.threads, plan.batch) == (replicas, each, batch)


@pytest.mark.parametrize(
    ("device", "free", "chosen"),
    [
        ("cpu", 2**34, "int8"), ("cpu", 2**28, "int8"),
        ("cuda", 24 * 2**30, "float16"), ("cuda", 6 * 2**30, "int8_float16"),
    ],
)  # fmt: skip
def test_the_compute_type_suits_device_and_memory(device: str, free: int, chosen: str) -> None:
    assert machine.compute_type(Settings(), device, free) == chosen
    assert machine.compute_type(Settings(compute_type="float32"), device, free) == "float32"


def test_a_gpu_is_judged_by_its_own_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  seconds that the other tests need not wait

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * 2**30, 8 * 2**30))
    engine = runtime.Runtime(Settings(device="cuda", data_dir=tmp_path))
    assert engine.compute_type == "int8_float16"
    assert engine.plan.model_bytes == 3 * 2**30


def test_cores_are_spare_where_no_worker_computes_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert machine.spare_cores(Settings(workers=2), 3) == 2
    assert machine.spare_cores(Settings(workers=2), 4) == 0
    assert machine.spare_cores(Settings(workers="auto"), 6) == 2


def test_what_is_set_is_not_chosen() -> None:
    plan = machine.plan(Settings(replicas=1, batch_size=3, model_memory=5), "cpu", 8, 2**34)
    assert (plan.replicas, plan.threads, plan.batch, plan.model_bytes) == (1, 8, 3, 5)
