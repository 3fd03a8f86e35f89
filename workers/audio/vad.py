"""Voice activity detection with Silero VAD (version 6), whose ONNX model comes with faster-whisper.

A detector gives the probability of speech for each frame of `FRAME` samples. `speech` turns these into
stretches of speech, with times in seconds. torch is not imported.
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

FRAME = 512  # samples for which the model gives one probability: 32 ms
FRAMES_PER_SECOND = RATE / FRAME

_CONTEXT = 64  # samples of the frame before that the model takes too
_STATE = 128  # numbers in each of the two states of its LSTM
# Frames in one call of the model: more gain no time, and the memory of a call grows with them.
_CALL = 2048

Probabilities: TypeAlias = NDArray[np.float32]  # of speech, shape (frames,)


@dataclass(frozen=True, slots=True)
class Speech:
    """A stretch of speech from `start` to `end`, padding included. All times are in seconds.

    - `pause`: from the last frame of speech to the first one of the next stretch, padding not subtracted.
    - `lead`, `tail`: the padding, before the first and after the last frame of speech.
    - `probability`: the mean over the frames between the padding.
    """

    start: float
    end: float
    pause: float = field(default=0.0, compare=False)
    lead: float = field(default=0.0, compare=False)
    tail: float = field(default=0.0, compare=False)
    probability: float = field(default=1.0, compare=False)


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of the hysteresis by which probabilities become speech.

    - `onset`: the probability at which speech begins.
    - `offset`: speech ends where the probability stays below this for `silence` seconds.
    - `speech`: shorter speech, in seconds, is dropped.
    - `pad`: seconds that are added on both sides, for soft beginnings and ends of words.
    """

    onset: float = 0.5
    offset: float = 0.35
    silence: float = 0.16
    speech: float = 0.1
    pad: float = 0.3


class SpeechDetector(Protocol):
    """A voice activity detector for one stream of 16 kHz mono samples. It keeps a state between calls."""

    params: Params

    def process(self, samples: Samples) -> Probabilities:
        """The probabilities of the frames that are ready, in order. Other samples wait for the next call."""

    def flush(self) -> Probabilities:
        """The probabilities of the remaining frames, also of the last, incomplete one."""


class SileroDetector:
    """Silero VAD for one stream. Its result does not depend on how the samples are cut into calls."""

    params = Params()

    def __init__(self) -> None:
        self._session = _session()
        self._state = (np.zeros((1, 1, _STATE), np.float32), np.zeros((1, 1, _STATE), np.float32))
        self._context = np.zeros(_CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def process(self, samples: Samples) -> Probabilities:
        """The probability of each whole frame. The remaining samples wait for the next call."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        frames = samples[:whole].reshape(-1, FRAME)
        calls = [self._call(frames[i : i + _CALL]) for i in range(0, len(frames), _CALL)]
        return np.concatenate([np.zeros(0, np.float32), *calls])

    def flush(self) -> Probabilities:
        """The probability of the last, incomplete frame, if there is one."""
        if not len(self._rest):
            return np.zeros(0, np.float32)
        return self.process(np.zeros(FRAME - len(self._rest), np.float32))

    def _call(self, frames: Samples) -> Probabilities:
        before = np.vstack([self._context, frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:]
        inputs = np.ascontiguousarray(np.hstack([before, frames]))
        h, c = self._state
        out, h, c = self._session.run(None, {"input": inputs, "h": h, "c": c})
        self._state = (h, c)
        return np.asarray(out, np.float32).reshape(-1)


def probabilities(samples: Samples, detector: SpeechDetector | None = None) -> Probabilities:
    """The probabilities of all frames of these samples, by a new detector or the given one."""
    detector = detector or SileroDetector()
    return np.concatenate([detector.process(samples), detector.flush()])


def speech(found: Probabilities, length: float, params: Params | None = None) -> list[Speech]:
    """The stretches of speech. Where a pause is shorter than two pads, the pads meet in its middle.

    Args:
        found: The probability of each frame, from time 0 on.
        length: The end of the sound, in seconds; no stretch goes beyond it.
        params: By default those of Silero VAD here.
    """
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
    """The frame at which to cut: the middle of the longest pause in the frames from `first` up to `last`.

    Without a pause it is the frame with the smallest probability of speech, summed over three frames (0.1 s).

    Args:
        found: The probability of each frame.
        first: The first frame at which a cut is allowed.
        last: The frame after the last one.
        params: A frame below its `offset` belongs to a pause.
    """
    part = found[first:last]
    quiet = np.concatenate([[False], part < (params or Params()).offset, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(quiet)).reshape(-1, 2)
    if len(edges):
        start, end = edges[np.argmax(edges[:, 1] - edges[:, 0])]
        return first + int(start + end) // 2
    return first + int(np.argmin(np.convolve(part, np.ones(3), "same")))


def _stretches(found: Probabilities, params: Params) -> list[tuple[float, float]]:
    """Start and end of each stretch of speech in seconds, by hysteresis, without padding."""
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
    """The stretches with up to `pad` seconds on both sides, all within 0 to `length` seconds."""
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
    import onnxruntime  # noqa: PLC0415  its import takes half a second

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
