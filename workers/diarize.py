"""Who speaks when, in a process of its own: it hears the whole recording, and what it costs ends with it.

``python -m workers.diarize`` reads a request (JSON) from standard input and writes to standard output, one
JSON object a line: {"share"} done so far, {"warning", "message"}, and at last {"turns"}. `workers.speakers`
starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from setproctitle import setproctitle
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

from workers import spans
from workers.audio import RATE, Recording

Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]
Turn = dict[str, Any]
Tell = Callable[[dict[str, Any]], None]

PIECE_SECONDS = 120.0  # heard at once; only the voices' vectors are kept of it
NOISE = -1  # HDBSCAN's label for what fits nowhere
BATCH = 16  # stretches of voice at once; senko takes 64, and more memory
# senko's spectral clustering looks at six neighbours and drops speakers of fewer than four stretches: too
# many for a clip of few stretches. There, voices that differ by less than this are one (cosine distance).
FEW, ALIKE = 40, 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the file, how many speakers at least and at most, and what to run on."""

    path: str
    device: str
    threads: int
    folder: str  # for caches and downloaded models
    token: str = ""
    at_least: int | None = None
    at_most: int | None = None


class Bounded:
    """senko's clustering held to a number of speakers, which it does not take; noise goes to the nearest."""

    def __init__(
        self, cluster: Callable[[Vectors], Labels], at_least: int | None, at_most: int | None
    ) -> None:
        self._cluster, self._at_least, self._at_most = cluster, at_least, at_most

    def __call__(self, vectors: Vectors) -> Labels:
        """The speaker of each vector, as a number."""
        found = _of_few(vectors) if len(vectors) < FEW else np.asarray(self._cluster(vectors))
        labels = _without_noise(found, vectors)
        fewest = min(self._at_least or 1, len(vectors))
        if len(np.unique(labels)) < fewest:
            labels = KMeans(fewest, random_state=0, n_init=4).fit_predict(normalize(vectors))
        while self._at_most and len(np.unique(labels)) > self._at_most:
            labels = _closest_joined(labels, vectors)
        return labels


def _centres(labels: Labels, vectors: Vectors) -> tuple[Labels, Vectors]:
    names = np.unique(labels[labels != NOISE])
    return names, np.stack([vectors[labels == name].mean(axis=0) for name in names])


def _of_few(vectors: Vectors) -> Labels:
    """Speakers of a short clip. One heard in a single stretch is noise, unless all are."""
    if len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    join = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=ALIKE)
    labels: Labels = join.fit_predict(vectors)
    alone = np.bincount(labels)[labels] < 2
    return np.where(alone, NOISE, labels)


def _without_noise(labels: Labels, vectors: Vectors) -> Labels:
    noise = labels == NOISE
    if noise.all():
        return np.zeros_like(labels)
    if noise.any():
        names, centres = _centres(labels, vectors)
        labels = labels.copy()
        labels[noise] = names[cosine_similarity(vectors[noise], centres).argmax(axis=1)]
    return labels


def _closest_joined(labels: Labels, vectors: Vectors) -> Labels:
    names, centres = _centres(labels, vectors)
    alike = cosine_similarity(centres) - 2 * np.eye(len(names))
    one, other = np.unravel_index(alike.argmax(), alike.shape)
    return np.where(labels == names[other], names[one], labels)


class _Late(ModuleType):
    """Stands in for a module until something of it is used; LazyLoader loads it at the next import."""

    def __getattr__(self, attribute: str) -> Any:
        sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), attribute)


