"""How loud the loud moments are, and very quiet speech raised to where models know it from. Pure.

Levels are powers (full scale is 1) of the differences from sample to sample, times 16: for a voice about the
power of its samples, while an offset, hum and rumble, which nobody means by loud, count for next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers import vad
from workers.sound import RATE, Samples

Powers = NDArray[np.float64]

# Share of the frames that are louder than what counts as the level: a pop or a cough is no level.
LOUD = 0.05
_SCALE = 16.0

# In dB. Never raised by more than MOST: what is lower still is noise of the equipment.
MOST = 45.0

# The stream is judged by blocks of half a second: a level is that of so many of them, and the loudest level
# from a minute before a block to half a minute after it says whether it is quiet. So a pause is not raised.
BLOCK = 16 * vad.FRAME
LEVEL_BLOCKS, BEHIND, AHEAD = 16, 120, 60


def powers(samples: Samples, frame: int) -> Powers:
    """The power of each frame of so many samples, one at least; what is left belongs to the last one."""
    changes = np.diff(samples, prepend=samples[:1]).astype(np.float64)
    starts = np.arange(0, max(1, len(samples) - frame // 2), frame)
    sizes = np.diff(np.append(starts, len(samples)))
    found: Powers = _SCALE * np.add.reduceat(np.square(changes), starts) / sizes
    return found


@dataclass(frozen=True, slots=True)
class Curve:
    """Above `quiet` dB nothing changes. Below, `slope` dB are added for each until it is at `target`."""

    quiet: float
    target: float
    slope: float

    def gain(self, power: Powers) -> float:
        """By how much a stretch with frames of these powers is raised: a factor of 1 or more."""
        level = 10 * np.log10(np.percentile(power, 100 * (1 - LOUD)) + 1e-12)
        decibels = min(self.slope * (self.quiet - level), self.target - level, MOST)
        return float(10 ** (max(decibels, 0.0) / 20))


# Voice activity finds clean speech down to -55 dB without help; the recognition likes it as loud as usual.
FOR_VOICE_ACTIVITY = Curve(-40.0, -30.0, 1.5)
FOR_RECOGNITION = Curve(-40.0, -20.0, 4.0)


def raised(samples: Samples, speech: Sequence[vad.Speech] | None = None) -> Samples:
    """The samples with their speech raised to about -20 dB, by 45 dB at most; unchanged above -40 dB.

    One gain for all of them, so that what is loud beside what is quiet stays so. The samples that are given
    are left as they are; what comes back may be they.

    Args:
        samples: 16 kHz mono.
        speech: where somebody speaks, in seconds from the first sample: only that is measured; by default
            all of it.
    """
    if speech is not None:
        parts = [samples[int(part.start * RATE) : int(part.end * RATE)] for part in speech]
        measured = [powers(part, vad.FRAME) for part in parts if len(part)]
    else:
        measured = [powers(samples, vad.FRAME)] if len(samples) else []
    factor = FOR_RECOGNITION.gain(np.concatenate(measured)) if measured else 1.0
    return samples if factor == 1 else samples * np.float32(factor)


class Raised:
    """Voice activity that is given a quiet recording louder; half a minute behind, for a look ahead.

    It depends on the samples since its beginning alone, however they were cut.
    """

    def __init__(self, listener: vad.Hears) -> None:
        self.params = listener.params
        self._listener = listener
        self._rest = np.zeros(0, np.float32)
        self._blocks: deque[Samples] = deque()  # that wait
        self._powers: deque[Powers] = deque(maxlen=LEVEL_BLOCKS)  # of the last ones that came
        self._gains: deque[float] = deque(maxlen=BEHIND + 1 + AHEAD)  # that would do for each
        self._gain: float | None = None

    def hear(self, samples: Samples) -> vad.Probabilities:
        """Probability of speech in frames, in order; what is left waits for the next call."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // BLOCK * BLOCK
        self._rest = samples[whole:].copy()
        ready = [np.zeros(0, np.float32)]
        for start in range(0, whole, BLOCK):
            self._take(samples[start : start + BLOCK])
            if len(self._blocks) > AHEAD:
                ready.append(self._next())
        return self._listener.hear(np.concatenate(ready))

    def end(self) -> vad.Probabilities:
        """Those of the last frames, also of the incomplete one."""
        if len(self._rest):
            self._take(self._rest)
        self._rest = self._rest[:0]
        left = [np.zeros(0, np.float32), *(self._next() for _ in range(len(self._blocks)))]
        return np.concatenate([self._listener.hear(np.concatenate(left)), self._listener.end()])

    def _take(self, block: Samples) -> None:
        self._blocks.append(block)
        self._powers.append(powers(block, vad.FRAME))
        self._gains.append(FOR_VOICE_ACTIVITY.gain(np.concatenate(self._powers)))

    def _next(self) -> Samples:
        """The block that waited longest, louder if need be."""
        block, after = self._blocks.popleft(), min(self._gains)
        before = after if self._gain is None else self._gain
        self._gain = after
        if before == after == 1:
            return block
        gains = np.linspace(before, after, len(block), dtype=np.float32)
        raised: Samples = np.clip(block * gains, -1, 1)
        return raised
