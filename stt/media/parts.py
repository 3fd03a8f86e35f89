"""Finds the parts of a file of which libav would read only the beginning. Each part is then read as a file.

- A chained Ogg file (RFC 3533) is several streams one after another. Concatenated WAV files are the same.
- The header that a crashed recorder leaves counts fewer samples than follow. Such a part gets a corrected
  header.

Only sizes and offsets are read, nothing is decoded.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

# Parts after these are not read. Recordings of radio streams have fewer.
MOST_PARTS = 10_000
# Less sound than this after the end by the header is ignored.
LEAST_SECONDS = 0.25
# Bytes at the end of a file in which trailing chunks are searched for.
_TAIL = 2**20
_READ = 2**20

_BOS = 2  # the flag of an Ogg page that begins a stream
_PAGE = struct.Struct("<4sBBqIIIB")

# Chunks that writers put after the samples.
_CHUNKS = (
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"afsp", b"fact", b"PEAK", b"smpl", b"inst",
    b"iXML", b"axml", b"_PMX", b"umid", b"minf", b"elm1", b"regn", b"DISP", b"JUNK", b"junk",
    b"PAD ", b"FLLR", b"levl", b"plst", b"labl", b"note", b"ltxt", b"cart", b"chna", b"dbmd",
    b"acid", b"strc", b"SAUR", b"ovwf", b"MD5 ", b"COMM", b"MARK", b"INST", b"NAME", b"AUTH",
    b"(c) ", b"ANNO", b"APPL", b"COMT", b"MIDI", b"AESD", b"SAXL", b"CHAN", b"FVER", b"free",
    b"info", b"pakt", b"peak", b"uuid", b"ovvw", b"strg", b"user", b"edct",
)  # fmt: skip
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # the end of most chunk names of Sony's Wave64


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of a file from `start` up to `end`.

    - `patches`: bytes that replace others, by their offset in the file: a corrected header.
    - `missing`: seconds of sound that are missing at the end of the file, by the length in the header.
    - `whole`: libav can read the file itself.
    """

    start: int
    end: int
    patches: dict[int, bytes] = field(default_factory=dict)
    missing: float = 0.0
    whole: bool = False


class View(io.RawIOBase):
    """A part of a file as a read-only file object, for libav."""

    def __init__(self, path: str | os.PathLike[str], part: Part) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._part = part
        self._at = 0
        self.name = os.fspath(path)

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position in the part."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position in the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._part.end - self._part.start}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer at the end."""
        place = self._part.start + self._at
        left = max(0, self._part.end - place)
        size = left if size < 0 else min(size, left)
        data = os.pread(self._file, size, place)
        self._at += len(data)
        return self._patched(place, data)

    def close(self) -> None:
        """Close the file. libav does not call this; Python does when the view is deleted."""
        if not self.closed:
            os.close(self._file)
        super().close()

    def _patched(self, place: int, data: bytes) -> bytes:
        for at, patch in self._part.patches.items():
            first, last = max(at, place), min(at + len(patch), place + len(data))
            if first < last:
                piece = patch[first - at : last - at]
                data = data[: first - place] + piece + data[last - place :]
        return data


