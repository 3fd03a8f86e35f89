"""What is very quiet is raised before it is judged, and what is no speech stays none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.support.audio import Float, decode, needs_audio, tone
from tests.support.places import AUDIO
from tests.support.sounds import LONG_NOISES, decibels
from workers.audio import levels, spans, vad
from workers.audio.decode import Recording
from workers.audio.sound import RATE
from workers.engine.windows import Window


def at(samples: Float, level: float) -> Float:
    """The samples at an RMS of so many dB, as 16 bits hold them."""
    made = samples * 10 ** ((level - decibels(samples)) / 20)
    return (np.round(np.clip(made, -1, 1) * 32767) / 32767).astype(np.float32)


def spoken(samples: Float, listener: vad.SpeechDetector) -> float:
    found = np.concatenate([listener.process(samples), listener.flush()])
    return sum(part.end - part.start for part in vad.speech(found, len(samples) / RATE, listener.params))


@pytest.mark.parametrize("level", [-30, -50, -60, -70, -85])
@pytest.mark.parametrize("name", LONG_NOISES)
def test_no_noise_becomes_speech_by_being_raised(name: str, level: float) -> None:
    assert spoken(at(LONG_NOISES[name], level), levels.RaisingDetector(vad.SileroDetector())) == 0


@needs_audio
@pytest.mark.parametrize("level", [-50, -60, -70])
@pytest.mark.parametrize(
    "name", ["clips/jfk.flac", "languages/de_leopard.wav", "clips/libri_61-70968-0000.flac"]
)
def test_speech_is_found_however_quiet(name: str, level: float) -> None:
    samples = decode(AUDIO / name)
    usual = spoken(samples, vad.SileroDetector())
    assert spoken(at(samples, level), levels.RaisingDetector(vad.SileroDetector())) > 0.85 * usual


@needs_audio
@pytest.mark.parametrize(
    "name", ["clips/mfa_cold_corpus.flac", "multispeaker/ami_trn04.flac", "clips/jfk.flac"]
)
def test_what_has_a_usual_level_is_judged_as_it_is(name: str) -> None:
    """Also its pauses, and though nobody speaks up in the second for minutes."""
    samples = decode(AUDIO / name)
    found = vad.probabilities(samples, levels.RaisingDetector(vad.SileroDetector()))
    np.testing.assert_allclose(found, vad.probabilities(samples), atol=1e-6)


def test_it_does_not_depend_on_how_the_stream_is_cut() -> None:
    lot = np.random.default_rng(5)
    sound = (
        lot.normal(0, 1, 70 * RATE + 321) * np.repeat(lot.uniform(1e-4, 3e-3, 71), RATE)[: 70 * RATE + 321]
    )
    samples = sound.astype(np.float32)
    whole = vad.probabilities(samples, levels.RaisingDetector(vad.SileroDetector()))
    assert len(whole) == -(-len(samples) // vad.FRAME)
    listener = levels.RaisingDetector(vad.SileroDetector())
    parts = [listener.process(part) for part in np.array_split(samples, 13)]
    np.testing.assert_allclose(np.concatenate([*parts, listener.flush()]), whole, atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, levels.BLOCK, levels.BLOCK + 1, 40 * RATE])
def test_every_length_has_all_its_frames(length: int) -> None:
    found = vad.probabilities(np.zeros(length, np.float32), levels.RaisingDetector(vad.SileroDetector()))
    assert len(found) == -(-length // vad.FRAME)


@needs_audio
def test_spans_of_a_quiet_recording_are_the_same_read_from_a_cut() -> None:
    path = AUDIO / "long" / "en_magozwe_6min.mp3"

    class Quiet(Recording):
        def blocks(self, start: int = 0):  # type: ignore[no-untyped-def]
            return (block * np.float32(1e-3) for block in super().blocks(start))

    whole = list(spans.read(Quiet(path), 60))
    assert sum(part.end - part.start for span in whole for part in span.speech) > 250
    assert all(a.end == b.start for a, b in itertools.pairwise(whole))
    rest = list(spans.read(Quiet(path), 60, number=2, start=whole[2].start))
    assert [(s.start, s.end, s.speech) for s in rest] == [(s.start, s.end, s.speech) for s in whole[2:]]
    # What is kept of it is the recording as it is.
    assert max(whole[0].peaks) <= 1


def test_a_quiet_window_is_raised_by_one_gain_and_a_usual_one_not_at_all() -> None:
    usual = tone(3)
    assert levels.raised(usual) is usual
    quiet = usual * np.float32(1e-3)
    louder = levels.raised(quiet)

    assert decibels(louder) > decibels(quiet) + 30
    assert decibels(louder) < -15
    np.testing.assert_allclose(louder, quiet * (louder[1] / quiet[1]), rtol=1e-5)


def test_nothing_is_raised_without_bound() -> None:
    hiss = np.random.default_rng(6).normal(0, 1e-6, RATE).astype(np.float32)
    assert decibels(levels.raised(hiss)) < decibels(hiss) + levels.MOST + 0.1
    assert len(levels.raised(np.zeros(0, np.float32))) == 0
    assert not levels.raised(np.zeros(RATE, np.float32)).any()


def test_only_speech_tells_how_loud_a_window_is() -> None:
    samples = np.concatenate([tone(2), tone(2) * np.float32(1e-3)])
    assert levels.raised(samples) is samples
    assert levels.raised(samples, [vad.Speech(0, 2)]) is samples
    louder = levels.raised(samples, [vad.Speech(2, 4)])
    assert decibels(louder[2 * RATE :]) > decibels(samples[2 * RATE :]) + 30


def test_what_is_recognised_of_a_quiet_window_is_louder() -> None:
    samples = tone(4) * np.float32(1e-3)
    heard = Window(1, 3, [vad.Speech(1, 2), vad.Speech(2.5, 3)]).cut(samples)
    assert len(heard) == 1.5 * RATE
    assert decibels(heard) > decibels(samples) + 30


@needs_audio
def test_no_span_is_longer_than_it_may_be_also_at_the_end() -> None:
    """What tells speech is half a minute behind what was read."""
    path = AUDIO / "long" / "en_magozwe_6min.mp3"
    for seconds in (100, 300, 310):
        found = list(spans.read(Recording(path), seconds))
        assert all(span.end - span.start <= seconds * RATE for span in found)
        assert [span.last for span in found] == [False] * (len(found) - 1) + [True]
