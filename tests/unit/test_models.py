"""What the module of models promises: the default model without a hub, whole, whoever asks, however often."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from stt.models import BUNDLES, MODEL_FILE, bundle_parts
from stt.settings import Settings
from workers.engine import models
from workers.engine.models import ModelUnavailable

pytestmark = pytest.mark.skipif(
    not bundle_parts(BUNDLES["base"]), reason="the packages of the model base are not installed"
)


def sha256(folder: Path) -> str:
    with (folder / MODEL_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def test_base_is_joined_from_its_packages(settings: Settings) -> None:
    folder = models.find("base", settings)
    assert sha256(folder) == BUNDLES["base"].sha256
    assert {"config.json", "tokenizer.json", "vocabulary.txt"} <= {p.name for p in folder.iterdir()}
    assert [path.name for path in folder.parent.glob("*base*building*")] == []


def test_once_joined_it_needs_neither_packages_nor_another_look(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.find("base", settings)
    monkeypatch.setattr(models, "bundle_parts", lambda bundle: [])
    monkeypatch.setattr(models, "_sha256", lambda path: pytest.fail("read the whole model again"))
    assert models.find("base", settings) == folder


@pytest.mark.parametrize("keep_size", [True, False])
def test_a_damaged_model_is_noticed_and_made_anew(settings: Settings, keep_size: bool) -> None:
    model = models.find("base", settings) / MODEL_FILE
    with model.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damaged")
        if not keep_size:
            file.truncate(2_000_000)
    assert sha256(models.find("base", settings)) == BUNDLES["base"].sha256


def test_a_touched_but_whole_model_is_kept(settings: Settings) -> None:
    model = models.find("base", settings) / MODEL_FILE
    number = model.stat().st_ino
    os.utime(model, (1, 1))
    assert (models.find("base", settings) / MODEL_FILE).stat().st_ino == number


def _find(data_dir: str, barrier: object) -> str:
    barrier.wait()  # type: ignore[attr-defined]
    return str(models.find("base", Settings(data_dir=Path(data_dir))))


def test_two_workers_that_start_at_once_get_the_same_whole_model(settings: Settings) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        barrier = manager.Barrier(3)
        found = pool.starmap(_find, [(str(settings.data_dir), barrier)] * 3)
    assert set(found) == {str(settings.data_dir / "models" / "base")}
    assert sha256(Path(found[0])) == BUNDLES["base"].sha256
    assert sorted(path.name for path in Path(found[0]).parent.iterdir()) == [".base.lock", "base"]


def test_what_a_killed_joiner_left_is_no_obstacle(settings: Settings) -> None:
    left = settings.data_dir / "models" / ".base.building"
    left.mkdir(parents=True)
    (left / MODEL_FILE).write_bytes(b"half")
    assert sha256(models.find("base", settings)) == BUNDLES["base"].sha256
    assert not left.exists()


def test_a_full_disk_is_said_in_a_sentence(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 150_000_000  # more than the model's 145 MB, less than what must stay free besides
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(ModelUnavailable, match=r"free some disk space.*STT_DATA_DIR") as caught:
        models.find("base", settings)
    needed, model, spare, there = map(int, re.findall(r"(\d+) MB", str(caught.value)))
    assert needed > there == 150
    assert model + spare == pytest.approx(needed, abs=1)


def test_damaged_packages_are_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = bundle_parts(BUNDLES["base"])
    monkeypatch.setattr(models, "bundle_parts", lambda bundle: [one, one])
    with pytest.raises(ModelUnavailable, match="packages of the model base are damaged"):
        models.find("base", settings)
    assert not (settings.data_dir / "models" / "base").exists()


def test_a_model_that_cannot_be_downloaded_is_named_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"The model tiny .* STT_MODEL"):
        models.find("tiny", settings)
    assert time.monotonic() - begun < 15


def test_a_download_that_was_cut_off_is_taken_up_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = settings.data_dir / "models" / "hub" / "snapshot"
    snapshot.mkdir(parents=True)
    asked: list[bool] = []

    def download(_repository: str, *, local_files_only: bool = False, **_: object) -> str:
        asked.append(local_files_only)
        if not local_files_only:
            if len(asked) < 3:  # the first time
                (snapshot / "model.bin").touch()
                raise ConnectionError
            (snapshot / "tokenizer.json").touch()
            (snapshot / "config.json").touch()
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelUnavailable, match="could not be downloaded"):
        models.find("tiny", settings)
    assert models.find("tiny", settings) == snapshot
    assert asked == [True, False, True, False]
    assert models.find("tiny", settings) == snapshot
    assert asked[4:] == [True]


def test_an_unknown_name_and_an_empty_folder_are_explained(settings: Settings) -> None:
    with pytest.raises(ModelUnavailable, match=r"There is no model huge.*base"):
        models.find("huge", settings)
    settings.data_dir.mkdir()
    with pytest.raises(ModelUnavailable, match=r"holds no model\.bin"):
        models.find(str(settings.data_dir), settings)


def test_a_hub_model_without_its_file_is_refused_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a repository in PyTorch's format: later requests find it in the cache."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    for _ in range(2):
        with pytest.raises(ModelUnavailable):
            models.find("openai/whisper-tiny", Settings(data_dir=tmp_path / "data"))
