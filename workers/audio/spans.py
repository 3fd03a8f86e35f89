"""A recording in spans of some minutes, cut where nobody speaks.

What a span holds depends only on the recording and the sample it begins at, so work that was interrupted
goes on with the very spans it would have had.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from workers.audio import levels, peaks, vad
from workers.audio.sound import RATE, Samples

# The first span is short, so that text appears soon.
FIRST_SECONDS = 45.0
# A cut is looked for in this last part of a span.
SEARCH = 0.2
SEARCH_FIRST = 0.5


class Source(Protocol):
    """Where spans are read from: a recording that is decoded here or in a process of its own."""

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Blocks of samples from the sample `start` on."""


@dataclass(frozen=True, slots=True)
class Span:
    """Samples of the recording from `start` on; `speech` in seconds from the span's own start.

    The recording ends with the `last` one. There is none where it happens to end with a full span.
    `peaks` is the loudest moment of each tenth of a second, counted from the recording's beginning.
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
    """Spans of about `seconds`, beginning with `number` at the sample `start`.

    Args:
        recording: Where the samples come from.
        seconds: The length of a span, about.
        number: The number of the first span.
        start: The sample at which the first span begins.
        on_read: Is called with the sample up to which the recording was read.
        make_detector: Makes a voice activity detector for one stream.

    Raises:
        media.MediaError: nothing can be decoded.
    """
    waiting: list[Samples] = []  # joined once a span: an array that grows leaves holes in memory
    detector, found = levels.RaisingDetector(make_detector()), np.zeros(0, np.float32)
    for block in itertools.chain(recording.blocks(start), [None]):
        if block is None:  # the detector was some seconds behind: what is left may be more than a span
            found = np.concatenate([found, detector.flush()])
        else:
            waiting.append(block)
            found = np.concatenate([found, detector.process(block)])
            on_read(start + sum(map(len, waiting)))
        while len(found) * vad.FRAME >= (length := _length(number, seconds)) * RATE:
            cut = _cut(found, length, detector.params, first=number == 0)
            samples, rest = np.split(np.concatenate(waiting), [cut * vad.FRAME])
            waiting.clear()  # while the span is at work it is not held twice
            yield _span(number, start, samples, found[:cut], detector.params)
            number, start = number + 1, start + len(samples)
            # From the cut on it listens anew, as it would if work began here after an interruption.
            waiting, detector = [rest.copy()], levels.RaisingDetector(make_detector())
            del samples, rest  # nor until the next one is cut
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
