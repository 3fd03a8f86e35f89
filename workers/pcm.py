"""What all sound is made into before anything looks at it: 16 kHz, one channel, float."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RATE = 16_000

Samples: TypeAlias = NDArray[np.float32]
