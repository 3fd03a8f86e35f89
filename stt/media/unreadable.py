"""Finds out from the bytes of a file why libav cannot read it. `stt.media.libav` uses it after an error."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from stt.codes import ErrorCode

# The code of an error, and which of its sentences it is (`stt.codes`).
Reason = tuple[ErrorCode, str]

COPY_PROTECTED = (ErrorCode.ENCRYPTED, "")
_NO_INDEX = (ErrorCode.NOT_MEDIA, "no_index")
_FRAGMENT = (ErrorCode.NOT_MEDIA, "fragment")
_ATRAC = (ErrorCode.UNSUPPORTED_CODEC, "atrac")

_HEAD = 2**16  # bytes of a file's start that are searched
_MOST_BOXES = 10_000  # boxes that are looked at; a hostile file may have millions of empty ones

# Sample entries of encrypted sound: Common Encryption, Apple's FairPlay, Audible.
_ENCRYPTED_ENTRIES = {"enca", "drms", "aavd"}
# Boxes and brands that only encrypted MP4 files need.
_ENCRYPTED_MARKS = (b"adrm", b"sinf", b"pssh", *(entry.encode() for entry in sorted(_ENCRYPTED_ENTRIES)))
_ENCRYPTED_BRANDS = {b"aax ", b"aaxc"}
# Content Encryption Object, its extended and its advanced form (Advanced Systems Format, section 3).
_ASF_ENCRYPTION = tuple(
    bytes.fromhex(guid)
    for guid in (
        "fbb31122 23bd d211 b4b7 00a0c955fc6e",
        "14e68a29 2226 174c b935 dae07ee9289c",
        "33850543 8169 e649 9b74 ad12cb86d58c",
    )
)
_ASF = bytes.fromhex("3026b275 8e66 cf11 a6d9 00aa0062ce6c")
# ContentEncodings, ContentEncoding, ContentEncryption (RFC 9559, section 5.1.4.1.31).
_MATROSKA = bytes.fromhex("1a45dfa3")
_MATROSKA_ENCRYPTION = re.compile(rb"\x6d\x80.{1,8}\x62\x40.{1,64}\x50\x35", re.DOTALL)
# Offset and bytes that identify encrypted formats: Audible's older one, NetEase's, KuGou's.
_ENCRYPTED_MAGIC = ((4, bytes.fromhex("57907536")), (0, b"CTENFDAM"), (0, bytes.fromhex("7cd532eb86027f4b")))
_OPENMG = re.compile(rb"(?:ea3\x03.{6}.*?)?EA3[\x01\x02]", re.DOTALL)
_OPENMG_PLAIN = (b"\xff\xff", b"\xff\x80")

# The types of box with which an MP4 begins. Some are English words, with which a text may begin too.
_FIRST = {b"ftyp", b"styp", b"moof", b"sidx", b"mdat", b"moov", b"wide", b"free", b"skip", b"uuid", b"pnot"}

# Each frame of GSM 06.10 has 33 bytes (RFC 3551, section 4.5.8) and begins with the four bits 0xD. So many
# frames are checked, and this share of them must have the mark.
_GSM_FRAME, _GSM_MARK = 33, 0xD
_GSM_LOOKS, _GSM_LEAST = 1000, 0.98

_TS_PACKET, _TS_SYNC = 188, 0x47
_TS_SCRAMBLED = 0xC0  # of a packet's fourth byte


def reason(path: str | os.PathLike[str]) -> Reason | None:
    """Why libav does not open a file or finds no sound in it; None if the bytes do not show it.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        head = file.read(_HEAD)
        if (found := _OPENMG.match(head)) is not None:
            plain = head[found.end() + 2 : found.end() + 4] in _OPENMG_PLAIN
            return _ATRAC if plain else COPY_PROTECTED
        if _head_is_protected(head) or _mp4_is_protected(file) or _is_scrambled(head):
            return COPY_PROTECTED
        return _without_index(file)


