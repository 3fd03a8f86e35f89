"""A file that cannot be read is refused with what it is and what to do, whichever way it came to be so."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from stt.codes import ErrorCode, message
from stt.media import errors, libav, telephone, unreadable
from tests.support import audio

RATE = 16_000
COPY_PROTECTED = (ErrorCode.ENCRYPTED, message(ErrorCode.ENCRYPTED))
AAC = {"m4a": "mp4", "mp4": "mp4", "mov": "mov", "3gp": "3gp"}


def encode(path: Path, codec: str = "aac", container: str | None = None, **options: str) -> Path:
    """Three seconds of a tone."""
    return audio.encode(path, [audio.tone(3)], codec, container, bit_rate=32_000, **options)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def noise(length: int) -> bytes:
    return np.random.default_rng(3).bytes(length)


def refused(path: Path) -> tuple[str, str]:
    with pytest.raises(errors.MediaError) as caught:
        libav.inspect(path, 500)
    return caught.value.code, str(caught.value)


def top(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Where the top boxes of an MP4 begin and end."""
    found, at = {}, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found[kind] = (at, at + size)
        at += size
    return found


def scrambled(data: bytes) -> bytes:
    """Its sound replaced by noise, as that of an encrypted file looks."""
    begin, end = top(data)[b"mdat"]
    return data[: begin + 8] + noise(end - begin - 8) + data[end:]


def with_entry(data: bytes, entry: bytes) -> bytes:
    return data.replace(b"mp4a\0\0\0\0", entry + bytes(4))


def with_box(data: bytes, added: bytes) -> bytes:
    """The description of its sound ends with one more box."""
    at = data.index(b"moov")
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mp4a"):
        at = data.index(kind, at)
        size = int.from_bytes(data[at - 4 : at])
        data = data[: at - 4] + (size + len(added)).to_bytes(4) + data[at:]
    return data[: at - 4 + size] + added + data[at - 4 + size :]


@pytest.mark.parametrize(
    "protect",
    [
        lambda data: with_entry(data, b"aavd"),
        lambda data: with_entry(data, b"drms"),
        lambda data: with_entry(data, b"enca"),
        lambda data: with_box(data, box(b"adrm", bytes(200))),
        lambda data: with_box(data, box(b"sinf", box(b"frma", b"mp4a"))),
        lambda data: data.replace(b"ftypM4A ", b"ftypaaxc"),
        lambda data: data.replace(b"ftypM4A ", b"ftypaax "),
    ],
    ids=["aavd", "drms", "enca", "adrm", "sinf", "aaxc", "aax"],
)
def test_a_protected_mp4_is_refused_as_such(tmp_path: Path, protect: Callable[[bytes], bytes]) -> None:
    path = encode(tmp_path / "book.m4a")
    path.write_bytes(protect(scrambled(path.read_bytes())))
    assert refused(path) == COPY_PROTECTED


def test_an_unprotected_audio_book_is_read(tmp_path: Path) -> None:
    """Programs that take the protection away leave names of it behind."""
    path = encode(tmp_path / "book.m4b", container="mp4")
    data = with_box(path.read_bytes(), box(b"sinf", box(b"frma", b"mp4a")))
    path.write_bytes(data.replace(b"ftypisom", b"ftypaax "))
    assert libav.inspect(path, 500)[0] == "audio"


@pytest.mark.parametrize("guid", unreadable._ASF_ENCRYPTION)
def test_protected_windows_media_is_refused_as_such(tmp_path: Path, guid: bytes) -> None:
    path = encode(tmp_path / "a.wma", "wmav2", "asf")
    data = path.read_bytes()
    size, count = struct.unpack("<QI", data[16:28])
    added = guid + struct.pack("<QI", 24 + 36, 36) + bytes(32)
    path.write_bytes(
        data[:16] + struct.pack("<QI", size + len(added), count + 1) + data[28:30] + added + data[30:]
    )
    assert refused(path) == COPY_PROTECTED


