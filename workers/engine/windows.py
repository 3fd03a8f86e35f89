"""What Whisper hears at once: stretches of a span, cut where people pause. Pure: no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.audio import levels, vad
from workers.audio.sound import RATE, Samples

# Whisper hears 30 s; a second of silence at the end tells it that the window is over.
LONGEST = 29.0
# From its first word to its last, with the pauses: an error of the times at one is as long as the pause.
LONGEST_WITH_PAUSES = 60.0
# What a window costs, beside a cut in a pause of so many seconds. Fewer windows give more context, cuts in
# long pauses whole sentences: on read stories both together took the word error rate from 9.4 to 8.5 %, when
# pauses were still heard.
_WINDOW = 1.0
_CUT = 0.3
_PAUSE_FLOOR, _PAUSE_CEILING = 0.1, 2.0
_TENTH = RATE // 10


@dataclass(frozen=True, slots=True)
class Window:
    """What is recognised at once: at most `LONGEST` seconds of speech. Times count from the span's start.

    From `start` to `end` there are pauses too, but only `speech`, with its padding, is heard, as in
    faster-whisper: fewer windows, and the same words ("Decoding" in docs/benchmarks.md).
    """

    start: float
    end: float
    speech: list[vad.Speech]
    weak: bool = False  # the voice activity detector is unsure of it: only a likely text is believed

    @property
    def spoken(self) -> float:
        """Seconds of speech in it, which is all that is heard."""
        return sum(part.end - part.start for part in self.speech)

    @property
    def voiced(self) -> float:
        """Seconds that sound like speech: without the padding."""
        return sum(part.end - part.tail - part.start - part.lead for part in self.speech)

    def cut(self, samples: Samples) -> Samples:
        """The samples that are heard, louder where they are very quiet: Whisper knows no such speech."""
        parts = [samples[int(part.start * RATE) : int(part.end * RATE)] for part in self.speech]
        return levels.raised(np.concatenate(parts))


def pack(
    speech: Sequence[vad.Speech], samples: Samples, longest: float = LONGEST_WITH_PAUSES
) -> list[Window]:
    """Few windows over all speech, cut in long pauses: the cheapest way to cut, found exactly.

    None takes more than `longest` seconds of the recording.
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


def batches(windows: Sequence[Window], size: int, lanes: int) -> list[list[int]]:
    """Numbers of windows of about one length, the longest first, for `lanes` that work side by side.

    A batch takes as long as the window in which most is said, so like goes with like; and where there is
    little to do, each lane gets its share of it.
    """
    order = sorted(range(len(windows)), key=lambda number: -windows[number].spoken)
    rounds = -(-len(order) // (size * lanes))
    count = min(len(order), rounds * lanes)
    return [part.tolist() for part in np.array_split(np.array(order, int), count)] if order else []


def _firsts(parts: Sequence[vad.Speech], last: int, longest: float) -> range:
    """The parts with which a window that ends before the part `last` may begin."""
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
    """Somebody who does not pause for too long is cut where it is quietest, near the middle."""
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
