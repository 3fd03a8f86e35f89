"""Resamples frames of any format to 16 kHz and mixes their channels into one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from stt.media import frames
from workers.audio.mixer import Mixer
from workers.audio.sound import RATE, Samples


class Resampler:
    """A resampler and mixer for one stream, whose format may change.

    `made` counts the samples of all resamplers of this process: how much sound was decoded so far.
    """

    made = 0

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._gathered = AudioFifo()  # frames are gathered, as a call costs more than resampling 20 ms
        self._source: tuple[Any, ...] | None = None
        self._names: list[str] = []
        self._mixer = Mixer(())
        self._held = 0.0  # seconds that were fed, less those that were returned
        self._inside = 0.0  # those of them that are in the resampler

    def feed(self, frame: AudioFrame) -> Iterator[Samples]:
        """The samples that are ready after this frame; if its format is new, the remaining old ones first."""
        source = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        if source != self._source:
            yield from self.flush()
            self._resampler = frames.make_resampler(frame)
            self._gathered = AudioFifo()
            names = [channel.name for channel in frame.layout.channels]
            if names != self._names:  # else the mixer keeps what it measured
                self._names, self._mixer = names, Mixer(names)
            self._source = source
        self._held += frame.samples / frame.sample_rate
        self._inside += frame.samples / frame.sample_rate
        frame.pts = None  # else the resampler would correct jumps of the time stamps by itself
        assert self._resampler is not None
        self._gathered.write(frame)
        if self._gathered.samples * RATE >= frames.PIECE * frame.sample_rate:
            yield from self._mixed(frames.resample(self._resampler, self._gathered.read()))
            self._check_loss()

    def flush(self) -> Iterator[Samples]:
        """The remaining samples, which wait for the resampler, in it, or in the mixer."""
        if self._resampler is not None:
            if rest := self._gathered.read():
                yield from self._mixed(frames.resample(self._resampler, rest))
            yield from self._mixed(frames.resample(self._resampler, None))
            self._check_loss()
            yield from self._given(self._mixer.flush())
        self._resampler = self._source = None
        self._held = self._inside = 0.0

    @property
    def delay(self) -> float:
        """Seconds of sound that were fed and not returned yet."""
        return self._held

    def _check_loss(self) -> None:
        if self._inside > frames.MOST_HELD_SECONDS:
            raise MemoryError("the resampler lost sound")

    def _mixed(self, resampled: list[AudioFrame]) -> Iterator[Samples]:
        for frame in resampled:
            self._inside -= frame.samples / RATE
            Resampler.made += frame.samples
            # The format is packed, as PyAV crashes on a ninth plane.
            rows = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
            yield from self._given(self._mixer.feed(np.ascontiguousarray(rows, np.float32)))

    def _given(self, pieces: Iterator[Samples]) -> Iterator[Samples]:
        for piece in pieces:
            self._held -= len(piece) / RATE
            yield piece
