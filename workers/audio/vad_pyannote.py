"""Voice activity detection with pyannote's segmentation model, whose weights come with WhisperX.

`STT_VAD=pyannote` chooses it. The scores are aggregated as by pyannote.audio's `Inference`: the model takes
overlapping chunks of five seconds, one every half second. The score of a moment is the weighted mean of all
chunks that hold it, with a Hamming window as the weights. So each second is processed ten times.
torch is imported only when the model is used.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from workers.audio import vad
from workers.audio.sound import RATE, Samples

CHUNK, STEP = 5 * RATE, RATE // 2  # samples of a chunk, and from the start of one to that of the next
# Chunks in one call of the model. Their number is fixed, so the result does not depend in a single bit on how
# the samples are cut into calls of `process`.
_CALL = 16
# The thresholds are WhisperX's, the durations are those of Silero VAD here.
PARAMS = vad.Params(onset=0.5, offset=0.363)


class PyannoteModel:
    """pyannote's segmentation model, which all detectors share. It is loaded at the first use."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._lock = threading.Lock()
        self._model: Any = None
        # Samples from a chunk's start to the middle of the model's first frame, and from frame to frame.
        self.first = self.each = 0.0

    def detector(self) -> PyannoteDetector:
        """A detector for one stream."""
        return PyannoteDetector(self)

    def scores(self, chunks: Samples) -> Samples:
        """The probability that anybody speaks, shape (chunks, frames of the model).

        `chunks` has the shape (chunks, `CHUNK`).
        """
        import torch  # noqa: PLC0415  its import takes seconds and much memory

        with self._lock:
            if self._model is None:
                self._load()
        with torch.inference_mode():
            found = self._model(torch.from_numpy(np.array(chunks[:, None])).to(self._device))
        # The model has one output for each of some speakers; the largest one counts.
        scores: Samples = found.max(dim=-1).values.float().cpu().numpy()
        return scores

    def _load(self) -> None:
        import torch  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it cannot decode files, but it gets samples
            from pyannote.audio import Model  # noqa: PLC0415

            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
            model: Any = Model.from_pretrained(str(_weights()))
        torch.set_num_threads(self._threads)
        frames = model.receptive_field
        self.first, self.each = (frames.start + frames.duration / 2) * RATE, frames.step * RATE
        self._model = model.eval().to(self._device)


class PyannoteDetector:
    """A detector for one stream, with the frames of `workers.audio.vad`. Its results come seconds late."""

    params = PARAMS

    def __init__(self, model: PyannoteModel) -> None:
        self._model = model
        self._waiting = np.zeros(0, np.float32)  # samples from the next chunk's first one on
        self._next = 0  # the number of that sample
        self._returned = 0  # frames that were returned
        self._sums = self._weights = np.zeros(0)  # of the frames after those, by which the mean is calculated

    def process(self, samples: Samples) -> vad.Probabilities:
        """The probabilities of the frames that no later chunk overlaps, so their score is final."""
        self._waiting = np.concatenate([self._waiting, samples])
        found = [np.zeros(0, np.float32)]
        while len(self._waiting) >= (_CALL - 1) * STEP + CHUNK:
            self._call(_CALL)
            found.append(self._take(_from(self._next)))
        return np.concatenate(found)

    def flush(self) -> vad.Probabilities:
        """The probabilities of the remaining frames, also of the last, incomplete one."""
        frames = -(-(self._next + len(self._waiting)) // vad.FRAME)
        if frames == self._returned:
            return np.zeros(0, np.float32)
        rest = -(-(len(self._waiting) - CHUNK) // STEP) + 1
        chunks = max(rest, 0 if self._next else 1)
        if chunks:
            missing = (chunks - 1) * STEP + CHUNK - len(self._waiting)
            self._waiting = np.pad(self._waiting, (0, max(0, missing)))
            self._call(chunks)
        return self._take(frames)

    def _call(self, count: int) -> None:
        chunks = np.lib.stride_tricks.sliding_window_view(self._waiting, CHUNK)[::STEP][:count]
        for scores in self._model.scores(chunks):
            self._add(scores)
            self._next += STEP
        self._waiting = self._waiting[count * STEP :].copy()

    def _add(self, scores: Samples) -> None:
        """Add the scores of one chunk, interpolated at the middles of our frames."""
        frames = np.arange(_from(self._next), (self._next + CHUNK) // vad.FRAME + 1)
        places = ((frames + 0.5) * vad.FRAME - self._next - self._model.first) / self._model.each
        positions = np.arange(len(scores))
        weights = np.interp(places, positions, np.hamming(len(scores)))
        more = max(0, int(frames[-1]) + 1 - self._returned - len(self._sums))
        self._sums, self._weights = np.pad(self._sums, (0, more)), np.pad(self._weights, (0, more))
        self._sums[frames - self._returned] += weights * np.interp(places, positions, scores)
        self._weights[frames - self._returned] += weights

    def _take(self, until: int) -> vad.Probabilities:
        """The probabilities of the frames up to `until`, which are dropped here."""
        count = until - self._returned
        found = (self._sums[:count] / self._weights[:count]).astype(np.float32)
        self._sums, self._weights, self._returned = self._sums[count:], self._weights[count:], until
        return found


def _from(sample: int) -> int:
    """The first frame whose middle is not before this sample."""
    return max(0, -(-(sample - vad.FRAME // 2) // vad.FRAME))


def _weights() -> Path:
    """The model's file, found without importing WhisperX."""
    package = importlib.util.find_spec("whisperx")
    if package is None or package.origin is None:
        raise RuntimeError("WhisperX is not installed; install the `worker` dependencies")
    return Path(package.origin).parent / "assets" / "pytorch_model.bin"
