"""Where somebody speaks by pyannote's segmentation model: `STT_VAD=pyannote`. Its weights come with WhisperX.

As pyannote does it: the model hears five seconds at once, every half second anew, and what it says of a
moment is averaged over all that heard it, those in whose middle the moment lies counting more. So the ends
of blocks do not matter; each second is heard ten times, which is the price. torch is imported only here.
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

CHUNK, STEP = 5 * RATE, RATE // 2
# Chunks of one call. Always so many, counted from where listening began: then what is found does not depend
# on how the stream is cut, to the last bit.
_CALL = 16
# As WhisperX has them; the rest is as for the other model.
PARAMS = vad.Params(onset=0.5, offset=0.363)


class PyannoteModel:
    """The model, loaded when it is first heard with; calling it gives a listener."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._lock = threading.Lock()
        self._model: Any = None
        self.first = self.each = 0.0  # samples to the middle of its first frame, and from frame to frame

    def detector(self) -> PyannoteDetector:
        return PyannoteDetector(self)

    def scores(self, chunks: Samples) -> Samples:
        """For each chunk of five seconds the probability that anybody speaks, frame by frame."""
        import torch  # noqa: PLC0415  seconds and memory that only those who chose it should spend

        with self._lock:
            if self._model is None:
                self._load()
        with torch.inference_mode():
            found = self._model(torch.from_numpy(np.array(chunks[:, None])).to(self._device))
        # Of the voices that it tells apart, the clearest.
        scores: Samples = found.max(dim=-1).values.float().cpu().numpy()
        return scores

    def _load(self) -> None:
        import torch  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it cannot decode files: it is given samples
            from pyannote.audio import Model  # noqa: PLC0415

            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
            model: Any = Model.from_pretrained(str(_weights()))
        torch.set_num_threads(self._threads)
        frames = model.receptive_field
        self.first, self.each = (frames.start + frames.duration / 2) * RATE, frames.step * RATE
        self._model = model.eval().to(self._device)


class PyannoteDetector:
    """The model along one stream, in the frames of `vad`. It is some seconds behind what it is given."""

    params = PARAMS

    def __init__(self, model: PyannoteModel) -> None:
        self._model = model
        self._waiting = np.zeros(0, np.float32)  # from the next chunk's first sample on
        self._next = 0  # that sample
        self._told = 0  # frames
        self._sums = self._weights = np.zeros(0)  # of the frames after those

    def process(self, samples: Samples) -> vad.Probabilities:
        """Probability of speech in each frame of which all is heard that there is to hear."""
        self._waiting = np.concatenate([self._waiting, samples])
        found = [np.zeros(0, np.float32)]
        while len(self._waiting) >= (_CALL - 1) * STEP + CHUNK:
            self._call(_CALL)
            found.append(self._tell(_from(self._next)))
        return np.concatenate(found)

    def flush(self) -> vad.Probabilities:
        """The last frames, also the incomplete one."""
        frames = -(-(self._next + len(self._waiting)) // vad.FRAME)
        if frames == self._told:
            return np.zeros(0, np.float32)
        rest = -(-(len(self._waiting) - CHUNK) // STEP) + 1
        chunks = max(rest, 0 if self._next else 1)
        if chunks:
            missing = (chunks - 1) * STEP + CHUNK - len(self._waiting)
            self._waiting = np.pad(self._waiting, (0, max(0, missing)))
            self._call(chunks)
        return self._tell(frames)

    def _call(self, count: int) -> None:
        chunks = np.lib.stride_tricks.sliding_window_view(self._waiting, CHUNK)[::STEP][:count]
        for scores in self._model.scores(chunks):
            self._add(scores)
            self._next += STEP
        self._waiting = self._waiting[count * STEP :].copy()

    def _add(self, scores: Samples) -> None:
        """What one chunk says, at the middles of our frames."""
        frames = np.arange(_from(self._next), (self._next + CHUNK) // vad.FRAME + 1)
        places = ((frames + 0.5) * vad.FRAME - self._next - self._model.first) / self._model.each
        theirs = np.arange(len(scores))
        weights = np.interp(places, theirs, np.hamming(len(scores)))
        more = max(0, int(frames[-1]) + 1 - self._told - len(self._sums))
        self._sums, self._weights = np.pad(self._sums, (0, more)), np.pad(self._weights, (0, more))
        self._sums[frames - self._told] += weights * np.interp(places, theirs, scores)
        self._weights[frames - self._told] += weights

    def _tell(self, until: int) -> vad.Probabilities:
        count = until - self._told
        found = (self._sums[:count] / self._weights[:count]).astype(np.float32)
        self._sums, self._weights, self._told = self._sums[count:], self._weights[count:], until
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
