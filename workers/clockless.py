"""Streams of frames without time stamps (ADTS, MP3, AC-3, AMR): how long what is damaged would have lasted.

libav counts the frames that it finds in them, so a damaged one takes no time: what follows would be early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from stt import media

Broken = Callable[[media.Packet, av.FFmpegError], None]

_RECENT = 100  # packets whose size tells how many bytes a second takes
_ADTS_HEADER = 7


class Counter:
    """Frames of one stream, and how long the bytes before each that are no frames would have lasted."""

    def __init__(self, path: Path, stream: AudioStream, broken: Broken) -> None:
        self._path, self._stream, self._broken = path, stream, broken
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._lost = 0  # bytes since the last frame
        self._end: int | None = None  # where the last packet ended

    def frames(self, packets: Iterator[media.Packet]) -> Iterator[tuple[AudioFrame, float]]:
        """Frames, each with the seconds that are lost before it."""
        for packet in packets:
            self._skip_to(packet)
            yield from self._decoded(packet)

    def _decoded(self, packet: media.Packet) -> Iterator[tuple[AudioFrame, float]]:
        try:
            found = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            self._broken(packet, error)
            yield from self._rescued(bytes(packet))
            return
        yield from self._counted(found, packet.size)

    def _counted(self, found: list[AudioFrame], size: int) -> Iterator[tuple[AudioFrame, float]]:
        seconds = sum(frame.samples / frame.sample_rate for frame in found)
        if seconds and size:
            self._recent.append((size, seconds))
        for frame in found:
            yield frame, self._hole()
            self._lost = 0

    def _rescued(self, data: bytes) -> Iterator[tuple[AudioFrame, float]]:
        """The whole frames within a packet that cannot be decoded.

        libav makes one packet of all bytes up to where it finds its way again.
        """
        place = 0
        for start, end in _adts_frames(data) if self._stream.codec_context.name.startswith("aac") else ():
            self._lost += start - place
            place = end
            try:
                found = self._stream.codec_context.decode(av.Packet(data[start:end]))
            except MemoryError:
                raise
            except av.FFmpegError:
                self._lost += end - start
                continue
            yield from self._counted(found, end - start)
        self._lost += len(data) - place

    def _skip_to(self, packet: media.Packet) -> None:
        """Count what lies between the packet before and this one."""
        if packet.pos is None or packet.pos < 0 or not packet.size:
            return
        if self._end is not None and packet.pos > self._end:
            self._lost += _without_tags(self._path, self._end, packet.pos)
        self._end = packet.pos + packet.size

    def _hole(self) -> float:
        size = sum(size for size, _ in self._recent)
        if not size or self._lost * len(self._recent) < size / 2:  # less than half a frame
            return 0.0
        return self._lost * sum(seconds for _, seconds in self._recent) / size


def _adts_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Where ADTS frames are: each is followed by the next, or ends with the data."""
    place = 0
    while (place := data.find(b"\xff", place)) >= 0:
        length = _adts_length(data, place)
        end = place + length
        if length and (end == len(data) or (end < len(data) and _adts_length(data, end))):
            yield place, end
            place = end
        else:
            place += 1


def _adts_length(data: bytes, place: int) -> int:
    """The length of the frame whose header is here, 0 where there is none."""
    if place + _ADTS_HEADER > len(data) or data[place] != 0xFF or data[place + 1] & 0xF6 != 0xF0:
        return 0
    length = (data[place + 3] & 3) << 11 | data[place + 4] << 3 | data[place + 5] >> 5
    return length if length > _ADTS_HEADER else 0


def _without_tags(path: Path, start: int, end: int) -> int:
    """How many of these bytes of a file are not titles and pictures."""
    with path.open("rb") as file:
        while start < end:
            file.seek(start)
            length = _tag_length(file.read(128))
            if not length:
                break
            start += length
    return max(0, end - start)


def _tag_length(head: bytes) -> int:
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        size = int.from_bytes(head[12:16], "little")
        return 32 + size if int.from_bytes(head[20:24], "little") & 0x20000000 else 32
    return 0
