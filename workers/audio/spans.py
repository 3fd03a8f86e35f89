"""Cuts a recording into spans of some minutes, in pauses of speech.

A span depends only on the recording and on the sample at which it begins. So work that is interrupted and
resumed has the same spans as work that is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from workers.audio import levels, peaks, vad
from workers.audio.sound import RATE, Samples

# The longest first span. It is short, so that text appears soon.
FIRST_SECONDS = 45.0
# The last part of a span, as a share of its length, in which the cut is searched for.
SEARCH = 0.2
SEARCH_FIRST = 0.5  # of the first span


class Source(Protocol):
    """A recording, decoded in this process or in another one."""

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Blocks of samples from the sample `start` on."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the recording.

    - `number`: counted from 0 in the recording.
    - `start`: the number of its first sample in the recording.
    - `samples`: 16 kHz mono.
    - `speech`: with times in seconds from the span's start.
    - `last`: the recording ends with it. No span is the last if the recording ends exactly with a full span.
    - `peaks`: see `workers.audio.peaks`.
    """

    number: int
    start: int
    samples: Samples
    speech: list[vad.Speech]
    last: bool = False
    peaks: bytes = b""

    @property
    def end(self) -> int:
        """The sample after the last."""
        return self.start + len(self.samples)


def read(
    recording: Source,
    seconds: float,
    *,
    number: int = 0,
    start: int = 0,
    on_read: Callable[[int], None] = lambda samples: None,
    make_detector: Callable[[], vad.SpeechDetector] = vad.SileroDetector,
) -> Iterator[Span]:
    """Read a recording as spans.

    Args:
        recording: Where the samples come from.
        seconds: The largest length of a span.
        number: The number of the first span.
        start: The sample at which the first span begins.
        on_read: Is called with the number of samples up to which the recording was read.
        make_detector: Makes a voice activity detector for one stream.

    Raises:
        MediaError: nothing can be decoded.
    """
    waiting: list[Samples] = []  # joined once for each span: an array that grows would fragment the memory
    detector, found = levels.RaisingDetector(make_detector()), np.zeros(0, np.float32)
    for block in itertools.chain(recording.blocks(start), [None]):
        if block is None:  # the detector's results come late, so the rest may be more than one span
            found = np.concatenate([found, detector.flush()])
        else:
            waiting.append(block)
            found = np.concatenate([found, detector.process(block)])
            on_read(start + sum(map(len, waiting)))
        while len(found) * vad.FRAME >= (length := _length(number, seconds)) * RATE:
            cut = _cut(found, length, detector.params, first=number == 0)
            samples, rest = np.split(np.concatenate(waiting), [cut * vad.FRAME])
            # Without these two the samples would be in memory twice: while the caller works on the span, and
            # while the next one is read.
            waiting.clear()
            yield _span(number, start, samples, found[:cut], detector.params)
            number, start = number + 1, start + len(samples)
            # A new detector begins at the cut, as if work was resumed here.
            waiting, detector = [rest.copy()], levels.RaisingDetector(make_detector())
            del samples, rest
            found = detector.process(waiting[0])
            if block is None:
                found = np.concatenate([found, detector.flush()])
    if any(map(len, waiting)):
        yield _span(number, start, np.concatenate(waiting), found, detector.params, last=True)


def _length(number: int, seconds: float) -> float:
    return min(FIRST_SECONDS, seconds) if number == 0 else seconds


def _cut(found: vad.Probabilities, seconds: float, params: vad.Params, *, first: bool) -> int:
    """The frame at which a span ends."""
    last = int(seconds * vad.FRAMES_PER_SECOND)
    search = SEARCH_FIRST if first else SEARCH
    return max(1, vad.quietest(found, int(last * (1 - search)), last, params))


def _span(
    number: int,
    start: int,
    samples: Samples,
    found: vad.Probabilities,
    params: vad.Params,
    *,
    last: bool = False,
) -> Span:
    speech = vad.speech(found, len(samples) / RATE, params)
    return Span(number, start, samples, speech, last, peaks.peaks_of(samples, start))
