"""What a file with several audio tracks promises: who speaks is transcribed, or a warning says who is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from av.stream import Disposition

from stt.media import libav
from tests.support.audio import decode, hertz, loudness, needs_audio, silence, tone
from tests.support.places import AUDIO
from tests.support.tracks import Float, Made, write
from workers.audio import tracks, vad
from workers.audio.decode import Recording
from workers.audio.sound import RATE

pytestmark = needs_audio


@pytest.fixture(scope="module")
def jfk() -> Float:
    return decode(AUDIO / "clips" / "jfk.flac")


@pytest.fixture(scope="module")
def leopard() -> Float:
    return decode(AUDIO / "clips" / "leopard_test_en.wav")


@pytest.fixture(scope="module")
def story() -> Float:
    return decode(AUDIO / "clips" / "story_0085_p01.mp3")


@pytest.fixture(scope="module")
def german() -> Float:
    return decode(AUDIO / "languages" / "de_librivox.mp3")[: 25 * RATE]


def read(path: Path) -> tuple[Recording, Float]:
    recording = Recording(path)
    samples = np.concatenate(list(recording.blocks()))
    recording.close()
    return recording, samples


def spoken(samples: Float, start: float, end: float) -> float:
    """Seconds of speech between two times."""
    found = vad.speech(vad.probabilities(samples), len(samples) / RATE)
    return sum(max(0.0, min(end, one.end) - max(start, one.start)) for one in found)


@pytest.mark.parametrize("first", ["silent", "hum", "noise"])
def test_a_first_track_in_which_nobody_speaks_does_not_hide_the_second(
    tmp_path: Path, first: str, jfk: Float
) -> None:
    times = np.arange(11 * RATE) / RATE
    sounds = {
        "silent": silence(11),
        "hum": (0.2 * np.sin(2 * np.pi * 50 * times)).astype(np.float32),
        "noise": np.random.default_rng(1).normal(0, 0.01, 11 * RATE).astype(np.float32),
    }
    made = [Made([(0, sounds[first])], disposition=Disposition.default), Made([(0, jfk)])]
    recording, samples = read(write(tmp_path / "two.mkv", made))
    np.testing.assert_allclose(samples[: len(jfk)], jfk, atol=1e-3)
    assert recording.kept == ["audio track 2"]
    assert recording.left_out == []


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("two.mkv", (("aac", 48_000, "stereo"), ("libopus", 48_000, "mono"))),
        ("two.mp4", (("aac", 48_000, "mono"), ("aac", 44_100, "stereo"))),
        ("two.ts", (("aac", 48_000, "mono"), ("libmp3lame", 48_000, "mono"))),
    ],
)
def test_tracks_that_speak_at_different_times_are_mixed_on_one_clock(
    tmp_path: Path, name: str, codecs: tuple[tuple[str, int, str], ...], leopard: Float, jfk: Float
) -> None:
    parts = [[(0.0, leopard)], [(7.0, jfk)]]  # the second one begins where it speaks
    made = [Made(part, *codec) for part, codec in zip(parts, codecs, strict=True)]
    recording, samples = read(write(tmp_path / name, made))
    assert len(recording.kept) == 2
    assert recording.left_out == []
    assert len(samples) == pytest.approx(18 * RATE, abs=RATE // 10)
    assert spoken(samples, 0, 6) > 4
    assert spoken(samples, 6.1, 7) < 0.3
    begin = np.flatnonzero(np.abs(samples[int(6.5 * RATE) :]) > 0.1)[0] / RATE + 6.5
    known = np.flatnonzero(np.abs(jfk) > 0.1)[0] / RATE + 7
    assert begin == pytest.approx(known, abs=0.1)


def test_three_tracks_of_which_one_is_silent(tmp_path: Path, leopard: Float, jfk: Float) -> None:
    made = [Made([(0, silence(18))]), Made([(0, leopard)]), Made([(7, jfk)])]
    recording, samples = read(write(tmp_path / "three.mkv", made))
    assert recording.kept == ["audio track 2", "audio track 3"]
    assert spoken(samples, 0, 6) > 4
    assert spoken(samples, 7, 18) > 7


@pytest.mark.parametrize("default", [0, 1])
def test_of_dubbings_the_default_one_is_taken_and_the_other_named(
    tmp_path: Path, default: int, story: Float, german: Float
) -> None:
    flags = [Disposition.default if number == default else Disposition(0) for number in range(2)]
    made = [
        Made([(0, story)], disposition=flags[0], metadata={"language": "eng"}),
        Made([(0, german)], disposition=flags[1], metadata={"language": "ger", "title": "Synchronfassung"}),
    ]
    recording, samples = read(write(tmp_path / "dubbed.mkv", made))
    names = ["audio track 1 (eng)", 'audio track 2 (ger, "Synchronfassung")']
    assert recording.kept == [names[default]]
    assert recording.left_out == [names[1 - default]]
    wanted = (story, german)[default]
    np.testing.assert_allclose(samples[: len(wanted)], wanted, atol=1e-3)


def test_the_same_voice_from_microphone_and_desktop_is_taken_once(tmp_path: Path, story: Float) -> None:
    noise = np.random.default_rng(1).normal(0, 0.003, len(story)).astype(np.float32)
    made = [Made([(0, story)]), Made([(0.15, story * 0.3 + noise)])]
    recording, samples = read(write(tmp_path / "same.mkv", made))
    assert recording.kept == ["audio track 1"]
    assert recording.left_out == ["audio track 2"]
    np.testing.assert_allclose(samples[: len(story)], story, atol=1e-3)


def test_somebody_who_speaks_seldom_is_mixed_though_another_one_always_speaks(
    tmp_path: Path, leopard: Float
) -> None:
    talk = decode(AUDIO / "long" / "en_magozwe_6min.mp3")[: 180 * RATE]
    recording, _ = read(write(tmp_path / "seldom.mkv", [Made([(0, talk)]), Made([(100, leopard)])]))
    assert recording.kept == ["audio track 1", "audio track 2"]


def test_a_soft_track_is_raised_to_the_other_one(tmp_path: Path, leopard: Float, jfk: Float) -> None:
    padded = np.concatenate([jfk * 0.05, silence(3)])
    _, samples = read(write(tmp_path / "soft.mkv", [Made([(0, leopard)]), Made([(7, padded)])]))
    assert loudness(samples[7 * RATE : 18 * RATE]) > 0.3 * loudness(leopard)


def test_a_commentary_is_taken_only_if_nothing_else_has_sound(
    tmp_path: Path, leopard: Float, jfk: Float
) -> None:
    comment = Made([(7, jfk)], disposition=Disposition.comment)
    recording, _ = read(write(tmp_path / "both.mkv", [comment, Made([(0, leopard)])]))
    assert recording.kept == ["audio track 2"]
    recording, _ = read(write(tmp_path / "alone.mkv", [comment, Made([(0, silence(8))])]))
    assert recording.kept == ["audio track 1"]


def test_tracks_that_are_not_interleaved_are_mixed(tmp_path: Path, leopard: Float, jfk: Float) -> None:
    made = [Made([(0, leopard)]), Made([(7, jfk)])]
    _, samples = read(write(tmp_path / "apart.mkv", made, interleaved=False))
    assert spoken(samples, 0, 6) > 4
    assert spoken(samples, 7, 18) > 7


def test_a_mix_read_from_a_sample_on_is_the_rest_of_it(tmp_path: Path, leopard: Float, jfk: Float) -> None:
    made = [Made([(0, leopard)], "aac", 48_000), Made([(7, jfk)], "libopus", 48_000)]
    path = write(tmp_path / "two.mkv", made)
    whole = decode(path)
    for start in (1, 8 * RATE, 12 * RATE + 5, len(whole) + 5):
        np.testing.assert_array_equal(decode(path, start), whole[start:])


def test_a_track_that_cannot_be_decoded_does_not_hide_the_others(tmp_path: Path, jfk: Float) -> None:
    made = [Made([(0, tone(3))], "libmp3lame", 48_000), Made([(0, jfk)], "aac", 48_000)]
    path = write(tmp_path / "unknown.mkv", made)
    data = path.read_bytes()
    assert data.count(b"A_MPEG/L3") == 1
    path.write_bytes(data.replace(b"A_MPEG/L3", b"A_NOTHING"))
    assert libav.inspect(path)[0] == "audio"
    recording, samples = read(path)
    assert spoken(samples, 0, 11) > 7
    assert recording.unreadable == ["audio track 1"]


def test_a_file_with_one_track_is_not_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "activity", lambda blocks: pytest.fail("it was decoded to choose a track"))
    path = write(tmp_path / "one.mkv", [Made([(0, tone(2))], "aac", 48_000)])
    assert hertz(decode(path)) == pytest.approx(300, abs=1)