def element(name: str, content: bytes) -> bytes:
    return bytes.fromhex(name) + (1 << 56 | len(content)).to_bytes(8, "big") + content


@pytest.mark.parametrize(
    "key", [b"", element("47e2", bytes(16))], ids=["without a key's id", "with a key's id"]
)
def test_protected_matroska_is_refused_as_such(tmp_path: Path, key: bytes) -> None:
    encryption = element("5035", element("47e1", b"\x05") + key)
    encodings = element("6d80", element("6240", element("5033", b"\x01") + encryption))
    track = element("d7", b"\x01") + element("73c5", b"\x01") + element("83", b"\x02")
    track += element("86", b"A_PCM/INT/LIT") + element(
        "e1", element("9f", b"\x01") + element("6264", b"\x10")
    )
    block = element("a3", b"\x81\0\0\x80" + noise(4000))
    path = tmp_path / "a.mka"
    path.write_bytes(
        element("1a45dfa3", element("4282", b"matroska"))
        + element(
            "18538067",
            element("1654ae6b", element("ae", track + encodings))
            + element("1f43b675", element("e7", b"\0") + block),
        )
    )
    assert refused(path) == COPY_PROTECTED


def test_a_scrambled_broadcast_is_refused_as_such(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.ts", "mp2", "mpegts")
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 188):
        if int.from_bytes(data[at + 1 : at + 3]) & 0x1FFF == 0x100:
            data[at + 3] |= 0x80
            data[at + 4 : at + 188] = noise(184)
    path.write_bytes(data)
    assert refused(path) == COPY_PROTECTED


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\x57\x90\x75\x36" + bytes(200),
        b"CTENFDAM" + bytes(200),
        b"EA3\x01\x00\x60\x00\x0f" + bytes(200),
        b"ea3\x03\0\0\0\0\x0b\x76" + bytes(1500) + b"EA3\x02\x00\x60\x00\x0f" + bytes(200),
    ],
    ids=["Audible", "NetEase", "OpenMG", "OpenMG with a title"],
)
def test_a_protected_format_that_is_not_opened_is_refused_as_such(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(data)
    assert refused(path) == COPY_PROTECTED


def test_unprotected_openmg_is_a_format_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "lecture.oma"
    path.write_bytes(b"EA3\x01\x00\x60\xff\xff" + bytes(200))
    assert refused(path)[0] == "unsupported_codec"


@pytest.mark.parametrize("ending", AAC)
@pytest.mark.parametrize(
    "cut",
    [
        lambda data: data[: top(data)[b"moov"][0]],
        lambda data: data[: top(data)[b"moov"][0] // 2],
        lambda data: data[: top(data)[b"moov"][0] + 200],
        lambda data: data[: top(data)[b"moov"][0]].replace(b"ftyp", b"free", 1),
        # What a recorder writes before it knows how long the sound is: no size, or one that is too short.
        lambda data: data[: top(data)[b"mdat"][0]] + box(b"mdat", b"")[:3] + b"\0mdat" + noise(9000),
        lambda data: data[: top(data)[b"mdat"][0]] + box(b"mdat", b"") + noise(9000),
        lambda data: data[: top(data)[b"mdat"][0]] + b"\0\0\0\1mdat" + (2**33).to_bytes(8) + noise(9000),
        lambda data: data[: top(data)[b"mdat"][0]],
    ],
    ids=[
        "no index",
        "half",
        "half of the index",
        "no type",
        "no size",
        "wrong size",
        "long size",
        "start only",
    ],
)
def test_an_mp4_that_broke_off_says_so(tmp_path: Path, ending: str, cut: Callable[[bytes], bytes]) -> None:
    path = encode(tmp_path / f"talk.{ending}", container=AAC[ending])
    path.write_bytes(cut(path.read_bytes()))
    code, sentence = refused(path)
    assert code == "not_media"
    assert "without its index" in sentence
    assert "untrunc" in sentence


def test_an_mp4_of_fragments_without_its_beginning_says_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "talk.mp4", movflags="frag_keyframe+empty_moov+default_base_moof")
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"moof") - 4 :])
    code, sentence = refused(path)
    assert code == "not_media"
    assert "initialization segment" in sentence
    path.write_bytes(data[: len(data) // 2])  # cut off at its end it is read
    assert libav.inspect(path)[0] == "audio"
    begin, end = top(data)[b"moov"]
    path.write_bytes(data[:begin] + data[end:])
    assert "without its index" in refused(path)[1]


@pytest.mark.parametrize(
    "data",
    [
        b"the wide world is free to skip " * 100,
        b"I'm free to speak." * 100,
        box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", bytes(100)) + box(b"mdat", noise(1000)),
        noise(5000),
        b"",
        b"\0\0\0\1ftyp",
        b"\0\0\0\x08free" * 50_000,
    ],
    ids=["text", "English", "photograph", "noise", "nothing", "half a head", "boxes"],
)
def test_what_is_no_mp4_is_not_called_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "talk.mp4"
    path.write_bytes(data)
    code, sentence = refused(path)
    assert code in ("not_media", "no_audio_track")
    assert "index" not in sentence


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("call.ulaw", "ffmpeg -f mulaw -ar 8000 -ac 1 -i call.ulaw call.wav"),
        ("2026-11-25 Anruf.AL", "ffmpeg -f alaw -ar 8000 -ac 1 -i call.al call.wav"),
        ("a.b.sln", "ffmpeg -f s16le -ar 8000 -ac 1 -i call.sln call.wav"),
        ("x.sln16", "ffmpeg -f s16le -ar 16000 -ac 1 -i call.sln16 call.wav"),
        ("x.slin44", "-ar 44100 "),
        ("x.g722", "ffmpeg -f g722 -i call.g722 call.wav"),
        ("x.g726-40", "-f g726 -code_size 5 "),
        ("x.g729", "ffmpeg -f g729 -i "),
        ("x.gsm", "ffmpeg -f gsm -ar 8000 -i "),
        ("x.pcm", "ffmpeg -f s16le -ar 8000 -ac 1 -i call.pcm call.wav (if it was recorded in another way"),
        ("x.vox", "sox -t vox -r 8000 call.vox call.wav"),
    ],
)
def test_raw_telephone_sound_comes_with_a_command_that_converts_it(name: str, told: str) -> None:
    sentence = str(errors.MediaError(ErrorCode.NOT_MEDIA, **(telephone.advice(name) or {})))
    assert told in sentence
    assert "raw telephone sound" in sentence


