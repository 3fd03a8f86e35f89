"""Files whose headers say what no recording has, made byte by byte: each stands for a kind."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence

import av
import numpy as np

Make = Callable[[int, int], bytes]  # of a rate and a number of channels

_SOUND = bytes([1, 2]) * 2000


def wav(rate: int, channels: int, *, bits: int = 16, align: int | None = None, code: int = 1) -> bytes:
    """RIFF WAVE."""
    align = channels * bits // 8 if align is None else align
    head = struct.pack(
        "<HHIIHH", code, channels & 0xFFFF, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits
    )
    data = _SOUND * max(1, channels // 8)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def w64(rate: int, channels: int) -> bytes:
    """Sony Wave64, RIFF with long ids."""
    riff = bytes.fromhex("726966662e91cf11a5d628db04c10000")
    rest = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels & 0xFFFFFFFF, 2 * channels, 16)
    data = _SOUND * max(1, channels // 8)
    body = b"wave" + rest + b"fmt " + rest + struct.pack("<Q", 24 + len(head)) + head
    body += b"data" + rest + struct.pack("<Q", 24 + len(data)) + data
    return riff + struct.pack("<Q", 24 + len(body)) + body


def aiff(rate: int, channels: int) -> bytes:
    """AIFF, whose rate is a float of 80 bits."""
    exponent = max(rate, 1).bit_length() - 1
    extended = struct.pack(">HQ", 16383 + exponent, max(rate, 1) << (63 - exponent))
    data = _SOUND * max(1, channels // 8)
    comm = struct.pack(">HIH", channels, len(data) // (2 * channels), 16) + extended
    body = b"AIFFCOMM" + struct.pack(">I", len(comm)) + comm
    body += b"SSND" + struct.pack(">I", len(data) + 8) + bytes(8) + data
    return b"FORM" + struct.pack(">I", len(body)) + body


def au(rate: int, channels: int) -> bytes:
    """Sun audio."""
    return b".snd" + struct.pack(">5I", 28, len(_SOUND), 3, rate, channels) + bytes(4) + _SOUND


def caf(rate: int, channels: int) -> bytes:
    """Apple's Core Audio Format, whose rate is a float of 64 bits."""
    described = struct.pack(">d4s5I", rate, b"lpcm", 0, 2 * channels, 1, channels, 16)
    data = bytes(4) + _SOUND * max(1, channels // 8)
    return (
        b"caff\x00\x01\x00\x00desc" + struct.pack(">q", len(described)) + described
        + b"data" + struct.pack(">q", len(data)) + data
    )  # fmt: skip


def voc(rate: int, channels: int) -> bytes:
    """Creative Voice, a block of the new kind."""
    block = struct.pack("<IBBHI", rate, 16, channels & 0xFF, 4, 0) + _SOUND
    return (
        b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x0114, 0x111F)
        + b"\x09" + struct.pack("<I", len(block))[:3] + block + b"\x00"
    )  # fmt: skip


def sphere(rate: int, channels: int) -> bytes:
    """NIST SPHERE, whose header is text."""
    head = (
        f"NIST_1A\n   1024\nchannel_count -i {channels}\nsample_rate -i {rate}\nsample_n_bytes -i 2\n"
        f"sample_count -i 2000\nsample_sig_bits -i 16\nsample_coding -s3 pcm\nsample_byte_format -s2 01\n"
        "end_head\n"
    )
    return head.encode().ljust(1024) + _SOUND


def sox(rate: int, channels: int) -> bytes:
    """SoX's own format."""
    return b".SoX" + struct.pack("<IQdII", 28, len(_SOUND), rate, channels, 0) + _SOUND * 4


def dsf(rate: int, channels: int) -> bytes:
    """DSD stream file: a bit a sample."""
    data = bytes(range(256)) * 16 * min(channels, 100)
    head = struct.pack(
        "<IIIIIIQII", 1, 0, min(channels, 6), channels, rate * 8 & 0xFFFFFFFF, 1, 32768, 4096, 0
    )
    form = b"fmt " + struct.pack("<Q", 12 + len(head)) + head
    block = b"data" + struct.pack("<Q", 12 + len(data)) + data
    return b"DSD " + struct.pack("<QQQ", 28, 28 + len(form) + len(block), 0) + form + block


def flac(rate: int, channels: int, *, block: int = 65535, frames: int = 4, own: Sequence[int] = ()) -> bytes:
    """FLAC with frames of constant value; the header has the rate, or each frame one of its `own` in turn."""
    channels = (channels - 1 & 7) + 1
    packed = (rate & 0xFFFFF) << 44 | channels - 1 << 41 | 15 << 36 | block * frames
    info = struct.pack(">HH", block, block) + bytes(6) + struct.pack(">Q", packed) + bytes(16)
    out = [b"fLaC\x80" + struct.pack(">I", len(info))[1:] + info]
    for number in range(frames):
        coded = chr(number).encode("utf-8", "surrogatepass")  # a number is coded as UTF-8 codes a letter
        head = b"\xff\xf8" + bytes([0x7D if own else 0x70, channels - 1 << 4 | 8]) + coded
        head += struct.pack(">H", block - 1)
        head += struct.pack(">H", own[number % len(own)]) if own else b""
        frame = head + bytes([_crc(head, 8, 0x07)]) + b"\x00\x12\x34" * channels
        out.append(frame + struct.pack(">H", _crc(frame, 16, 0x8005)))
    return b"".join(out)


