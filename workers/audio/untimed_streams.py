"""Decodes streams of frames without time stamps (ADTS, MP3, AC-3, AMR), and measures what is damaged in them.

libav counts the frames that it decodes, so a damaged frame takes no time, and all sound after it would be too
early. Here the duration of damaged bytes is calculated from the bytes that recent frames took.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from stt.media import errors

OnBrokenPacket = Callable[[errors.Packet, av.FFmpegError], None]

_RECENT = 100  # packets from whose sizes the number of bytes per second is calculated
_ADTS_HEADER = 7
_MPEG, _LONGEST_MPEG = ("mp1", "mp2", "mp3"), 2881  # the most bytes of a frame of MPEG audio
_FARTHEST = 2**24  # bytes in which the next packet is searched for: a cover picture may come before it
_MISSES = 10  # after so many packets in a row that are not found in the file, none is searched for any more


class FrameCounter:
    """Decodes one stream, and gives with each frame the duration of the damaged bytes before it.

    Each packet is searched for in the file: the position that libav reports does not count skipped bytes.
    """

    def __init__(self, path: Path, stream: AudioStream, on_broken_packet: OnBrokenPacket) -> None:
        """Prepare to decode a stream.

        Args:
            path: The file, which is read a second time.
            stream: The stream of the open container.
            on_broken_packet: Is called with each packet that cannot be decoded, and libav's error.
        """
        self._path, self._stream = path, stream
        self._on_broken_packet = on_broken_packet
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._end: int | None = None  # where the last packet ended
        self._misses = 0
        self._lost = 0  # bytes since the last frame

    def frames(self, packets: Iterator[errors.Packet]) -> Iterator[tuple[AudioFrame, float]]:
        """Decode the packets. Each frame comes with the seconds of sound that are lost before it."""
        with self._path.open("rb") as file:
            for packet in packets:
                yield from self._decoded(packet, file)

    def _decoded(self, packet: errors.Packet, file: BinaryIO) -> Iterator[tuple[AudioFrame, float]]:
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            self._on_broken_packet(packet, error)
            yield from self._whole_frames(bytes(packet), file)
        else:
            yield from self._counted(frames, bytes(packet), file)

    def _counted(
        self, frames: list[AudioFrame], data: bytes, file: BinaryIO
    ) -> Iterator[tuple[AudioFrame, float]]:
        if data:
            self._skip_to(data, file)
        seconds = sum(frame.samples / frame.sample_rate for frame in frames)
        if self._stream.codec_context.name.startswith(_MPEG) and len(data) > _LONGEST_MPEG:
            self._lost += len(data)  # libav put damaged bytes before the frame into this packet
        elif seconds and data:
            self._recent.append((len(data), seconds))
        for frame in frames:
            yield frame, self._lost_seconds()
            self._lost = 0

    def _whole_frames(self, data: bytes, file: BinaryIO) -> Iterator[tuple[AudioFrame, float]]:
        """The whole frames within a packet that cannot be decoded.

        After a damaged frame libav puts all bytes up to the next good header into one packet.
        """
        for start, end in _adts_frames(data) if self._stream.codec_context.name.startswith("aac") else ():
            piece = data[start:end]
            try:
                frames = self._stream.codec_context.decode(av.Packet(piece))
            except MemoryError:
                raise
            except av.FFmpegError:
                continue
            yield from self._counted(frames, piece, file)

    def _skip_to(self, data: bytes, file: BinaryIO) -> None:
        """Count the bytes between the packet before and this one as lost."""
        if self._misses > _MISSES:
            return
        place = _find(file, data, self._end or 0)
        if place is None:
            self._misses += 1
            return
        if self._end is not None and place > self._end:
            self._lost += _without_tags(file, self._end, place)
        self._end, self._misses = place + len(data), 0

    def _lost_seconds(self) -> float:
        size = sum(size for size, _ in self._recent) if self._lost else 0
        if not size or self._lost * len(self._recent) < size / 2:  # less than half a frame
            return 0.0
        return self._lost * sum(seconds for _, seconds in self._recent) / size


def _find(file: BinaryIO, data: bytes, start: int) -> int | None:
    """The offset of these bytes in a file, from `start` on; None if they are not within `_FARTHEST` bytes."""
    file.seek(start)
    if file.read(len(data)) == data:
        return start
    file.seek(start)
    ahead = file.read(_FARTHEST)
    found = ahead.find(data)
    return start + found if found >= 0 else None


def _adts_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each ADTS frame that another one follows, or that ends with the data."""
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
    """The length in bytes of the ADTS frame (ISO/IEC 13818-7) at `place`; 0 if no header is there."""
    if place + _ADTS_HEADER > len(data) or data[place] != 0xFF or data[place + 1] & 0xF6 != 0xF0:
        return 0
    length = (data[place + 3] & 3) << 11 | data[place + 4] << 3 | data[place + 5] >> 5
    return length if length > _ADTS_HEADER else 0


def _without_tags(file: BinaryIO, start: int, end: int) -> int:
    """How many bytes from `start` to `end` follow the tags (titles, pictures) with which they begin."""
    while start < end:
        file.seek(start)
        length = _tag_length(file.read(128))
        if not length:
            break
        start += length
    return max(0, end - start)


def _tag_length(head: bytes) -> int:
    """The length in bytes of the tag that begins here (ID3v2, ID3v1 or APE); 0 if there is none."""
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
