"""What the mixer promises: of many channels all that is said on them, whatever else they hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.audio import Float, decode, loudness, needs_audio, silence, tone, write_wav
from tests.support.sounds import LONG_NOISES, decibels, voice
from workers.audio.mixer import BLOCK, Mixer
from workers.audio.sound import RATE

STEREO = ["FL", "FR"]
SURROUND = ["FL", "FR", "FC", "LFE", "SL", "SR"]
ROUND = ["FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"]


def mix(channels: Sequence[Float], names: Sequence[str] = STEREO, piece: int = RATE // 4) -> Float:
    length = max(map(len, channels))
    rows = np.stack([np.pad(row, (0, length - len(row))) for row in channels]).astype(np.float32)
    mixer = Mixer(names)
    made = [part for at in range(0, length, piece) for part in mixer.feed(rows[:, at : at + piece])]
    found = np.concatenate([*made, *mixer.flush()])
    assert len(found) == length
    return found


def first() -> Float:
    return voice("clips/librivox_austen_0870.wav")


def second() -> Float:
    return voice("languages/de_leopard.wav")


def turns() -> tuple[Float, Float]:
    """Two channels of a call: one speaks, then the other."""
    gap = silence(1)
    return (
        np.concatenate([first(), gap, 0 * second()]),
        np.concatenate([0 * first(), gap, second()]),
    )


def noise(name: str, length: int, level: float) -> Float:
    samples = np.resize(LONG_NOISES[name], length)
    return (samples * 10 ** ((level - decibels(samples)) / 20)).astype(np.float32)


def likeness(samples: Float, said: Float, at: float = 0.0) -> float:
    """Correlation with what was said from there on, whatever its polarity."""
    part = samples[int(at * RATE) :][: len(said)]
    return abs(float(part @ said)) / float(np.sqrt((part @ part) * (said @ said)) + 1e-12)


def level(samples: Float, said: Float, at: float = 0.0) -> float:
    """By how many dB it is louder than what was said."""
    return decibels(samples[int(at * RATE) :][: len(said)]) - decibels(said)


def second_at() -> float:
    return len(first()) / RATE + 1


def test_what_needs_no_mixing_comes_out_as_it_is() -> None:
    lot = np.random.default_rng(1)
    sound = lot.normal(0, 0.1, 12 * RATE + 77).astype(np.float32)
    np.testing.assert_array_equal(mix([sound], ["FC"]), sound)
    np.testing.assert_allclose(mix([sound, sound]), sound, atol=1e-6)
    np.testing.assert_array_equal(mix([sound, 0 * sound]), sound)
    other = np.float32(0.7) * sound
    np.testing.assert_allclose(mix([sound, other]), (sound + other) / 2, atol=1e-6)


@pytest.mark.parametrize("names", [["FC"], STEREO, SURROUND, [f"c{n}" for n in range(12)]])
def test_no_sample_is_lost_and_the_cuts_do_not_matter(names: list[str]) -> None:
    lot = np.random.default_rng(2)
    rows = [lot.normal(0.1 * n, 0.05, 3 * BLOCK + 1001).astype(np.float32) for n in range(len(names))]
    whole = mix(rows, names, 10**9)
    for piece in (333, 4000, BLOCK, 3 * BLOCK):
        np.testing.assert_array_equal(mix(rows, names, piece), whole)


@pytest.mark.parametrize("length", [1, 2, 100, 511, 513, BLOCK - 1, BLOCK + 1])
def test_the_shortest_is_mixed_too(length: int) -> None:
    sound = np.random.default_rng(3).normal(0, 0.1, (2, length)).astype(np.float32)
    assert len(mix(list(sound))) == length
    assert len(mix([sound[0]], ["FC"])) == length


def test_a_rest_is_given_out_at_a_gap_and_it_goes_on() -> None:
    mixer, sound = Mixer(STEREO), tone(3.3)
    rows = np.stack([sound, -sound])
    for _ in range(3):
        made = np.concatenate([*mixer.feed(rows), *mixer.flush()])
        assert len(made) == len(sound)
        assert loudness(made) == pytest.approx(loudness(sound), rel=0.01)


def test_little_is_held_however_long_it_is() -> None:
    mixer, lot = Mixer(SURROUND), np.random.default_rng(4)
    rows = lot.normal(0, 1e-3, (6, RATE)).astype(np.float32)
    tracemalloc.start()
    try:
        for _ in range(120):
            for _ in mixer.feed(rows):
                pass
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * 2**20


class TestPhase:
    """Channels that cancel each other."""

    pytestmark = needs_audio

    @pytest.mark.parametrize(("before", "after"), [(1, 1), (1, -1), (-1, 1), (-1, -1), (1, -0.5)])
    def test_an_inverted_part_is_not_lost(self, before: float, after: float) -> None:
        said = np.concatenate([first(), silence(0.5), second()])
        other = np.concatenate([before * first(), silence(0.5), after * second()])
        for channels in ([said, other], [other, said]):
            found = mix(channels)
            for part, at in ((first(), 0.0), (second(), len(first()) / RATE + 0.5)):
                assert likeness(found, part, at) > 0.99
                assert level(found, part, at) > -7

    @pytest.mark.parametrize("seconds", [0.4, 1.0, 2.5])
    def test_a_part_that_is_inverted_amid_speech(self, seconds: float) -> None:
        said, other = first(), first().copy()
        start, end = 2 * RATE, int((2 + seconds) * RATE)
        other[start:end] *= -1
        found = mix([said, other])
        for at in np.arange(1.5, 2.5 + seconds, 0.25):
            part = said[int(at * RATE) : int((at + 0.25) * RATE)]
            assert level(found, part, at) > -3

    def test_inversion_is_found_under_hum_in_phase_and_with_noise(self) -> None:
        said = first()
        hum = noise("hum", len(said), -25)
        found = mix([said + hum, -said + hum])
        assert likeness(found, said) > 0.8
        found = mix([said + noise("white", len(said), -40), -said + noise("pink", len(said), -40)])
        assert likeness(found, said) > 0.95

    @pytest.mark.parametrize("signs", [(1, 1, -1), (-1, 1, 1), (1, 1, -1, -1), (1, -1, -1)])
    def test_of_more_channels_those_that_cancel_are_left_out(self, signs: tuple[int, ...]) -> None:
        found = mix([sign * first() for sign in signs], ["FL", "FR", "FC", "BC"][: len(signs)])
        assert likeness(found, first()) > 0.99
        assert level(found, first()) > -3

    def test_no_hole_where_the_louder_of_two_inverted_channels_changes(self) -> None:
        said = np.concatenate([first(), second()])
        fading = np.linspace(1, 0.1, len(said), dtype=np.float32)
        found = mix([said * fading, -said * fading[::-1]])
        tenths = slice(0, len(said) // 1600 * 1600)
        power = np.square(found[tenths]).reshape(-1, 1600).mean(axis=1)
        wanted = np.square(said[tenths]).reshape(-1, 1600).mean(axis=1)
        assert (power > 0.1 * wanted).all()

    @pytest.mark.parametrize("delay", [8, 48, 160, 600])
    def test_a_later_copy_makes_no_comb_filter(self, delay: int) -> None:
        late = np.concatenate([np.zeros(delay, np.float32), first()])
        found = mix([first(), late])
        assert max(likeness(found, first()), likeness(found, first(), delay / RATE)) > 0.98


class TestOffset:
    """A constant that was added to the sound."""

    pytestmark = needs_audio

    @pytest.mark.parametrize("offset", [0.08, 0.3, -0.5, 0.9])
    @pytest.mark.parametrize("amplitude", [0.03, 0.3])
    def test_it_is_taken_away(self, offset: float, amplitude: float) -> None:
        said = np.float32(amplitude) * first()
        quiet = silence(1)
        padded = np.concatenate([quiet, said, quiet])
        cases = {
            "mono": mix([padded + offset], ["FC"]),
            "one": mix([padded, padded + offset]),
            "both": mix([padded + offset, padded - offset]),
            "other": mix([padded, 0 * padded + offset]),
        }
        for name, found in cases.items():
            bound = max(0.7 * loudness(said), 1e-3)  # what is less than the sound does no harm
            assert abs(float(found[RATE : RATE + len(said)].mean())) < bound, name
            assert likeness(found, said, 1) > 0.97, name
            # No thump where it begins or ends.
            assert np.abs(found[:RATE]).max() < 2.1 * bound, name
            assert np.abs(found[-RATE:]).max() < 2.1 * bound, name

    def test_one_that_drifts_is_followed(self) -> None:
        said = np.concatenate([first(), second()])
        found = mix([said + np.linspace(-0.4, 0.4, len(said), dtype=np.float32)], ["FC"])
        assert likeness(found, said) > 0.95

    def test_rumble_is_none_and_stays(self) -> None:
        said = first()
        rumble = 0.05 * np.sin(2 * np.pi * 0.7 * np.arange(len(said)) / RATE)
        sound = (said + rumble).astype(np.float32)
        np.testing.assert_array_equal(mix([sound], ["FC"]), sound)


class TestChoice:
    """Which channels count, and how much."""

    pytestmark = needs_audio

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("pops", [1, 12])
    def test_pops_on_one_channel_do_not_hide_soft_speech_on_the_other(self, pops: int, place: int) -> None:
        said = np.float32(0.04) * np.concatenate([first(), second()])
        soft = np.concatenate([silence(0.7), said])
        loud = np.zeros_like(soft)
        for start in np.linspace(0.1, 9, pops):
            loud[int(start * RATE) : int((start + 0.1) * RATE)] = 0.97 * np.sign(np.sin(np.arange(1600) / 7))
        found = mix([loud, soft] if place else [soft, loud])
        assert likeness(found, said, 0.7) > 0.95

    @pytest.mark.parametrize("quieter", [-20, -30, -40])
    @pytest.mark.parametrize("far_first", [False, True])
    @pytest.mark.parametrize("floor", [-100, -70])
    def test_the_far_end_of_a_call_is_raised(self, quieter: float, floor: float, far_first: bool) -> None:
        channels = list(turns())
        channels[0 if far_first else 1] *= np.float32(10 ** (quieter / 20))
        noisy = [row + noise("white", len(row), floor - 5 * number) for number, row in enumerate(channels)]
        found = mix(noisy)
        parts = ((first(), 0.0), (second(), second_at()))
        for said, at in parts:
            assert likeness(found, said, at) > 0.9
            assert level(found, said, at) > -12

    def test_the_far_end_stays_raised_while_the_near_one_is_muted(self) -> None:
        """As long as it may be, and from its first word on."""
        left, right = turns()
        far = np.concatenate([np.float32(0.01) * right, *[np.float32(0.01) * first()] * 3])
        found = mix([np.pad(left, (0, len(far) - len(left))), far])
        for number in range(3):
            assert level(found, first(), (len(right) + number * len(first())) / RATE) > -12

    def test_who_speaks_over_the_other_is_raised_too(self) -> None:
        near = np.concatenate([first(), first()])
        far = np.concatenate([silence(2), second(), silence(len(near) / RATE - 2 - len(second()) / RATE)])
        far = np.pad(far, (0, len(near) - len(far)))
        found = mix([near, far * np.float32(0.01)])
        # As much of it as beside a voice that is 6 dB louder.
        assert likeness(found, second(), 2) > 0.3

    @pytest.mark.parametrize(("delay", "crosstalk"), [(0, -30), (80, -30), (4000, -30), (8000, -25)])
    def test_an_echo_of_the_near_end_is_not_raised(self, delay: int, crosstalk: float) -> None:
        near = np.concatenate([first(), silence(1)])
        echo = np.concatenate([np.zeros(delay, np.float32), near])[: len(near)]
        echo = echo * np.float32(10 ** (crosstalk / 20)) + noise("white", len(near), -75)
        found = mix([near, echo])
        assert likeness(found, first()) > 0.99

    def test_the_noise_of_a_silent_channel_is_not_raised(self) -> None:
        said = np.concatenate([silence(3), first(), silence(3)])
        for name in LONG_NOISES:
            found = mix([said, noise(name, len(said), -60)])
            assert likeness(found, first(), 3) > 0.99, name
            assert decibels(found[: 2 * RATE]) < -55, name

    @pytest.mark.parametrize("name", LONG_NOISES)
    def test_what_is_no_speech_does_not_drown_it(self, name: str) -> None:
        said = np.float32(0.3) * first()
        loud = noise(name, len(said), -20)
        assert likeness(mix([said, loud]), said) > 0.95
        assert likeness(mix([loud, said]), said) > 0.95

    @pytest.mark.parametrize("names", [SURROUND, ROUND])
    @pytest.mark.parametrize("same", [True, False])
    @pytest.mark.parametrize("speaks", ["FC", "FR"])
    def test_speech_under_loud_surround(self, names: list[str], same: bool, speaks: str) -> None:
        said = np.float32(0.3) * np.concatenate([first(), second()])
        channels = [
            said if name == speaks else np.roll(noise("chord", len(said), -20), 0 if same else 4321 * place)
            for place, name in enumerate(names)
        ]
        assert likeness(mix(channels, names), said) > 0.97

    def test_an_empty_centre_is_no_loss(self) -> None:
        left, right = turns()
        nothing = 0 * left
        for centre in (nothing, noise("hum", len(left), -40)):
            found = mix([left, right, centre, nothing, nothing, nothing], SURROUND)
            assert likeness(found, first()) > 0.97
            assert likeness(found, second(), second_at()) > 0.97

    def test_low_frequency_effects_are_nobody(self) -> None:
        said = np.float32(0.1) * first()
        rumble = (0.6 * np.sin(2 * np.pi * 40 * np.arange(len(said)) / RATE)).astype(np.float32)
        for place in (0, 2, 4):
            channels = [0 * said] * 6
            channels[place], channels[3] = said, rumble
            assert likeness(mix(channels, SURROUND), said) > 0.999
        alone = [0 * said] * 6
        alone[3] = said
        assert likeness(mix(alone, SURROUND), said) > 0.999

    def test_who_speaks_on_a_channel_of_their_own_is_there(self) -> None:
        """Quad, and microphones by the dozen: also one after the other."""
        for names in (["FL", "FR", "BL", "BR"], [f"c{n}" for n in range(12)]):
            channels = [0 * turns()[0]] * len(names)
            channels[1], channels[-1] = turns()
            found = mix(channels, names)
            assert likeness(found, first()) > 0.97
            assert likeness(found, second(), second_at()) > 0.97


@needs_audio
def test_a_file_is_mixed_as_its_channels_are(tmp_path: Path) -> None:
    """Through the decoder: nothing is lost at its ends, and times stay."""
    said = np.concatenate([first(), silence(1), second()])
    other = np.concatenate([first(), silence(1), -second()])
    path = write_wav(tmp_path / "half.wav", np.float32(0.3) * said, np.float32(0.3) * other)
    whole = decode(path)
    assert len(whole) == len(said)
    assert likeness(whole, second(), second_at()) > 0.99
    for start in (1, 8 * RATE, len(said) - 5):
        np.testing.assert_array_equal(decode(path, start), whole[start:])
