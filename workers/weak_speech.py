"""Finds weak speech, of which the voice activity detector is unsure: a telephone voice or a quiet one.

The detector has a state. After a loud voice with all frequencies it gives a telephone voice or a quiet one
too low a probability, as low as that of music. So each longer pause in which there is sound is given to a new
detector, at a raised level and with lower thresholds. Weak speech is recognised in windows of its own. A
hypothesis for it is kept only if its log probability is high, so that noise and music stay without text.
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

# Thresholds are lower than for other speech, and the least durations, in seconds, longer.
PARAMS = vad.Params(onset=0.3, offset=0.2, silence=0.3, speech=0.5, pad=0.3)
PAUSE = 1.0  # a shorter pause holds no sentence
# The level of a pause is that of the loudest quarter of its tenths of a second (RMS, dB of full scale). A
# pause below `QUIET` is left out. Others are raised to `LEVEL`, by `MOST_GAIN` dB at most.
LOUD_SHARE, QUIET, LEVEL, MOST_GAIN = 0.25, -65.0, -20.0, 40.0
# Speech of a lower probability than the detector's own threshold is weak.
DETECTED = vad.Params().onset
# Hardly any part of clear speech has a lower probability than `UNSURE`. A pause of up to `BRIDGE` seconds
# between two parts below that is recognised with them.
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
        for part in _speech_in_pause(samples[int(start * RATE) : int(end * RATE)], listen)
    ]


def windows(
    speech: Sequence[Speech], weak: Sequence[Speech], make: Callable[[Sequence[Speech]], list[Window]]
) -> list[Window]:
    """The windows of a span, in order; weak speech has windows of its own, apart from clear speech.

    Args:
        speech: What was detected as speech.
        weak: What `find` found in the pauses of `speech`.
        make: Makes the windows of some speech.
    """
    parts = sorted([*speech, *weak], key=lambda part: part.start)
    apart = [part for part in bridged(parts) if any(part.start <= other.start < part.end for other in weak)]
    clear = [part for part in parts if not any(other.start <= part.start < other.end for other in apart)]
    result: list[Window] = []
    ordered = sorted([*clear, *apart], key=lambda part: part.start)
    for is_apart, group in groupby(ordered, key=lambda part: part in apart):
        run = list(group)
        is_weak = is_apart and max(part.probability for part in run) < DETECTED
        result += [replace(window, weak=is_weak) for window in make(run)]
    return result


def bridged(parts: Sequence[Speech], unsure: float = UNSURE) -> list[Speech]:
    """The speech with the short pauses between unsure parts made part of it: the detector misses words there.

    Args:
        parts: Speech, in order.
        unsure: A part is unsure if its probability is lower. Both parts beside a pause must be unsure.
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


def _pauses(speech: Sequence[Speech], length: float) -> Iterator[tuple[float, float]]:
    starts = [0.0, *(part.end for part in speech)]
    ends = [*(part.start for part in speech), length]
    return ((start, end) for start, end in zip(starts, ends, strict=True) if end - start >= PAUSE)


def _speech_in_pause(samples: Samples, listen: Callable[[], vad.Hears]) -> list[Speech]:
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