def is_protected(path: str | os.PathLike[str], entry: str) -> bool:
    """Whether a track that libav can open holds encrypted sound, which it would decode to noise.

    `entry` is the container's four-letter name of the track's codec.

    Raises:
        OSError: the file cannot be read.
    """
    if entry in _ENCRYPTED_ENTRIES:
        return True
    with open(path, "rb") as file:  # noqa: PTH123
        return _head_is_protected(file.read(_HEAD))


def is_gsm(path: str | os.PathLike[str]) -> bool:
    """Whether the whole file is GSM 06.10 without a header. libav checks only the first frames.

    A-law sound may look like GSM at its beginning, while nobody speaks.

    Raises:
        OSError: the file cannot be read.
    """
    frames = os.stat(path).st_size // _GSM_FRAME  # noqa: PTH116
    places = range(0, frames, max(1, frames // _GSM_LOOKS))
    with open(path, "rb") as file:  # noqa: PTH123
        marked = sum(_starts_gsm_frame(file, place) for place in places)
    return marked >= _GSM_LEAST * len(places)


def _starts_gsm_frame(file: BinaryIO, place: int) -> bool:
    file.seek(place * _GSM_FRAME)
    return file.read(1)[0] >> 4 == _GSM_MARK


def _head_is_protected(head: bytes) -> bool:
    if head.startswith(_ASF):
        return any(guid in head for guid in _ASF_ENCRYPTION)
    if head.startswith(_MATROSKA):
        return _MATROSKA_ENCRYPTION.search(head) is not None
    return any(head.startswith(magic, offset) for offset, magic in _ENCRYPTED_MAGIC)


def _is_scrambled(head: bytes) -> bool:
    """Whether it is an MPEG transport stream with mostly scrambled packets (pay television)."""
    packets = range(0, len(head) - 3, _TS_PACKET)
    if len(packets) < 5 or any(head[at] != _TS_SYNC for at in packets):
        return False
    return sum(bool(head[at + 3] & _TS_SCRAMBLED) for at in packets) > len(packets) / 2


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an MP4 (ISO/IEC 14496-12): type, offset of the content, offset of its end.

    The last box may end beyond `end` if the file is cut off.

    Args:
        file: The file.
        start: The offset of the first box.
        end: The offset at which the boxes end.
    """
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        begin = start + 8
        if size == 1 and len(header) == 16:
            size, begin = int.from_bytes(header[8:]), start + 16
        stop = start + size if size else end
        if stop < begin:
            return
        yield kind, begin, stop
        start = stop


def _top(file: BinaryIO) -> list[tuple[bytes, int, int]]:
    return list(islice(boxes(file, 0, os.fstat(file.fileno()).st_size), _MOST_BOXES))


def _mp4_is_protected(file: BinaryIO) -> bool:
    for kind, begin, stop in _top(file):
        file.seek(begin)
        if kind == b"ftyp" and file.read(4) in _ENCRYPTED_BRANDS:
            return True
        if kind == b"moov" and _marked(file, begin, stop):
            return True
    return False


def _marked(file: BinaryIO, begin: int, stop: int) -> bool:
    """Whether a mark of encryption is in the bytes from `begin` to `stop`, which are read in blocks."""
    file.seek(begin)
    tail = b""
    while begin < stop and (block := file.read(min(_HEAD, stop - begin))):
        begin += len(block)
        if any(mark in tail + block for mark in _ENCRYPTED_MARKS):
            return True
        tail = block[-3:]
    return False


def _without_index(file: BinaryIO) -> Reason | None:
    size = os.fstat(file.fileno()).st_size
    found = _top(file)
    kinds = {kind for kind, _, _ in found}
    whole = {kind for kind, _, stop in found if stop <= size}
    if not found or found[0][0] not in _FIRST or whole & {b"moov", b"meta"}:
        return None  # no MP4, an MP4 with its index, or a picture
    if b"ftyp" not in kinds and kinds & {b"styp", b"moof"}:
        return _FRAGMENT
    return _NO_INDEX if b"ftyp" in whole or kinds & {b"mdat", b"moov"} else None
