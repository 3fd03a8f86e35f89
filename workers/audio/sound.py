"""The format of sound in every part of the engine: 16 kHz, mono, 32-bit float samples from -1 to 1."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RATE = 16_000

Samples: TypeAlias = NDArray[np.float32]