def by_senko(asked: Asked, tell: Tell) -> list[Turn]:
    """Turns by senko's models, whose weights are in its package.

    Its own `diarize` holds all features of a recording in memory (0.9 GB an hour) and finds speech with a
    model of its own; here it gets our speech, piece by piece.
    """
    # senko puts compiled code under the home folder, which may not be ours to write.
    os.environ["HOME"] = asked.folder
    # Only a recording of 20 minutes or more needs them, and they take long to load, minutes the first time.
    for name in ("umap", "hdbscan"):
        sys.modules[name] = _Late(name)
    from senko.diarizer import Diarizer  # noqa: PLC0415  seconds, and only after HOME is set

    made = Diarizer(asked.device, vad="silero", clustering="cpu", warmup=False)
    made.logical_cores = asked.threads  # to which it sets torch again and again
    torch.set_num_threads(asked.threads)
    if asked.at_most or asked.at_least:
        spectral = made.spectral_cluster.cluster
        spectral.min_num_spks = asked.at_least or spectral.min_num_spks
        spectral.max_num_spks = max(asked.at_most or spectral.max_num_spks, spectral.min_num_spks)
    for name in ("spectral_cluster", "umap_hdbscan_cluster"):
        setattr(made, name, Bounded(getattr(made, name), asked.at_least, asked.at_most))

    windows: list[tuple[float, float]] = []
    vectors: list[Vectors] = []
    for span in _pieces(asked.path, tell):
        speech = [(part.start, part.end) for part in span.speech]
        if parts := made._generate_subsegments(speech, accurate=False):
            vectors.append(_vectors(made, span.samples, parts))
            offset = span.start / RATE
            windows += [(start + offset, end + offset) for start, end in parts]
    if not windows:
        return []
    turns: list[Turn] = made._perform_clustering(np.concatenate(vectors), windows)[1]
    return turns


def _pieces(path: str, tell: Tell) -> Iterator[spans.Span]:
    recording = Recording(Path(path))
    try:
        for span in spans.read(recording, PIECE_SECONDS):
            yield span
            length = max(recording.duration or 0.0, span.end / RATE)
            tell({"share": round(span.end / RATE / length, 3)})
    finally:
        recording.close()


def _vectors(made: Any, samples: NDArray[np.float32], parts: list[tuple[float, float]]) -> Vectors:
    """A vector for the voice in each of some stretches."""
    # A stretch at the very beginning may be asked for from before it.
    parts = [(max(0.0, start), end) for start, end in parts]
    features, frames, offsets, width = made._extract_fbank_features(np.ascontiguousarray(samples), parts)
    found = []
    for first in range(0, len(parts), BATCH):
        batch = slice(first, first + BATCH)
        with torch.inference_mode():
            found.append(
                made._generate_embeddings(features, frames[batch], offsets[batch].astype(int), width)
            )
    return np.concatenate(found)


def by_pyannote(asked: Asked, tell: Tell) -> list[Turn]:
    """Turns by pyannote's pipeline through WhisperX; its models come from the hub, for a token."""
    from whisperx.diarize import DiarizationPipeline  # noqa: PLC0415  seconds

    torch.set_num_threads(asked.threads)
    pipeline = DiarizationPipeline(token=asked.token, device=asked.device, cache_dir=asked.folder)
    recording = Recording(Path(asked.path))
    try:
        samples = np.concatenate(list(recording.blocks()))
    finally:
        recording.close()
    found = pipeline(
        samples,
        min_speakers=asked.at_least,
        max_speakers=asked.at_most,
        progress_callback=lambda percent: tell({"share": round(percent / 100, 3)}),
    )
    return [
        {"start": float(turn.start), "end": float(turn.end), "speaker": str(turn.speaker)}
        for turn in found.itertuples()
    ]


def turns_of(asked: Asked, tell: Tell) -> list[Turn]:
    """Turns by the better model that can be had."""
    if asked.token:
        try:
            return by_pyannote(asked, tell)
        except Exception as error:  # noqa: BLE001  whatever it is, the model in the package is left
            print(f"pyannote's diarization failed: {error}", file=sys.stderr)  # noqa: T201
            message = (
                "Speakers were told apart by senko, as pyannote's model could not be used: the log says why."
            )
            tell({"warning": "speakers_by_senko", "message": message})
    return by_senko(asked, tell)


def main() -> None:
    """Answer the request of the command line."""
    setproctitle("stt speakers")
    # Whatever libraries print goes to the log.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def tell(event: dict[str, Any]) -> None:
            out.write(json.dumps(event) + "\n")
            out.flush()

        os.nice(5)  # text comes first
        asked = Asked(**json.load(sys.stdin))
        tell({"turns": [_plain(turn) for turn in turns_of(asked, tell)]})


def _plain(turn: Turn) -> Turn:
    return {"start": round(turn["start"], 3), "end": round(turn["end"], 3), "speaker": turn["speaker"]}


if __name__ == "__main__":
    main()
