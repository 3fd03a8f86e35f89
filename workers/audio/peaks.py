"""The wave form that a player draws: the loudest moment of each tenth of a second, a byte each.

Ten a second are as many as a wide screen has columns for three minutes, and there a syllable can be seen; an
hour is 36 kB. A byte holds all that a drawing can show of the linear amplitude.
"""

from __future__ import annotations

import numpy as np

from stt.transcript.waveform import PER_SECOND
from workers.audio.sound import RATE, Samples

_EACH = RATE // PER_SECOND


def peaks_of(samples: Samples, start: int) -> bytes:
    """Peaks of samples that begin at `start`, from 0 to 255, which is full scale.

    The tenths are those of the recording, so the first and the last may be shared with what lies before
    and after: there the larger one counts.
    """
    if not len(samples):
        return b""
    borders = np.arange(_EACH - start % _EACH, len(samples), _EACH)
    firsts = np.concatenate([[0], borders])
    # No array of absolute values, which would be as large as the span.
    loudest = np.maximum(np.maximum.reduceat(samples, firsts), -np.minimum.reduceat(samples, firsts))
    return np.clip(np.nan_to_num(loudest, posinf=1.0) * 255 + 0.5, 0, 255).astype(np.uint8).tobytes()
