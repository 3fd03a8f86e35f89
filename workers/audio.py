"""A recording as a stream of 16 kHz mono samples: little memory, whatever its length.

Positions are sample counts from the recording's start, so that a cut is exact and can be found again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from stt import media

log = logging.getLogger(__name__)

RATE, PIECE, IMPLAUSIBLE = media.RATE, media.PIECE, media.IMPLAUSIBLE
BLOCK_SECONDS = 10
# Where the time stamps jump by more than this, sound is missing and silence stands in for it. Smaller jumps
# are rounding, and the sum of the samples is the better clock.
GAP_SECONDS = 0.25
# More of it in a recording is no pause but a clock gone wrong, or a file made to keep a worker busy.
MOST_SILENCE = 12 * 3600
# Share of the loudest channel's energy (-30 dB) from which a channel counts as one that somebody speaks on.
HEARD = 1e-3
# Energy of the mix over that of its channels: below this they cancel each other (one of them is inverted).
CANCELLED = 0.02

_EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "flac")

# How much of what people say each loudspeaker's channel holds, where it is not all of it.
_WEIGHTS = {"FC": 1.0, "LFE": 0.0, "BL": 0.5, "BR": 0.5, "BC": 0.5, "SL": 0.5, "SR": 0.5}

Samples: TypeAlias = NDArray[np.float32]


class Recording:
    """One pass over a file's sound.

    `damaged` counts packets that could not be decoded.
    """

    def __init__(self, path: Path, longest: float = 0.0) -> None:
        """Open a file. More seconds than `longest` are an error; 0: no limit.

        Raises media.MediaError, OSError.
        """
        self._container = media.open_media(path)
        self._stream = media.audio_stream(self._container)
        media.check_format(*media.format_of(self._stream))
        self._longest = longest
        self._bytes = path.stat().st_size
        self._byte = 0  # where in the file the last packet was
        self._failure: media.MediaError | None = None
        self._filled = 0  # samples of silence that stand in for missing sound
        self.decoded = 0
        self.damaged = 0

    @property
    def duration(self) -> float | None:
        """Length in seconds as the container tells it, or as guessed from the bytes read so far."""
        told = (self._container.duration or 0) / av.time_base
        share = self._byte / self._bytes if self._bytes else 0
        guessed = self.decoded / RATE / share if share > 0.01 else 0
        if told > 0 and (not guessed or 1 / IMPLAUSIBLE < guessed / told < IMPLAUSIBLE):
            return max(told, self.decoded / RATE)
        return guessed or None

    @property
    def missing(self) -> float:
        """Seconds of sound that the file promises beyond what was decoded; once all of it was.

        Only where its header says so exactly: elsewhere the length is a guess, goes by the bytes that are
        there, or is that of the picture.
        """
        length = self._stream.duration if self._container.format.name in _EXACT else None
        if not length or self._stream.time_base is None:
            return 0.0
        return max(0.0, float(length * self._stream.time_base) - self.decoded / RATE)

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Blocks of `BLOCK_SECONDS`, the last one shorter, from the sample `start` on.

        What lies before `start` is decoded and dropped: seeking is not exact in most formats.

        Raises:
            media.MediaError: nothing at all could be decoded, or it is too long.
        """
        pending: list[Samples] = []
        waiting = skipped = 0
        for piece in self._pieces():
            kept = piece[max(0, start - skipped) :]
            skipped += len(piece) - len(kept)
            if len(kept):  # an empty one would hold on to what it was cut from
                pending.append(kept)
            waiting += len(kept)
            if waiting >= BLOCK_SECONDS * RATE:
                yield np.concatenate(pending)
                pending, waiting = [], 0
        if self.decoded == 0:
            raise self._failure or media.empty_audio()
        if waiting:
            yield np.concatenate(pending)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _pieces(self) -> Iterator[Samples]:
        start = (self._container.start_time or 0) / av.time_base
        resampler = Resampler()
        for frame in self._frames():
            if frame.time is not None and (missing := self._missing(frame.time - start - resampler.delay)):
                for piece in resampler.flush():  # what waits there belongs before the hole
                    yield self._count(piece)
                yield from self._silence(missing)
            for piece in resampler.feed(frame):
                yield self._count(piece)
        for piece in resampler.flush():
            yield self._count(piece)

    def _frames(self) -> Iterator[AudioFrame]:
        for packet in media.packets_of(self._container, self._stream):
            self._byte = max(self._byte, packet.pos or 0)
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError as error:
                self.damaged += 1
                self._failure = self._failure or media.undecodable(self._stream, packet)
                log.debug("a packet cannot be decoded: %s", error)
                continue
            yield from filter(self._is_sane, frames)

    def _is_sane(self, frame: AudioFrame) -> bool:
        """Whether a frame has a format that a recording can have; else it is one more damaged part."""
        try:
            media.check_frame(frame)
        except media.MediaError as error:
            self.damaged += 1
            self._failure = self._failure or error
            return False
        return True

    def _missing(self, time: float) -> int:
        """Samples that are missing before `time`, and that silence may stand in for; 0 where none are."""
        missing = int(time * RATE) - self.decoded
        end = (self._container.duration or 0) / av.time_base
        if missing < GAP_SECONDS * RATE or time > end or self._filled + missing > MOST_SILENCE * RATE:
            return 0
        return missing

    def _silence(self, missing: int) -> Iterator[Samples]:
        """As many samples of silence, in blocks, as it may be hours."""
        self._filled += missing
        while missing > 0:
            piece = np.zeros(min(missing, BLOCK_SECONDS * RATE), np.float32)
            missing -= len(piece)
            yield self._count(piece)

    def _count(self, piece: Samples) -> Samples:
        self.decoded += len(piece)
        if self._longest and self.decoded > self._longest * RATE:
            raise media.too_long(self._longest)
        return piece