def parts(path: str | os.PathLike[str]) -> list[Part]:
    """The parts of a file in their order. Most files have one part, the whole file.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(16)
        if head[:4] == b"OggS":
            found = _links(file, size)
        elif head[:4] in (b"RIFF", b"RF64", b"BW64"):
            found = _waves(file, size)
        else:
            found = [part for part in (_other(file, head, size),) if part]
    return found or [Part(0, size, whole=True)]


def _other(file: BinaryIO, head: bytes, size: int) -> Part | None:
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, size)
    if head[:4] == b"riff" and head[4:16] == bytes.fromhex("2e91cf11a5d628db04c10000"):
        return _wave64(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    return None


# Ogg: a link of the chain begins with a page that begins a stream, after pages that begin none.


def _links(file: BinaryIO, size: int) -> list[Part]:
    starts, beginning = [0], True
    for place, begins in _pages(file, size):
        if begins and not beginning:
            starts.append(place)
            if len(starts) > MOST_PARTS:
                break
        beginning = begins
    if len(starts) == 1:
        return []
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], size], strict=False)][:MOST_PARTS]


def _pages(file: BinaryIO, size: int) -> Iterator[tuple[int, bool]]:
    """The offset of each page, and whether it begins a stream."""
    place = 0
    while place + _PAGE.size <= size:
        file.seek(place)
        head = file.read(_PAGE.size + 255)
        if len(head) < _PAGE.size:
            return
        magic, version, flags, *_, segments = _PAGE.unpack_from(head)
        if magic != b"OggS" or version:
            found = _find(file, b"OggS", place + 1)
            if found is None:
                return
            place = found
            continue
        yield place, bool(flags & _BOS)
        place += _PAGE.size + segments + sum(head[_PAGE.size : _PAGE.size + segments])


def _find(file: BinaryIO, wanted: bytes, place: int) -> int | None:
    """The offset of the next occurrence of these bytes, from `place` on."""
    file.seek(place)
    before = b""
    while data := file.read(_READ):
        if (at := (before + data).find(wanted)) >= 0:
            return place - len(before) + at
        place += len(data)
        before = (before + data)[1 - len(wanted) :]
    return None


# WAV (RIFF; RF64 and BW64 by EBU Tech 3306): chunks of a name, a size and that many bytes, padded to an even
# number.


def _waves(file: BinaryIO, size: int) -> list[Part]:
    found: list[Part] = []
    place = 0
    while len(found) < MOST_PARTS and (part := _wave(file, place, size)):
        found.append(part)
        place = part.end
    if len(found) == 1 and not found[0].patches:
        return [Part(0, size, missing=found[0].missing, whole=True)]
    return found


def _wave(file: BinaryIO, start: int, size: int) -> Part | None:
    """The WAV file that begins at `start`, up to the next one or to the end of the file."""
    head = _at(file, start, 12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:12] != b"WAVE":
        return None
    rate, long_size, place = 0, None, start + 12
    while len(chunk := _at(file, place, 8)) == 8:
        name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        body = place + 8
        if name == b"fmt ":
            rate = int.from_bytes(_at(file, body + 8, 4), "little")
        elif name == b"ds64" and head[:4] != b"RIFF":
            long_size = body + 8
        elif name == b"data":
            return _wave_data(file, start, body, length, size, rate, long_size)
        place = body + length + length % 2
    return Part(start, size) if start == 0 else None


def _wave_data(
    file: BinaryIO, start: int, body: int, length: int, size: int, rate: int, long_size: int | None
) -> Part:
    """The WAV file whose chunk of samples was found.

    Args:
        file: The file.
        start: The offset of the WAV file.
        body: The offset of the first sample.
        length: Bytes of samples by the header of the chunk.
        size: Bytes of the whole file.
        rate: Bytes of sound a second by the header; 0: unknown.
        long_size: The offset of the 64-bit length that RF64 and BW64 have instead.
    """
    if long_size is not None and length == 0xFFFFFFFF:
        length = int.from_bytes(_at(file, long_size, 8), "little")
    end, follows = _end_of_samples(file, body, length, size, rate, "little")
    if follows:  # another WAV file
        return Part(start, follows)
    named_end = body + length
    if end is None:
        is_known = length < 0x7FFFF000 or (long_size is not None and length < 2**62)
        return Part(start, size, missing=max(0, named_end - size) / rate if is_known and rate else 0.0)
    patch = (end - body).to_bytes(8, "little")
    if long_size is not None:
        return Part(start, end, {long_size: patch})
    return Part(start, end, {body - 4: patch[:4] if end - body < 0xFFFFFFFF else b"\xff" * 4})


def _end_of_samples(
    file: BinaryIO, body: int, length: int, size: int, rate: int, order: str
) -> tuple[int | None, int]:
    """The offset at which the samples end, None if the header is right; and that of the next WAV file, or 0.

    Args:
        file: A WAV or AIFF file.
        body: The offset of the first sample.
        length: Bytes of samples by the header.
        size: Bytes of the file.
        rate: Bytes of sound a second; 0: unknown.
        order: The byte order of the numbers in the file, `little` or `big`.
    """
    named_end = body + length
    unknown = length in (0, 0xFFFFFFFF)
    if not unknown:
        if named_end >= size:
            return None, 0
        for follows in (named_end, named_end + 1)[: 1 + length % 2]:
            after = _at(file, follows, 12)
            if after[:4] in (b"RIFF", b"RF64") and after[8:12] == b"WAVE":
                return None, follows
        if _is_no_sound(file, named_end, size, order) or (
            length % 2 and _is_no_sound(file, named_end + 1, size, order)
        ):
            return None, 0
        if size - named_end < max(64, rate * LEAST_SECONDS):
            return None, 0
    end = _before_chunks(file, body, size, order)
    return (None, 0) if unknown and end == size else (end, 0)


def _is_no_sound(file: BinaryIO, place: int, size: int, order: str) -> bool:
    """Whether only chunks, tags or zeros follow, and no samples."""
    head = _at(file, place, 12)
    if head.startswith(_TAGS):
        return True
    if head[:4] in _CHUNKS and place + 8 + _length(head, order) <= size + 1:
        return True
    return _is_chain(file, place, size, order) or _is_zero(file, place)


def _length(head: bytes, order: str) -> int:
    return int.from_bytes(head[4:8], "little" if order == "little" else "big")


def _is_chain(file: BinaryIO, place: int, size: int, order: str) -> bool:
    """Whether chunks follow one another from `place` to the end of the file."""
    for _ in range(1000):
        head = _at(file, place, 8)
        if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
            return False
        place += 8 + _length(head, order)
        if size <= place <= size + 1:
            return True
        place += place % 2
        if size <= place <= size + 1:
            return True
        if place > size:
            return False
    return False


def _is_zero(file: BinaryIO, place: int) -> bool:
    """Whether all bytes from `place` on are zero."""
    file.seek(place)
    while data := file.read(_READ):
        if data.count(0) != len(data):
            return False
    return True


def _before_chunks(file: BinaryIO, body: int, size: int, order: str) -> int:
    """The end of samples of unknown length: the end of the file, or the first of the chunks at its end."""
    first = max(body, size - _TAIL)
    tail = _at(file, first, size - first)
    places = [size]
    for name in _CHUNKS:
        at = tail.rfind(name)
        while at >= 0:
            if _is_chain(file, first + at, size, order):
                places.append(first + at)
            at = tail.rfind(name, 0, at)
    return min(places)


def _at(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    data: bytes = file.read(length)
    return data


# AIFF is like WAV with big-endian numbers. The number of frames is in another chunk, COMM.


def _aiff(file: BinaryIO, size: int) -> Part | None:
    place, frames, each, rate = 12, None, 0, 0
    while len(chunk := _at(file, place, 8)) == 8:
        name, length = chunk[:4], int.from_bytes(chunk[4:], "big")
        body = place + 8
        if name == b"COMM":
            channels, _, bits = struct.unpack(">hIh", _at(file, body, 8))
            frames, each = body + 2, max(1, channels * ((bits + 7) // 8))
        elif name == b"SSND":
            end, _ = _end_of_samples(file, body, length, size, rate, "big")
            if end is None or frames is None:
                return None
            count = (end - body - 8) // each
            return Part(0, end, {place + 4: _big(end - body, 4), frames: _big(count, 4)})
        place = body + length + length % 2
    return None


def _wave64(file: BinaryIO, size: int) -> Part | None:
    place = 40
    while len(chunk := _at(file, place, 24)) == 24:
        length = int.from_bytes(chunk[16:], "little")
        if chunk[:16] == b"data" + _W64:
            named_end = place + length
            follows = _at(file, named_end + -named_end % 8, 16)
            if named_end + 64 >= size or follows[4:] == _W64 or _is_zero(file, named_end):
                return None
            return Part(0, size, {place + 16: (size - place).to_bytes(8, "little")})
        if length < 24:
            return None
        place += length + -length % 8
    return None


def _caf(file: BinaryIO, size: int) -> Part | None:
    place = 8
    while len(chunk := _at(file, place, 12)) == 12:
        length = int.from_bytes(chunk[4:], "big", signed=True)
        named_end = place + 12 + length
        if chunk[:4] == b"data":
            follows = _at(file, named_end, 4) if length >= 0 else b""
            if length < 0 or named_end + 64 >= size or follows in _CHUNKS or _is_zero(file, named_end):
                return None
            return Part(0, size, {place + 4: b"\xff" * 8})
        if length < 0:
            return None
        place = named_end
    return None


def _big(number: int, length: int) -> bytes:
    most: int = 256**length - 1
    return min(number, most).to_bytes(length, "big")
