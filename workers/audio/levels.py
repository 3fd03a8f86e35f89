"""Measures the level of the loud frames, and raises very quiet speech to the level of usual recordings. Pure.

The power of a frame is the mean square of the differences from sample to sample, times 16 (full scale is 1).
For a voice this is about the power of its samples. An offset, hum and rumble hardly count, as they change
slowly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.audio import vad
from workers.audio.sound import RATE, Samples

Powers = NDArray[np.float64]

# The level is the power that this share of the frames exceeds, so a pop or a cough does not determine it.
LOUD = 0.05
_SCALE = 16.0

# The largest gain, in dB. Sound that would need more is noise of the equipment.
MOST = 45.0

# A stream is measured in blocks of half a second. The level at a block is that of the last `LEVEL_BLOCKS`
# blocks. A block is raised by the smallest gain from `BEHIND` blocks (a minute) before it to `AHEAD` blocks
# (half a minute) after it, so a pause is not raised.
BLOCK = 16 * vad.FRAME
LEVEL_BLOCKS, BEHIND, AHEAD = 16, 120, 60


def powers(samples: Samples, frame: int) -> Powers:
    """The power of each frame of `frame` samples, shape (frames,).

    There is one frame at least. A remainder of less than half a frame belongs to the last one.
    """
    changes = np.diff(samples, prepend=samples[:1]).astype(np.float64)
    starts = np.arange(0, max(1, len(samples) - frame // 2), frame)
    sizes = np.diff(np.append(starts, len(samples)))
    result: Powers = _SCALE * np.add.reduceat(np.square(changes), starts) / sizes
    return result


@dataclass(frozen=True, slots=True)
class Curve:
    """How far a level is raised. All levels are in dB of full scale.

    - `quiet`: at this level and above, the gain is 0 dB.
    - `slope`: dB of gain for each dB below `quiet`.
    - `target`: the gain raises no level above this.
    """

    quiet: float
    target: float
    slope: float

    def gain(self, power: Powers) -> float:
        """The factor, 1 or more, by which samples with frames of these powers are multiplied."""
        level = 10 * np.log10(np.percentile(power, 100 * (1 - LOUD)) + 1e-12)
        decibels = min(self.slope * (self.quiet - level), self.target - level, MOST)
        return float(10 ** (max(decibels, 0.0) / 20))


# Voice activity detection finds clean speech down to -55 dB without a gain. Recognition is best at usual
# levels.
FOR_VOICE_ACTIVITY = Curve(-40.0, -30.0, 1.5)
FOR_RECOGNITION = Curve(-40.0, -20.0, 4.0)


def raised(samples: Samples, speech: Sequence[vad.Speech] | None = None) -> Samples:
    """The samples with their speech raised to about -20 dB, by 45 dB at most; unchanged above -40 dB.

    All samples get one gain, so differences of level stay. The given samples are not changed; they are
    returned if the gain is 1.

    Args:
        samples: 16 kHz mono.
        speech: Stretches of speech, in seconds from the first sample. Only these are measured; without
            them, all samples are.
    """
    if speech is not None:
        parts = [samples[int(part.start * RATE) : int(part.end * RATE)] for part in speech]
        measured = [powers(part, vad.FRAME) for part in parts if len(part)]
    else:
        measured = [powers(samples, vad.FRAME)] if len(samples) else []
    factor = FOR_RECOGNITION.gain(np.concatenate(measured)) if measured else 1.0
    return samples if factor == 1 else samples * np.float32(factor)


class RaisingDetector:
    """A voice activity detector that raises quiet sound and passes it to another detector.

    Its results come half a minute late, as a block waits for the levels after it. They depend only on the
    samples since the first call, not on how these were cut into calls.
    """

    def __init__(self, detector: vad.SpeechDetector) -> None:
        self.params = detector.params
        self._detector = detector
        self._rest = np.zeros(0, np.float32)
        self._blocks: deque[Samples] = deque()  # those that wait for the levels after them
        self._powers: deque[Powers] = deque(maxlen=LEVEL_BLOCKS)  # of the last blocks
        self._gains: deque[float] = deque(maxlen=BEHIND + 1 + AHEAD)  # one for each block, by the level there
        self._gain: float | None = None

    def process(self, samples: Samples) -> vad.Probabilities:
        """The probabilities of the frames that are ready, in order. Other samples wait for the next call."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // BLOCK * BLOCK
        self._rest = samples[whole:].copy()
        ready = [np.zeros(0, np.float32)]
        for start in range(0, whole, BLOCK):
            self._take(samples[start : start + BLOCK])
            if len(self._blocks) > AHEAD:
                ready.append(self._next())
        return self._detector.process(np.concatenate(ready))

    def flush(self) -> vad.Probabilities:
        """The probabilities of the remaining frames, also of the last, incomplete one."""
        if len(self._rest):
            self._take(self._rest)
        self._rest = self._rest[:0]
        left = [np.zeros(0, np.float32), *(self._next() for _ in range(len(self._blocks)))]
        return np.concatenate([self._detector.process(np.concatenate(left)), self._detector.flush()])

    def _take(self, block: Samples) -> None:
        self._blocks.append(block)
        self._powers.append(powers(block, vad.FRAME))
        self._gains.append(FOR_VOICE_ACTIVITY.gain(np.concatenate(self._powers)))

    def _next(self) -> Samples:
        """The block that has waited longest, raised by the smallest gain around it."""
        block, after = self._blocks.popleft(), min(self._gains)
        before = after if self._gain is None else self._gain
        self._gain = after
        if before == after == 1:
            return block
        gains = np.linspace(before, after, len(block), dtype=np.float32)
        louder: Samples = np.clip(block * gains, -1, 1)
        return louder