def alaw(quiet: float) -> bytes:
    """Seconds of telephone sound that begins with silence, as A-law without a header."""
    rng = np.random.default_rng(5)
    sound = np.concatenate([np.zeros(int(quiet * 8000)), rng.normal(0, 3000, 24_000)]).astype(np.int16)
    encoder = av.CodecContext.create("pcm_alaw", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
    frame.sample_rate = 8000
    return b"".join(bytes(packet) for packet in encoder.encode(frame))


@pytest.mark.parametrize("quiet", [0.5, 1.5, 30])
def test_a_law_that_begins_with_silence_is_not_taken_for_gsm(tmp_path: Path, quiet: float) -> None:
    path = tmp_path / "call"
    path.write_bytes(alaw(quiet))
    assert refused(path)[0] == "not_media"


def test_gsm_without_a_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "call.gsm"
    frames = np.frombuffer(noise(33 * 500), np.uint8).reshape(500, 33).copy()
    frames[:, 0] = 0xD0 | frames[:, 0] & 0x0F
    path.write_bytes(frames.tobytes() + b"\xd1half a frame")
    assert libav.inspect(path, 500)[0] == "audio"


@pytest.mark.parametrize("name", ["", "talk.mp3", "ulaw", "call.ulaw.mp3", ".ulaw", "call.wav"])
def test_other_names_are_no_telephone_sound(name: str) -> None:
    assert telephone.advice(name) is None
