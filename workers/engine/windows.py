"""Cuts the speech of a span into windows, which Whisper recognises one by one, in pauses. Uses no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.audio import levels, vad
from workers.audio.sound import RATE, Samples

# Seconds of speech in a window, at most. Whisper takes 30 s; it needs a second of silence after the speech.
LONGEST = 29.0
# Seconds from the start to the end of a window, with its pauses, at most. A word that is timed on the wrong
# side of a pause is wrong by the length of the pause.
LONGEST_WITH_PAUSES = 60.0
# The cost of a list of windows, without unit: `_WINDOW` for each window, and for each cut `_CUT` over the
# seconds of its pause, which are bounded by floor and ceiling. Fewer windows give more context, cuts in long
# pauses give whole sentences. On read stories both together lowered the word error rate from 9.4 to 8.5 %,
# when windows still contained their pauses.
_WINDOW = 1.0
_CUT = 0.3
_PAUSE_FLOOR, _PAUSE_CEILING = 0.1, 2.0
_TENTH = RATE // 10  # samples of a tenth of a second


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a span with at most `LONGEST` seconds of speech. Times are seconds from the span's start.

    Whisper gets only `speech`, with its padding, without the pauses between: that makes fewer windows, and
    the words stay the same ("Decoding" in docs/benchmarks.md). faster-whisper does so too.
    """

    start: float
    end: float
    speech: list[vad.Speech]
    weak: bool = False  # weak speech (`weak_speech`), or a gap: an improbable text is dropped

    @property
    def spoken(self) -> float:
        """Seconds of speech, padding included: the length of what Whisper gets."""
        return sum(part.end - part.start for part in self.speech)

    @property
    def voiced(self) -> float:
        """Seconds of speech without the padding."""
        return sum(part.end - part.tail - part.start - part.lead for part in self.speech)

    def cut(self, samples: Samples) -> Samples:
        """The samples that Whisper gets, 16 kHz mono. They are raised if they are very quiet."""
        parts = [samples[int(part.start * RATE) : int(part.end * RATE)] for part in self.speech]
        return levels.raised(np.concatenate(parts))


def pack(
    speech: Sequence[vad.Speech], samples: Samples, longest: float = LONGEST_WITH_PAUSES
) -> list[Window]:
    """Few windows over all speech, cut in long pauses: the list with the least cost, by dynamic programming.

    Args:
        speech: The speech of a span, in order.
        samples: The audio of the span, 16 kHz mono.
        longest: Seconds from the start to the end of a window, at most.
    """
    parts = [piece for part in speech for piece in _short(part, samples)]
    cheapest, before = [0.0], [0]
    for last in range(1, len(parts) + 1):
        costs = {first: cheapest[first] + _cost(parts, last) for first in _firsts(parts, last, longest)}
        before.append(min(costs, key=lambda first: costs[first]))
        cheapest.append(costs[before[-1]])
    windows: list[Window] = []
    last = len(parts)
    while last:
        held = parts[before[last] : last]
        windows.append(Window(held[0].start, held[-1].end, held))
        last = before[last]
    return windows[::-1]


def batches(windows: Sequence[Window], size: int, threads: int) -> list[list[int]]:
    """Batches of windows of similar length, the longest first, each as indices of its windows.

    A batch takes as long as its longest window. If there are few windows, the batches are smaller than
    `size`, so that each thread gets one.

    Args:
        windows: The windows of a span.
        size: Windows of a batch, at most.
        threads: Decoder threads that work at the same time.
    """
    order = sorted(range(len(windows)), key=lambda number: -windows[number].spoken)
    rounds = -(-len(order) // (size * threads))
    count = min(len(order), rounds * threads)
    return [part.tolist() for part in np.array_split(np.array(order, int), count)] if order else []


def _firsts(parts: Sequence[vad.Speech], last: int, longest: float) -> range:
    """Indices of the parts at which a window may begin that ends before the part `last`."""
    first = last - 1
    spoken = parts[first].end - parts[first].start
    while first:
        spoken += parts[first - 1].end - parts[first - 1].start
        if spoken > LONGEST or parts[last - 1].end - parts[first - 1].start > longest:
            break
        first -= 1
    return range(first, last)


def _cost(parts: Sequence[vad.Speech], last: int) -> float:
    if last == len(parts):
        return _WINDOW
    pause = max(parts[last - 1].pause, parts[last].start - parts[last - 1].end)
    return _WINDOW + _CUT / (_PAUSE_FLOOR + min(pause, _PAUSE_CEILING))


def _short(part: vad.Speech, samples: Samples) -> list[vad.Speech]:
    """Speech of at most `LONGEST` seconds each; longer speech is cut where it is quietest near its middle."""
    length = part.end - part.start
    if length <= LONGEST:
        return [part]
    first, last = (int((part.start + share * length) * RATE) for share in (0.3, 0.7))
    middle = samples[first:last]
    tenths = middle[: len(middle) // _TENTH * _TENTH].reshape(-1, _TENTH)
    cut = (first + (int(np.argmin(np.square(tenths).sum(axis=1))) + 0.5) * _TENTH) / RATE
    halves = (
        replace(part, end=cut, pause=0.0, tail=0.0),
        replace(part, start=cut, lead=0.0),
    )
    return [piece for half in halves for piece in _short(half, samples)]
