"""The peaks from which a player draws the wave form: the largest amplitude in each tenth of a second.

Each peak is one byte, linear from 0 to 255 (full scale), which is as exact as a drawing can be. An hour is 36
kB. Ten peaks a second are enough to see syllables where three minutes fill a wide screen.
"""

from __future__ import annotations

import numpy as np

from stt.transcript.waveform import PER_SECOND
from workers.audio.sound import RATE, Samples

_EACH = RATE // PER_SECOND


def peaks_of(samples: Samples, start: int) -> bytes:
    """The peaks of samples, of which the first is the sample `start` of the recording.

    Tenths of a second are counted from the recording's beginning. So the first and the last one may hold
    samples before and after these, whose peaks are computed apart: then the larger one counts
    (`stt.transcript.waveform`).
    """
    if not len(samples):
        return b""
    borders = np.arange(_EACH - start % _EACH, len(samples), _EACH)
    firsts = np.concatenate([[0], borders])
    # An array of absolute values would take as much memory as the samples.
    loudest = np.maximum(np.maximum.reduceat(samples, firsts), -np.minimum.reduceat(samples, firsts))
    return np.clip(np.nan_to_num(loudest, posinf=1.0) * 255 + 0.5, 0, 255).astype(np.uint8).tobytes()
