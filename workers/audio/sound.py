"""The format of sound in every part of the engine: 16 kHz, mono, 32-bit float samples from -1 to 1.

The web's probe resamples to the same rate (`stt.media.frames.RATE`).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # samples a second

Samples: TypeAlias = NDArray[np.float32]  # shape (samples,); of several channels (channels, samples)
# The approximate length of a block of decoded samples, in seconds.
BLOCK_SECONDS = 10
