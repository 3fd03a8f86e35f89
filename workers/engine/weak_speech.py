"""Finds weak speech: a telephone voice or a quiet one, to which the detector gives a low probability.

The detector has a state. After a loud wide-band voice it gives weak speech a probability as low as that of
music. So each pause of `SHORTEST_PAUSE` or more that holds sound is given to a new detector, at a raised
level and with lower thresholds. Weak speech is recognised in windows of its own. A hypothesis for it is kept
only if its log probability is high, so that noise and music stay without text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.audio import vad
from workers.audio.sound import RATE, Samples
from workers.audio.vad import Speech
from workers.engine.windows import LONGEST, Window

# These numbers were chosen on constructed recordings (docs/benchmarks.md, "Speech that was skipped").
# Thresholds are lower than for other speech, and the least durations, in seconds, longer.
PARAMS = vad.Params(onset=0.3, offset=0.2, silence=0.3, speech=0.5, pad=0.3)
SHORTEST_PAUSE = 1.0  # seconds; a shorter pause is not searched, as it holds no sentence
# The level of a pause is that of the loudest quarter of its tenths of a second (RMS, dB of full scale). A
# pause below `QUIET` is left out. Others are raised to `LEVEL`, by `MOST_GAIN` dB at most.
LOUD_SHARE, QUIET, LEVEL, MOST_GAIN = 0.25, -65.0, -20.0, 40.0
# Few parts of clear speech have a lower probability than this. A pause of up to `BRIDGE` seconds between two
# parts below it is recognised with them.
CLEAR_PROBABILITY, BRIDGE = 0.8, 2.5
# Sound goes on if one of the next `LONGEST_DIP` tenths of a second is at most `MOST_BELOW` dB below the loud
# tenths of the part.
MOST_BELOW, LONGEST_DIP = 10.0, 4
TENTH = 0.1
_TENTH = RATE // 10

Powers: TypeAlias = NDArray[np.float64]


def find(
    samples: Samples, speech: Sequence[Speech], make_detector: Callable[[], vad.SpeechDetector]
) -> list[Speech]:
    """Weak speech in the pauses of `speech`, with times in seconds of the span.

    Args:
        samples: The audio of a span, 16 kHz mono.
        speech: What was detected in it as speech, in order.
        make_detector: Makes a voice activity detector for one stream.
    """
    found: list[Speech] = []
    for start, end in _pauses(speech, len(samples) / RATE):
        pause = samples[int(start * RATE) : int(end * RATE)]
        found += [
            replace(part, start=start + part.start, end=min(start + part.end, end))
            for part in _speech_in_pause(pause, make_detector)
        ]
    return found


def windows(
    speech: Sequence[Speech], weak: Sequence[Speech], make: Callable[[Sequence[Speech]], list[Window]]
) -> list[Window]:
    """The windows of a span, in order; weak speech has windows of its own, apart from clear speech.

    Args:
        speech: What was detected as speech.
        weak: What `find` found in the pauses of `speech`.
        make: Makes the windows of some speech.
    """
    ordered = sorted([*speech, *weak], key=lambda part: part.start)
    made: list[Window] = []
    for is_apart, runs in groupby(bridged(ordered), key=lambda run: any(part in weak for part in run)):
        held = list(runs)
        parts = [_whole(run) for run in held] if is_apart else [part for run in held for part in run]
        is_weak = is_apart and all(part in weak for run in held for part in run)
        made += [replace(window, weak=is_weak) for window in make(parts)]
    return made


def bridged(parts: Sequence[Speech], clear: float = CLEAR_PROBABILITY) -> list[list[Speech]]:
    """Groups of speech whose short pauses are recognised too: the detector misses words there.

    Args:
        parts: Speech, in order.
        clear: A part of at least this probability is a group of its own.
    """
    runs: list[list[Speech]] = []
    for part in parts:
        before = runs[-1][-1] if runs else None
        if (
            before is not None
            and max(before.probability, part.probability) < clear
            and part.start - before.end <= BRIDGE
            and part.end - runs[-1][0].start <= LONGEST
        ):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def joined(parts: Sequence[Speech]) -> list[Speech]:
    """The parts, each group that only short pauses separate as one, whatever their probability."""
    return [_whole(run) for run in bridged(parts, clear=math.inf)]


def _whole(run: Sequence[Speech]) -> Speech:
    last = run[-1]
    probability = max(part.probability for part in run)
    return replace(run[0], end=last.end, pause=last.pause, tail=last.tail, probability=probability)


def _pauses(speech: Sequence[Speech], length: float) -> Iterator[tuple[float, float]]:
    starts = [0.0, *(part.end for part in speech)]
    ends = [*(part.start for part in speech), length]
    return ((start, end) for start, end in zip(starts, ends, strict=True) if end - start >= SHORTEST_PAUSE)


def _speech_in_pause(samples: Samples, make_detector: Callable[[], vad.SpeechDetector]) -> list[Speech]:
    level = _level(samples)
    if level < QUIET:
        return []
    gain = np.float32(10 ** (min(LEVEL - level, MOST_GAIN) / 20))
    found = vad.probabilities(np.clip(samples * gain, -1, 1), make_detector())
    return _extended(vad.speech(found, len(samples) / RATE, PARAMS), samples)


def _extended(parts: Sequence[Speech], samples: Samples) -> list[Speech]:
    """The parts, extended by the sound around them that is about as loud: it may be the same voice."""
    powers = _powers(samples)
    made: list[Speech] = []
    for part in parts:
        first, last = int(part.start / TENTH), min(int(part.end / TENTH) + 1, len(powers))
        least = _loud(powers[first:last]) * 10 ** (-MOST_BELOW / 10)
        while first > 0 and powers[max(0, first - LONGEST_DIP) : first].max() >= least:
            first -= 1
        while last < len(powers) and powers[last : last + LONGEST_DIP].max() >= least:
            last += 1
        start, end = min(part.start, first * TENTH), max(part.end, last * TENTH)
        if made and start <= made[-1].end:
            start = made[-1].start
            made.pop()
        made.append(replace(part, start=start, end=end, lead=0.0, tail=0.0))
    return made


def _level(samples: Samples) -> float:
    """The level of the loud tenths of a second (RMS, dB of full scale)."""
    powers = _powers(samples)
    return float(10 * np.log10(_loud(powers) + 1e-12)) if len(powers) else -math.inf


def _loud(powers: Powers) -> float:
    loud = np.sort(powers)[-max(1, int(len(powers) * LOUD_SHARE)) :]
    return float(loud.mean())


def _powers(samples: Samples) -> Powers:
    tenths = samples[: len(samples) // _TENTH * _TENTH].reshape(-1, _TENTH)
    found: Powers = np.square(tenths, dtype=np.float64).mean(axis=1)
    return found