def ogg_flac(rate: int, channels: int) -> bytes:
    """FLAC in Ogg, whose pages have sums that must be right."""
    pages = _encoded("ogg", "flac")
    place = pages.index(b"fLaC") + 4 + 4 + 10
    old = struct.unpack_from(">Q", pages, place)[0]
    packed = old & (1 << 41) - 1 | (rate & 0xFFFFF) << 44 | (channels - 1 & 7) << 41
    changed = bytearray(pages)
    struct.pack_into(">Q", changed, place, packed)
    end = changed.index(b"OggS", 4)
    changed[22:26] = bytes(4)
    changed[22:26] = struct.pack("<I", _crc(bytes(changed[:end]), 32, 0x04C11DB7))
    return bytes(changed)


def matroska(rate: int, channels: int) -> bytes:
    """Matroska with PCM, its SamplingFrequency and its Channels changed."""
    data = bytearray(_encoded("matroska", "pcm_s16le"))
    place = data.index(b"\xb5\x88") + 2
    struct.pack_into(">d", data, place, rate)
    place = data.index(b"\x9f\x81", place - 16) + 2
    data[place] = channels & 0xFF
    return bytes(data)


def mov(rate: int, channels: int) -> bytes:
    """QuickTime with PCM: a sound description of version 2, whose rate is a float of 64 bits."""
    data = bytearray(_encoded("mov", "pcm_s16le"))
    place = data.index(b"sowt") + 4
    struct.pack_into(">H", data, place + 16, channels & 0xFFFF)
    struct.pack_into(">I", data, place + 24, (rate & 0xFFFF) << 16)
    return bytes(data)


def lpcm(rate: int, channels: int) -> bytes:
    """QuickTime with PCM of a high rate: a sound description of version 2."""
    data = bytearray(_encoded("mov", "pcm_s16le", rate=192_000))
    place = data.index(b"lpcm") + 4
    struct.pack_into(">d", data, place + 32, rate)
    struct.pack_into(">I", data, place + 40, channels)
    return bytes(data)


def tta(rate: int, channels: int) -> bytes:
    """True Audio: the frame's size follows from the rate."""
    head = b"TTA1" + struct.pack("<HHHII", 1, channels & 0xFFFF, 16, rate, 4000)
    head += struct.pack("<I", zlib.crc32(head))
    frame = _SOUND + struct.pack("<I", zlib.crc32(_SOUND))
    table = struct.pack("<I", len(frame))
    return head + table + struct.pack("<I", zlib.crc32(table)) + frame


def alac(rate: int, channels: int, *, block: int = 4096) -> bytes:
    """Apple Lossless in an M4A: its cookie has rate, channels and the size of a frame."""
    data = bytearray(_encoded("mp4", "alac"))
    place = data.index(b"alac", data.index(b"alac") + 4) + 8
    struct.pack_into(">I", data, place, block)
    data[place + 9] = channels & 0xFF
    struct.pack_into(">I", data, place + 20, rate)
    return bytes(data)


def ape(rate: int, channels: int, *, block: int = 73728) -> bytes:
    """Monkey's Audio."""
    described = b"MAC " + struct.pack("<HHIIIIIII", 3990, 0, 52, 24, 4, 0, 400, 0, 0) + bytes(16)
    head = struct.pack("<HHIIIHHI", 2000, 0, block & 0xFFFFFFFF, 4000, 1, 16, channels, rate)
    return described + head + struct.pack("<I", 80) + bytes(range(1, 201)) * 2


def wavpack(rate: int, channels: int) -> bytes:
    """WavPack with a rate of its own in a block of metadata."""
    data = bytearray(_encoded("wv", "wavpack"))
    flags = struct.unpack_from("<I", data, 24)[0] | 0xF << 23
    extra = b"\x67\x02" + struct.pack("<I", rate & 0xFFFFFFFF)[:4] if rate < 2**32 else b""
    struct.pack_into("<I", data, 4, struct.unpack_from("<I", data, 4)[0] + len(extra))
    struct.pack_into("<I", data, 24, flags)
    return bytes(data[:32]) + extra + bytes(data[32:])


RATES: dict[str, Make] = {
    "wav": wav, "w64": w64, "aiff": aiff, "au": au, "caf": caf, "voc": voc, "sphere": sphere, "sox": sox,
    "dsf": dsf, "flac": flac, "ogg_flac": ogg_flac, "matroska": matroska, "mov": mov, "lpcm": lpcm,
    "tta": tta, "alac": alac, "ape": ape, "wavpack": wavpack,
}  # fmt: skip


def _encoded(container: str, codec: str, rate: int = 16_000) -> bytes:
    """A quarter of a second of sound, as libav writes it."""
    sound = (np.sin(np.arange(rate // 4) / 9) * 9000).astype("<i2")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        planar = stream.format.name.endswith("p")
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16p" if planar else "s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """A sum that takes the highest bit first."""
    top, mask, value = 1 << bits - 1, (1 << bits) - 1, 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value
