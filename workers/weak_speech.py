"""Speech that the voice activity detector is unsure of: a telephone voice, or a quiet one beside louder ones.

The detector remembers what came before: after a loud, full voice it gives a narrow or quiet one too low a
probability, as low as to music beside it. So each longer pause in which there is sound is judged once more by
itself, at a raised level and with a lower threshold. What is found is recognised in windows of its own, and
words are believed only where the recogniser is sure of them, so that noise and music stay without text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from workers import vad
from workers.audio import RATE, Samples
from workers.vad import Speech
from workers.windows import LONGEST, Window

# As for other speech, but with lower thresholds, and longer: seconds.
PARAMS = vad.Params(onset=0.3, offset=0.2, silence=0.3, speech=0.5, pad=0.3)
PAUSE = 1.0  # a shorter pause holds no sentence
# The level of a pause is that of the loudest quarter of its tenths of a second (RMS, dB of full scale). A
# quieter pause than QUIET is not judged; others are raised to LEVEL, by MOST_GAIN at most.
LOUD_SHARE, QUIET, LEVEL, MOST_GAIN = 0.25, -65.0, -20.0, 40.0
# Of clear speech hardly a part has a lower probability than UNSURE. Pauses up to BRIDGE seconds are
# recognised with what lies around them where both sides are unsure.
UNSURE, BRIDGE = 0.8, 2.5
_TENTH = RATE // 10


def find(samples: Samples, speech: Sequence[Speech], listen: Callable[[], vad.Hears]) -> list[Speech]:
    """Stretches in the pauses of `speech` in which somebody may speak, with times in seconds.

    Args:
        samples: Of a span, 16 kHz mono.
        speech: What was detected in it as speech.
        listen: Makes a voice activity detector for one stream.
    """
    return [
        replace(part, start=part.start + start, end=part.end + start)
        for start, end in _pauses(speech, len(samples) / RATE)
        for part in _judged(_cut(samples, start, end), listen)
    ]


def windows(
    speech: Sequence[Speech], weak: Sequence[Speech], make: Callable[[Sequence[Speech]], list[Window]]
) -> list[Window]:
    """The windows of a span, in order: weak speech lies in windows of its own, apart from clear speech.

    Args:
        speech: What was detected as speech.
        weak: What `find` found in its pauses.
        make: Makes windows over some speech.
    """
    parts = sorted([*speech, *weak], key=lambda part: part.start)
    whole = [part for part in bridged(parts) if any(part.start <= one.start < part.end for one in weak)]
    clear = [part for part in parts if not any(one.start <= part.start < one.end for one in whole)]
    made: list[Window] = []
    ordered = sorted([*clear, *whole], key=lambda part: part.start)
    for apart, group in groupby(ordered, key=lambda part: part in whole):
        held = list(group)
        is_weak = apart and not any(_meet(part, clear) for part in held for clear in speech)
        made += [replace(window, weak=is_weak) for window in make(held)]
    return made


def _meet(one: Speech, other: Speech) -> bool:
    return one.start < other.end and other.start < one.end


def bridged(parts: Sequence[Speech], unsure: float = UNSURE) -> list[Speech]:
    """Speech without the short pauses in what the detector is unsure of: it misses words there.

    Args:
        parts: Speech, in order.
        unsure: A pause stays a pause beside a part of at least this probability.
    """
    joined: list[Speech] = []
    for part in parts:
        before = joined[-1] if joined else None
        if (
            before is not None
            and max(before.probability, part.probability) < unsure
            and part.start - before.end <= BRIDGE
            and part.end - before.start <= LONGEST
        ):
            end = {"end": part.end, "pause": part.pause, "tail": part.tail}
            joined[-1] = replace(before, **end, probability=max(before.probability, part.probability))
        else:
            joined.append(part)
    return joined


def _cut(samples: Samples, start: float, end: float) -> Samples:
    return samples[int(start * RATE) : int(end * RATE)]


def _pauses(speech: Sequence[Speech], length: float) -> Iterator[tuple[float, float]]:
    starts = [0.0, *(part.end for part in speech)]
    ends = [*(part.start for part in speech), length]
    return ((start, end) for start, end in zip(starts, ends, strict=True) if end - start >= PAUSE)


def _judged(samples: Samples, listen: Callable[[], vad.Hears]) -> list[Speech]:
    level = _level(samples)
    if level < QUIET:
        return []
    gain = np.float32(10 ** (min(LEVEL - level, MOST_GAIN) / 20))
    found = vad.probabilities(np.clip(samples * gain, -1, 1), listen())
    return vad.speech(found, len(samples) / RATE, PARAMS)


def _level(samples: Samples) -> float:
    tenths = samples[: len(samples) // _TENTH * _TENTH].reshape(-1, _TENTH)
    if not len(tenths):
        return float("-inf")
    power = np.sort(np.square(tenths, dtype=np.float64).mean(axis=1))
    loud = power[-max(1, int(len(power) * LOUD_SHARE)) :]
    return float(10 * np.log10(loud.mean() + 1e-12))
