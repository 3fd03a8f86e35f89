"""What every part of the engine means by sound: 16 kHz mono samples of 32 bits, full scale from -1 to 1."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RATE = 16_000

Samples: TypeAlias = NDArray[np.float32]