class Resampler:
    """Any frames to 16 kHz mono; the frames' format may change on the way.

    `made` counts the samples of all resamplers of this process: how far its decoding has got.
    """

    made = 0

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._gathered = AudioFifo()  # a call of the filter costs more than what it does to a frame of 20 ms
        self._source: tuple[Any, ...] | None = None
        self._mixer = Mixer(())
        self._held = 0.0  # seconds that went in, less those that came out

    def feed(self, frame: AudioFrame) -> Iterator[Samples]:
        """What is ready after this frame, and before it the rest of those of another format."""
        source = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        if source != self._source:
            yield from self.flush()
            self._resampler = media.make_resampler(frame)
            self._gathered = AudioFifo()
            self._mixer = Mixer([channel.name for channel in frame.layout.channels])
            self._source = source
        self._held += frame.samples / frame.sample_rate
        frame.pts = None  # the filter would else "repair" jumps in time in its own way
        assert self._resampler is not None
        self._gathered.write(frame)
        if self._gathered.samples * RATE >= PIECE * frame.sample_rate:
            yield from self._mixed(media.resample(self._resampler, self._gathered.read()))
            self._check_loss()

    def flush(self) -> Iterator[Samples]:
        """The last samples, which wait for the filter or in it."""
        if self._resampler is not None:
            if rest := self._gathered.read():
                yield from self._mixed(media.resample(self._resampler, rest))
            yield from self._mixed(media.resample(self._resampler, None))
            self._check_loss()
        self._resampler = self._source = None
        self._held = 0.0

    @property
    def delay(self) -> float:
        """Seconds of sound that went in and have not come out."""
        return self._held

    def _check_loss(self) -> None:
        if self._held > media.MOST_HELD_SECONDS:
            raise MemoryError("the resampler lost sound")

    def _mixed(self, frames: list[AudioFrame]) -> Iterator[Samples]:
        for frame in frames:
            self._held -= frame.samples / RATE
            Resampler.made += frame.samples
            # Packed, as PyAV crashes on a ninth plane.
            rows = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
            yield self._mixer.mix(np.ascontiguousarray(rows, np.float32))


class Mixer:
    """Many channels to one: the mean of those that are heard, so a silent one does not halve the voice.

    Which are heard is decided by the loudest moment of each so far: the first word of a second speaker
    counts at once, and the answer does not depend on where a caller starts to listen.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._weights = np.array([_WEIGHTS.get(name, 1.0) for name in names], np.float32)
        self._loudest = np.zeros(len(names))
        self._mixed = self._apart = 0.0

    def mix(self, rows: Samples) -> Samples:
        """One row from the rows of all channels."""
        if len(rows) == 1 or not rows.size:
            return np.ascontiguousarray(rows[0])
        power = np.einsum("cs,cs->c", rows, rows, dtype=np.float64) / rows.shape[1]
        self._loudest = np.maximum(self._loudest, power)
        heard = self._loudest > self._loudest.max() * HEARD
        weights = np.where(heard, self._weights, 0)
        if heard.sum() < 2 or not weights.any():
            return np.ascontiguousarray(rows[self._loudest.argmax()])
        mixed: Samples = (weights / weights.sum()).astype(np.float32) @ rows
        self._mixed += float(mixed @ mixed) / len(mixed)
        self._apart += float(power[heard].mean())
        if self._mixed < self._apart * CANCELLED:
            return np.ascontiguousarray(rows[self._loudest.argmax()])
        return mixed
