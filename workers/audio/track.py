"""Decodes one track of a file to 16 kHz mono samples, placed by the time stamps of the file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from stt.media import errors, frames, libav, parts
from workers.audio import timestamps, untimed_streams
from workers.audio.resampler import Resampler
from workers.audio.sound import BLOCK_SECONDS, RATE, Samples

# Where the time stamps jump by more than this, sound is missing and is replaced by silence. Smaller jumps are
# rounding errors, and the number of the samples is more exact.
GAP_SECONDS = 0.25
# The most seconds of silence that replace missing sound. More is an error of the time stamps, or a file made
# to keep a worker busy.
MOST_SILENCE = 12 * 3600

# Demuxers of formats whose header gives the exact length of the sound.
_EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "flac")
# Demuxers of streams without time stamps. libav calculates time stamps by counting frames, all at the sample
# rate of the first one.
_UNTIMED = {
    "aac", "loas", "mp3", "ac3", "eac3", "dts", "dtshd", "amr", "amrnb", "amrwb", "gsm", "mlp", "truehd",
}  # fmt: skip


class Track:
    """One pass over one track of a file. Its samples are placed by the time stamps of the file.

    `others` are all tracks of the file that have a decoder, this one included: the index, the name, and
    whether it is a commentary or the like (`libav.is_aside`).

    The position, the damage counted so far and the open container change together, packet by packet, so
    the class has more than 200 lines.
    """

    def __init__(
        self, path: Path, found: list[parts.Part], index: int | None = None, *, longest: float = 0.0
    ) -> None:
        """Open a track of a file.

        Args:
            path: The file.
            found: The parts in which it is read.
            index: The index of the track; None: the default track.
            longest: A longer recording, in seconds, is an error; 0: no limit.

        Raises:
            MediaError: it cannot be transcribed.
            OSError: it cannot be read.
        """
        self._path, self._index, self._longest = path, index, longest
        self._bytes = path.stat().st_size
        self._waiting = deque(found)
        self._missing_in_parts = sum(part.missing for part in found)
        self._chained = len(found) > 1
        self._byte = 0  # offset of the last packet in its part
        self._before_part = 0  # samples that were decoded before this part
        self._filled = 0  # samples of silence that replaced missing sound
        self._resampler = Resampler()
        self.failure: errors.MediaError | None = None
        self.broken_off: float | None = None
        self.decoded = 0
        self.damaged = 0
        if not self._open():
            raise self.failure or errors.empty_audio()

    def _open(self) -> bool:
        """Open the next part that can be read. False: there is none."""
        while self._waiting:
            try:
                self._open_part(self._waiting.popleft())
            except errors.MediaError as error:
                self._count_damage(error)
            else:
                return True
        return False

    def _open_part(self, part: parts.Part) -> None:
        container = libav.open_media(self._path, part)
        try:
            found = libav.audio_tracks(container)
            stream = next((track for track in found if track.index == self._index), found[0])
            frames.check_format(*frames.format_of(stream))
        except errors.MediaError:
            container.close()
            raise
        self._part, self._container, self._stream = part, container, stream
        self.others = [
            (track.index, libav.name_of(container, track), libav.is_aside(track)) for track in found
        ]
        self.unreadable = [libav.name_of(container, track) for track in libav.unreadable_tracks(container)]
        self._untimed = container.format.name in _UNTIMED

    def _count_damage(self, error: errors.MediaError) -> None:
        """Count a part or a packet that cannot be read, and keep the first reason."""
        self.damaged += 1
        self.failure = self.failure or error

    @property
    def duration(self) -> float | None:
        """As `Recording.duration`."""
        named = 0.0 if self._chained else (self._container.duration or 0) / av.time_base
        share = (self._part.start + self._byte) / self._bytes if self._bytes else 0
        guessed = self.decoded / RATE / share if share > 0.01 else 0
        if named > 0 and (not guessed or 1 / frames.IMPLAUSIBLE < guessed / named < frames.IMPLAUSIBLE):
            return max(named, self.decoded / RATE)
        return guessed or None

    @property
    def missing(self) -> float:
        """As `Recording.missing`."""
        length = self._stream.duration if self._container.format.name in _EXACT else None
        if not length or self._stream.time_base is None:
            return self._missing_in_parts
        return max(0.0, float(length * self._stream.time_base) - self.decoded / RATE)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def pieces(self) -> Iterator[Samples]:
        """The samples, in pieces of any length."""
        while True:
            yield from self._pieces_of_part()
            if not self._waiting:
                return
            self._container.close()
            if not self._open():
                return

    def _pieces_of_part(self) -> Iterator[Samples]:
        self._before_part, self._byte = self.decoded, 0
        resampler = self._resampler = Resampler()
        damaged = self.damaged
        for frame, lost in self._frames():
            if not self._has_valid_format(frame):
                continue
            if missing := self._missing(frame, lost, resampler.delay):
                for piece in resampler.flush():  # the samples that wait there come before the missing sound
                    yield self._count(piece)
                yield from self._silence(missing)
                if lost and self.damaged == damaged:  # libav skipped the bytes without an error
                    self.damaged += 1
                damaged = self.damaged
            for piece in resampler.feed(frame):
                yield self._count(piece)
        for piece in resampler.flush():
            yield self._count(piece)

    def _has_valid_format(self, frame: AudioFrame) -> bool:
        """Whether a frame has a plausible format; else it is counted as damaged."""
        try:
            frames.check_frame(frame)
        except errors.MediaError as error:
            self._count_damage(error)
            return False
        return True

    def _missing(self, frame: AudioFrame, lost: float, delay: float) -> int:
        """How many samples are missing before a frame and are to be replaced by silence.

        Args:
            frame: The next frame.
            lost: The duration in seconds of damaged packets before it.
            delay: Seconds of sound that wait in the resampler.
        """
        missing, least = int(lost * RATE), 1.0 if lost else GAP_SECONDS * RATE
        if frame.time is not None and not self._untimed:
            time = frame.time - self._start_seconds()
            # The time stamps of each part begin anew.
            missing = int((time - delay) * RATE) - (self.decoded - self._before_part)
            if time - delay > self._container_length():
                return 0
        if missing < least or self._filled + missing > MOST_SILENCE * RATE:
            return 0
        return missing

    def _silence(self, missing: int) -> Iterator[Samples]:
        """`missing` samples of silence, in blocks, as they may last hours."""
        self._filled += missing
        while missing > 0:
            piece = np.zeros(min(missing, BLOCK_SECONDS * RATE), np.float32)
            missing -= len(piece)
            yield self._count(piece)

    def _count(self, piece: Samples) -> Samples:
        self.decoded += len(piece)
        if self._longest and self.decoded > self._longest * RATE:
            raise errors.too_long(self._longest)
        return piece

    def _frames(self) -> Iterator[tuple[AudioFrame, float]]:
        """The decoded frames, each with the duration in seconds of damaged packets before it."""
        packets = self._placed(libav.packets_of(self._container, self._stream, self._demuxer_failed))
        if self._untimed:
            return untimed_streams.FrameCounter(self._path, self._stream, self._on_broken).frames(packets)
        return self._timed_frames(packets)

    def _placed(self, packets: Iterator[errors.Packet]) -> Iterator[errors.Packet]:
        for packet in packets:
            self._byte = max(self._byte, packet.pos or 0)
            yield packet

    def _timed_frames(self, packets: Iterator[errors.Packet]) -> Iterator[tuple[AudioFrame, float]]:
        lost = 0.0
        for packet in timestamps.corrected(packets, self._start_seconds(), self._may_be_missing):
            try:
                decoded = packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError as error:
                self._on_broken(packet, error)
                lost += float(packet.duration * packet.time_base) if packet.duration else 0.0
                continue
            for frame in decoded:
                yield frame, lost
                lost = 0.0

    def _start_seconds(self) -> float:
        return (self._container.start_time or 0) / av.time_base

    def _may_be_missing(self, time: float, jump: float) -> bool:
        """Whether a jump of the time stamps by `jump` seconds to `time` may be replaced by silence."""
        inside = time - self._start_seconds() <= self._container_length()
        return inside and self._filled + jump * RATE <= MOST_SILENCE * RATE

    def _container_length(self) -> float:
        """The length by the container, in seconds; infinite if it has none, or less than was decoded."""
        named = (self._container.duration or 0) / av.time_base
        if named <= 0 or (self.decoded - self._before_part) / RATE + self._resampler.delay > named + 1:
            return math.inf
        # For a live Matroska recording libav estimates it from the bytes; then the stream has a length too.
        guessed = "matroska" in self._container.format.name and self._stream.duration is not None
        return math.inf if guessed else named

    def _on_broken(self, packet: errors.Packet, error: av.FFmpegError) -> None:
        self.damaged += 1
        # Not by `_count_damage`: `undecodable` reads the file, so it is called for the first failure only.
        self.failure = self.failure or errors.undecodable(self._stream, packet)

    def _demuxer_failed(self, error: av.FFmpegError, last: bool) -> None:
        if last:
            self.broken_off = self.decoded / RATE + self._resampler.delay
        else:
            self.damaged += 1
