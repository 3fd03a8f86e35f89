"""Where somebody speaks: the Silero model that comes with faster-whisper, and what is derived from it.

No torch in here: the model is a small ONNX file. Times are in seconds, frames in `FRAME` samples.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.audio.sound import RATE, Samples

FRAME = 512  # samples that the model judges at once
FRAMES_PER_SECOND = RATE / FRAME

_CONTEXT = 64  # samples of the frame before that it hears too
_STATE = 128
# Frames of one call: more gain nothing, and the memory of a call grows with them.
_CALL = 2048

Probabilities: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Speech:
    """Somebody speaks from `start` to `end`, in seconds; then nobody for `pause`, padding not counted.

    `lead` and `tail` are the padding: seconds before and after what sounds like speech. `probability` is the
    mean of the frames between them.
    """

    start: float
    end: float
    pause: float = field(default=0.0, compare=False)
    lead: float = field(default=0.0, compare=False)
    tail: float = field(default=0.0, compare=False)
    probability: float = field(default=1.0, compare=False)


@dataclass(frozen=True, slots=True)
class Params:
    """How probabilities become speech. Seconds.

    Speech begins at `onset` and ends where it stays below `offset` for `silence`; what is shorter than
    `speech` is none; `pad` is added on both sides, for soft beginnings and ends of words.
    """

    onset: float = 0.5
    offset: float = 0.35
    silence: float = 0.16
    speech: float = 0.1
    pad: float = 0.3


class SpeechDetector(Protocol):
    """What listens along one stream: the model here, or another."""

    params: Params

    def process(self, samples: Samples) -> Probabilities:
        """Probability of speech in frames, in order; what is left waits for the next call."""

    def flush(self) -> Probabilities:
        """Those of the last frames, also of the incomplete one."""


class SileroDetector:
    """The model along one stream; it remembers what it heard, so blocks may be cut anywhere."""

    params = Params()

    def __init__(self) -> None:
        self._session = _session()
        self._memory = (np.zeros((1, 1, _STATE), np.float32), np.zeros((1, 1, _STATE), np.float32))
        self._context = np.zeros(_CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def process(self, samples: Samples) -> Probabilities:
        """Probability of speech in each whole frame; what is left waits for the next call."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        frames = samples[:whole].reshape(-1, FRAME)
        calls = [self._call(frames[i : i + _CALL]) for i in range(0, len(frames), _CALL)]
        return np.concatenate([np.zeros(0, np.float32), *calls])

    def flush(self) -> Probabilities:
        """The last, incomplete frame."""
        if not len(self._rest):
            return np.zeros(0, np.float32)
        return self.process(np.zeros(FRAME - len(self._rest), np.float32))

    def _call(self, frames: Samples) -> Probabilities:
        before = np.vstack([self._context, frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:]
        heard = np.ascontiguousarray(np.hstack([before, frames]))
        h, c = self._memory
        out, h, c = self._session.run(None, {"input": heard, "h": h, "c": c})
        self._memory = (h, c)
        return np.asarray(out, np.float32).reshape(-1)


def probabilities(samples: Samples, detector: SpeechDetector | None = None) -> Probabilities:
    """Probability of speech in each frame of a piece that stands alone."""
    detector = detector or SileroDetector()
    return np.concatenate([detector.process(samples), detector.flush()])


def speech(found: Probabilities, length: float, params: Params | None = None) -> list[Speech]:
    """Stretches of speech in `length` seconds; pads of neighbours meet in the middle of a short pause."""
    params = params or Params()
    spoken = _stretches(found, params)
    starts = [start for start, _ in spoken[1:]] + [length]
    pauses = [max(0.0, start - end) for start, (_, end) in zip(starts, spoken, strict=False)]
    padded = _padded(spoken, params.pad, length)
    return [
        Speech(start, end, pause, first - start, end - last, _mean(found, first, last))
        for (start, end), (first, last), pause in zip(padded, spoken, pauses, strict=True)
    ]


def _mean(found: Probabilities, start: float, end: float) -> float:
    frames = found[int(start * FRAMES_PER_SECOND) : int(end * FRAMES_PER_SECOND)]
    return float(frames.mean()) if len(frames) else 0.0


def quietest(found: Probabilities, first: int, last: int, params: Params | None = None) -> int:
    """Where to cut in the frames from `first` up to `last`: the middle of the longest pause.

    Where nobody pauses, the frame that sounds least like speech (smoothed over a tenth of a second).
    """
    part = found[first:last]
    quiet = np.concatenate([[False], part < (params or Params()).offset, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(quiet)).reshape(-1, 2)
    if len(edges):
        start, end = edges[np.argmax(edges[:, 1] - edges[:, 0])]
        return first + int(start + end) // 2
    return first + int(np.argmin(np.convolve(part, np.ones(3), "same")))


def _stretches(found: Probabilities, params: Params) -> list[tuple[float, float]]:
    """Speech by hysteresis."""
    patience = params.silence * FRAMES_PER_SECOND
    spoken: list[tuple[float, float]] = []
    start = quiet = -1
    for frame, probability in enumerate([*found.tolist(), *[0.0] * (int(patience) + 2)]):
        if probability >= params.onset:
            start = frame if start < 0 else start
            quiet = -1
        elif probability < params.offset and start >= 0:
            quiet = frame if quiet < 0 else quiet
            if frame - quiet >= patience:
                if quiet - start >= params.speech * FRAMES_PER_SECOND:
                    spoken.append((start / FRAMES_PER_SECOND, quiet / FRAMES_PER_SECOND))
                start = quiet = -1
    return spoken


def _padded(stretches: list[tuple[float, float]], pad: float, length: float) -> list[tuple[float, float]]:
    padded = []
    for number, (start, end) in enumerate(stretches):
        before = stretches[number - 1][1] if number else -pad
        after = stretches[number + 1][0] if number + 1 < len(stretches) else length + pad
        padded.append(
            (
                max(0.0, start - min(pad, (start - before) / 2)),
                min(length, end + min(pad, (after - end) / 2)),
            )
        )
    return padded


@cache
def _session() -> Any:
    import onnxruntime  # noqa: PLC0415  half a second that only the engine should spend

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        str(_model()), providers=["CPUExecutionProvider"], sess_options=options
    )


def _model() -> Path:
    """The model's file, found without importing faster-whisper, which takes seconds."""
    package = importlib.util.find_spec("faster_whisper")
    if package is None or package.origin is None:
        raise RuntimeError("faster-whisper is not installed; install the `worker` dependencies")
    return Path(package.origin).parent / "assets" / "silero_vad_v6.onnx"
