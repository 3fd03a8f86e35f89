"""Streams of frames without time stamps (ADTS, MP3, AC-3, AMR): how long what is damaged would have lasted.

libav counts the frames that it finds in them, so a damaged one takes no time: what follows would be early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from stt import media

Broken = Callable[[media.Packet, av.FFmpegError], None]

_RECENT = 100  # packets whose size tells how many bytes a second takes
_ADTS_HEADER = 7
_MPEG, _LONGEST_MPEG = ("mp1", "mp2", "mp3"), 2881  # bytes that a frame of MPEG audio may have
_FARTHEST = 2**24  # bytes within which the next packet is searched for: a cover picture may lie between
_MISSES = 10  # packets in a row that are not found in the file, after which no more are searched for


class Counter:
    """Frames of one stream, and how long the bytes before each that are no frames would have lasted.

    Each packet is looked for in the file, as what libav tells of its place does not count what it skips.
    """

    def __init__(self, path: Path, stream: AudioStream, broken: Broken) -> None:
        self._path, self._stream, self._broken = path, stream, broken
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._end: int | None = None  # where the last packet ended
        self._misses = 0
        self._lost = 0  # bytes since the last frame

    def frames(self, packets: Iterator[media.Packet]) -> Iterator[tuple[AudioFrame, float]]:
        """Frames, each with the seconds that are lost before it."""
        with self._path.open("rb") as file:
            for packet in packets:
                yield from self._decoded(packet, file)

    def _decoded(self, packet: media.Packet, file: BinaryIO) -> Iterator[tuple[AudioFrame, float]]:
        try:
            found = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            self._broken(packet, error)
            yield from self._rescued(bytes(packet), file)
        else:
            yield from self._counted(found, bytes(packet), file)

    def _counted(
        self, found: list[AudioFrame], data: bytes, file: BinaryIO
    ) -> Iterator[tuple[AudioFrame, float]]:
        if data:
            self._skip_to(data, file)
        seconds = sum(frame.samples / frame.sample_rate for frame in found)
        if self._stream.codec_context.name.startswith(_MPEG) and len(data) > _LONGEST_MPEG:
            self._lost += len(data)  # its frame comes after junk that libav made a part of the packet
        elif seconds and data:
            self._recent.append((len(data), seconds))
        for frame in found:
            yield frame, self._hole()
            self._lost = 0

    def _rescued(self, data: bytes, file: BinaryIO) -> Iterator[tuple[AudioFrame, float]]:
        """The whole frames within a packet that cannot be decoded.

        libav makes one packet of all bytes up to where it finds its way again.
        """
        for start, end in _adts_frames(data) if self._stream.codec_context.name.startswith("aac") else ():
            piece = data[start:end]
            try:
                found = self._stream.codec_context.decode(av.Packet(piece))
            except MemoryError:
                raise
            except av.FFmpegError:
                continue
            yield from self._counted(found, piece, file)

    def _skip_to(self, data: bytes, file: BinaryIO) -> None:
        """Count the bytes between the packet before and this one."""
        if self._misses > _MISSES:
            return
        place = _find(file, data, self._end or 0)
        if place is None:
            self._misses += 1
            return
        if self._end is not None and place > self._end:
            self._lost += _without_tags(file, self._end, place)
        self._end, self._misses = place + len(data), 0

    def _hole(self) -> float:
        size = sum(size for size, _ in self._recent) if self._lost else 0
        if not size or self._lost * len(self._recent) < size / 2:  # less than half a frame
            return 0.0
        return self._lost * sum(seconds for _, seconds in self._recent) / size


def _find(file: BinaryIO, data: bytes, start: int) -> int | None:
    """Where these bytes are next in a file, from a place on."""
    file.seek(start)
    if file.read(len(data)) == data:
        return start
    file.seek(start)
    ahead = file.read(_FARTHEST)
    found = ahead.find(data)
    return start + found if found >= 0 else None


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


def _without_tags(file: BinaryIO, start: int, end: int) -> int:
    """How many of these bytes of a file are not titles and pictures."""
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
