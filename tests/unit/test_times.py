"""Times and ends: sound stands where it was recorded, and all that a file holds is decoded."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stt.media import libav
from tests.support.audio import Float, decode, hertz, loudness, needs_audio, tone, write_wav
from tests.support.places import AUDIO
from tests.support.tracks import Made, write
from workers.audio import timestamps
from workers.audio.decode import Recording
from workers.audio.sound import RATE

CASES = AUDIO / "cases"


def read(path: Path) -> tuple[Recording, Float]:
    recording = Recording(path)
    samples = np.concatenate(list(recording.blocks()))
    recording.close()
    return recording, samples


def stretches(samples: Float) -> list[float]:
    """When tones begin and end, in seconds, to a twentieth."""
    size = RATE // 20
    loud = np.array([loudness(samples[at : at + size]) > 0.05 for at in range(0, len(samples), size)])
    return [float(edge) / 20 for edge in np.flatnonzero(np.diff(np.concatenate([[0], loud, [0]])))]


def join(path: Path, *files: Path) -> Path:
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    return path


PIECES = [(4.0, tone(3)), (20.0, tone(3)), (100.0, tone(2)), (103.0, tone(2))]
PLACES = [4, 7, 20, 23, 100, 102, 103, 105]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.webm", "libopus"), ("a.mkv", "aac"), ("p.mkv", "pcm_s16le"), ("a.ts", "aac"), ("a.mp4", "aac")],
)
def test_late_starts_and_pauses_stand_as_silence(tmp_path: Path, name: str, codec: str, live: bool) -> None:
    if name == "a.mp4" and live:
        pytest.skip("its index is written last")
    path = write(tmp_path / name, [Made(PIECES, codec, 48_000)], video=110, live=live)
    _, samples = read(path)
    np.testing.assert_allclose(stretches(samples), PLACES, atol=0.1)


@pytest.mark.parametrize("codec", ["libopus", "pcm_s16le"])
def test_pauses_of_a_live_recording_without_a_picture_count_from_its_first_sound(
    tmp_path: Path, codec: str
) -> None:
    path = write(tmp_path / "a.mkv", [Made(PIECES, codec, 48_000)], live=True)
    np.testing.assert_allclose(stretches(read(path)[1]), np.array(PLACES) - 4, atol=0.1)


def steady(times: list[float], longest: float = 1000.0) -> list[float]:
    """Times of packets after `timestamps.corrected`, each of which lasts a second."""
    packets = []
    for time in times:
        packet = av.Packet(b"sound")
        packet.time_base, packet.pts, packet.duration = Fraction(1, 1000), round(time * 1000), 1000
        packets.append(packet)
    found = timestamps.corrected(iter(packets), 0.0, lambda time, jump: jump < longest)
    return [float((packet.pts or 0) * packet.time_base) for packet in found]


def test_a_packet_from_another_time_makes_no_silence() -> None:
    assert steady([0, 1, 900, 3, 4]) == [0, 1, 2, 3, 4]
    assert steady([50, 51, 1, 53], longest=100) == [50, 51, 52, 53]


def test_a_jump_from_which_the_clock_goes_on_is_a_pause_unless_it_is_too_long() -> None:
    assert steady([0, 1, 60, 61, 62]) == [0, 1, 60, 61, 62]
    assert steady([0, 1, 5000, 5001, 5060, 5061]) == [0, 1, 2, 3, 62, 63]


def test_a_clock_that_begins_anew_goes_on_and_later_pauses_count(tmp_path: Path) -> None:
    """Parts of a broadcast put together."""
    pieces = [(0.0, tone(3)), (20.0, tone(3))]
    one = write(tmp_path / "one.ts", [Made(pieces, "aac", 48_000)])
    both = join(tmp_path / "both.ts", one, one)
    np.testing.assert_allclose(stretches(read(both)[1]), [0, 3, 20, 26, 43, 46], atol=0.25)


def test_a_transport_stream_goes_on_over_the_end_of_its_counter(tmp_path: Path) -> None:
    path = tmp_path / "wrap.ts"
    begin = 2**33 / 90_000 - 10
    write(path, [Made([(begin, tone(8)), (begin + 30, tone(3))], "aac", 48_000)])
    np.testing.assert_allclose(stretches(read(path)[1]), [0, 8, 30, 33], atol=0.1)


RAW = {"a.aac": "aac", "a.mp3": "libmp3lame", "a.mp2": "mp2", "a.ac3": "ac3"}
TIMED = {
    "a.mkv": "aac",
    "a.webm": "libopus",
    "a.ts": "aac",
    "a.m4a": "aac",
    "a.flac": "flac",
    "f.mkv": "flac",
}


def marked() -> Float:
    """A minute with a tone of 3 kHz in the second 50."""
    samples = np.random.default_rng(5).normal(0, 0.02, 60 * RATE).astype(np.float32)
    samples[50 * RATE : 51 * RATE] += tone(1, 3000)
    return samples


def mark(samples: Float) -> float:
    """Where that tone is, in seconds."""
    size = RATE // 50
    parts = samples[: len(samples) // size * size].reshape(-1, size)
    found = np.abs(np.fft.rfft(parts))[:, 58:63].max(axis=1)
    return float(np.flatnonzero(found > found.max() / 2)[0]) / 50


@pytest.mark.parametrize("damage", ["zeros", "noise", "many"])
@pytest.mark.parametrize(("name", "codec"), [*RAW.items(), *TIMED.items()])
def test_what_follows_a_damage_keeps_its_time(tmp_path: Path, name: str, codec: str, damage: str) -> None:
    path = write(tmp_path / name, [Made([(0, marked())], codec, 48_000)])
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(5)
    middle, size = len(data) * 2 // 5, len(data) // 20
    if damage == "many":
        for number in range(20):
            place = middle // 2 + number * (middle // 25)
            data[place : place + 60] = rng.bytes(60)
    else:
        data[middle : middle + size] = bytes(size) if damage == "zeros" else rng.bytes(size)
    path.write_bytes(data)
    assert mark(read(path)[1]) == pytest.approx(50, abs=0.15)


def test_the_tags_between_mp3_files_put_together_are_no_lost_sound(tmp_path: Path) -> None:
    one = write(tmp_path / "one.mp3", [Made([(0, tone(5))], "libmp3lame", 48_000)])
    two = write(tmp_path / "two.mp3", [Made([(0, tone(5, 700))], "libmp3lame", 44_100)])
    tag = b"ID3\x04\0\0" + bytes([0, 4, 0, 0]) + bytes(4 << 14)
    (tmp_path / "tag").write_bytes(tag)
    _, samples = read(join(tmp_path / "both.mp3", one, tmp_path / "tag", two))
    assert len(samples) == pytest.approx(10.1 * RATE, abs=0.15 * RATE)
    assert hertz(samples[6 * RATE : 9 * RATE]) == pytest.approx(700, abs=2)


@pytest.mark.parametrize("suffix", ["aac", "mp3"])
def test_a_raw_stream_whose_rate_changes_gets_no_silence(tmp_path: Path, suffix: str) -> None:
    codec = {"aac": "aac", "mp3": "libmp3lame"}[suffix]
    one = write(tmp_path / f"one.{suffix}", [Made([(0, tone(6))], codec, 44_100)])
    two = write(tmp_path / f"two.{suffix}", [Made([(0, tone(11, 700))], codec, 48_000, "stereo")])
    _, samples = read(join(tmp_path / f"both.{suffix}", one, two))
    assert len(samples) == pytest.approx(17 * RATE, abs=0.2 * RATE)
    assert stretches(samples)[-1] == pytest.approx(17.1, abs=0.2)


LINKS = {"libopus": (48_000, 48_000, 48_000), "flac": (44_100, 16_000, 48_000)}


@pytest.mark.parametrize("codec", LINKS)
def test_all_links_of_a_chained_ogg_are_decoded(tmp_path: Path, codec: str) -> None:
    files = [
        write(tmp_path / f"{number}.ogg", [Made([(0, tone(3, 300 + 200 * number))], codec, rate, layout)])
        for number, (rate, layout) in enumerate(zip(LINKS[codec], ("mono", "stereo", "mono"), strict=True))
    ]
    path = join(tmp_path / "chained.ogg", *files)
    recording, samples = read(path)
    assert len(samples) == pytest.approx(9 * RATE, abs=0.1 * RATE)
    for number in range(3):
        part = samples[int((3 * number + 0.5) * RATE) : int((3 * number + 2.5) * RATE)]
        assert hertz(part) == pytest.approx(300 + 200 * number, abs=3)
    assert recording.damaged == 0
    assert libav.inspect(path)[1] == pytest.approx(9, abs=0.2)
    np.testing.assert_array_equal(decode(path, 4 * RATE), samples[4 * RATE :])


def test_an_ogg_that_begins_in_the_middle_of_a_link_goes_on_with_the_next(tmp_path: Path) -> None:
    one = write(tmp_path / "one.ogg", [Made([(0, marked())], "libopus", 48_000)])
    two = write(tmp_path / "two.ogg", [Made([(0, tone(3, 700))], "libopus", 48_000)])
    rest = one.read_bytes()[one.stat().st_size // 2 :]
    (tmp_path / "rest").write_bytes(rest)
    path = join(tmp_path / "cut.ogg", tmp_path / "rest", two)
    path.write_bytes(path.read_bytes()[rest.find(b"OggS") :])
    recording, samples = read(path)
    assert hertz(samples) == pytest.approx(700, abs=2)
    assert recording.damaged


def wav(path: Path, size: int, samples: Float, after: bytes = b"") -> Path:
    """A WAV file whose header counts `size` bytes of samples."""
    write_wav(path, samples)
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", min(size + 36, 2**32 - 1)), struct.pack("<I", size)
    path.write_bytes(bytes(data) + after)
    return path


CHUNKS = {
    "nothing": b"",
    "LIST": b"LIST" + struct.pack("<I", 1000) + b"INFO" + bytes(range(249)) * 4,
    "id3": b"id3 " + struct.pack("<I", 500) + b"ID3\x04" + b"\xff\x7f" * 248,
    "two": (b"bext" + struct.pack("<I", 602) + b"\x7f\x80" * 301)
    + (b"cue " + struct.pack("<I", 400) + b"\x80\x7f" * 200),
}


@pytest.mark.parametrize("after", CHUNKS)
@pytest.mark.parametrize("size", [0, 2 * RATE, 2 * RATE + 1, 0xFFFFFFFF, 22 * RATE])
def test_a_wav_whose_header_counts_less_is_read_to_its_end_without_its_chunks(
    tmp_path: Path, size: int, after: str
) -> None:
    path = wav(tmp_path / "a.wav", size, tone(11), CHUNKS[after])
    recording, samples = read(path)
    assert len(samples) == pytest.approx(11 * RATE, abs=2)
    assert hertz(samples[-RATE:]) == pytest.approx(300, abs=1)
    assert recording.missing == 0
    assert libav.inspect(path)[1] == pytest.approx(11, abs=0.1)


def test_wav_files_put_together_are_all_read(tmp_path: Path) -> None:
    one = write_wav(tmp_path / "one.wav", tone(3))
    two = write_wav(tmp_path / "two.wav", tone(4, 700, 8000), tone(4, 700, 8000), rate=8000)
    path = join(tmp_path / "both.wav", one, two)
    _, samples = read(path)
    assert len(samples) == pytest.approx(7 * RATE, abs=20)
    assert hertz(samples[4 * RATE :]) == pytest.approx(700, abs=2)
    assert libav.inspect(path)[1] == pytest.approx(7, abs=0.1)


def test_a_wav_whose_header_counts_more_has_been_cut_off(tmp_path: Path) -> None:
    recording, samples = read(wav(tmp_path / "a.wav", 60 * 2 * RATE, tone(11)))
    assert len(samples) == 11 * RATE
    assert recording.missing == pytest.approx(49, abs=0.1)


@pytest.mark.parametrize("name", ["a.aiff", "a.w64", "a.caf", "a.au", "a.rf64"])
def test_other_headers_that_count_less_are_read_to_the_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = {"a.rf64": "wav", "a.aiff": "aiff"}.get(name, name[2:])
    codec = "pcm_s16be" if kind in ("aiff", "au", "caf") else "pcm_s16le"
    options = {"rf64": "always"} if name == "a.rf64" else {}
    with av.open(path, "w", format=kind, options=options) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        for part in np.split((tone(11) * 32767).astype(np.int16), 11):
            frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            out.mux(stream.encode(frame))
    data = path.read_bytes()
    full, short = 11 * 2 * RATE, 2 * RATE
    for order in ("<Q", ">Q", ">I", "<I"):
        for extra in (0, 4, 8, 24):  # of what a size may count besides
            data = data.replace(struct.pack(order, full + extra), struct.pack(order, short + extra))
    data = data.replace(struct.pack(">I", full // 2), struct.pack(">I", short // 2))
    path.write_bytes(data)
    _, samples = read(path)
    assert len(samples) == pytest.approx(11 * RATE, abs=20)
    assert hertz(samples[-RATE:]) == pytest.approx(300, abs=1)


@needs_audio
@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("two_tracks_first_silent.mkv", 11),
        ("webm_live_audio_starts_late.webm", 15.08),
        ("ogg_chained_rate_change.ogg", 16.86),
        ("wav_header_says_1s.wav", 11),
        ("adts_broken_frames.aac", 11),
        ("adts_rate_change.aac", 16.93),
    ],
)
def test_recordings_from_reports_have_their_length(name: str, seconds: float) -> None:
    path = CASES / name
    if not path.exists():
        pytest.skip("the cases are not here")
    assert len(decode(path)) / RATE == pytest.approx(seconds, abs=0.1)
