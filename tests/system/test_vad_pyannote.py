"""pyannote's voice activity by option: the real model, beside Silero's and WhisperX's own way to use it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from stt.settings import Settings
from tests.support.audio import decode, needs_audio
from tests.support.engine import JFK, WORDS, ask, plain, text
from tests.support.places import AUDIO
from workers.audio import spans, vad
from workers.audio.decode import Recording
from workers.audio.sound import RATE, Samples
from workers.audio.vad_pyannote import PARAMS, PyannoteModel
from workers.engine.handle import EngineProcess
from workers.engine.whisperx_vad import PyannoteVad

pytestmark = [pytest.mark.engine, needs_audio]


@pytest.fixture(scope="module")
def pyannote() -> PyannoteModel:
    return PyannoteModel("cpu", 1)


def spoken(speech: list[vad.Speech], length: float) -> Samples:
    """1 where somebody speaks, by hundredths of a second."""
    found = np.zeros(int(length * 100) + 1, np.float32)
    for part in speech:
        found[int(part.start * 100) : int(part.end * 100)] = 1
    return found


def test_it_does_not_depend_on_how_the_stream_is_cut(pyannote: PyannoteModel) -> None:
    samples = decode(AUDIO / "clips" / "mfa_acoustic_corpus.flac")
    whole = vad.probabilities(samples, pyannote.detector())
    assert len(whole) == -(-len(samples) // vad.FRAME)
    detector = pyannote.detector()
    parts = [detector.process(part) for part in np.array_split(samples, 13)]
    assert np.array_equal(np.concatenate([*parts, detector.flush()]), whole)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 79_999, 80_000, 80_001, 88_000, 200_000, 208_000])
def test_every_length_has_all_its_frames(pyannote: PyannoteModel, length: int) -> None:
    found = vad.probabilities(np.zeros(length, np.float32), pyannote.detector())
    assert len(found) == -(-length // vad.FRAME)
    assert found.max() < 0.5


def test_nothing_is_heard_in_nothing(pyannote: PyannoteModel) -> None:
    assert len(pyannote.detector().flush()) == 0


def test_it_hears_what_whisperx_hears_with_it(pyannote: PyannoteModel) -> None:
    samples = decode(AUDIO / "clips" / "mfa_acoustic_corpus.flac")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from whisperx.vads.pyannote import Pyannote as Theirs  # noqa: PLC0415
        from whisperx.vads.pyannote import load_vad_model  # noqa: PLC0415

        scores = load_vad_model("cpu")({"waveform": Theirs.preprocess_audio(samples), "sample_rate": RATE})
    middles = [scores.sliding_window[number].middle for number in range(len(scores.data))]
    found = vad.probabilities(samples, pyannote.detector())
    theirs = np.interp((np.arange(len(found)) + 0.5) * vad.FRAME / RATE, middles, scores.data[:, 0])
    assert abs(found - theirs).mean() < 0.005
    assert abs(found - theirs).max() < 0.15
    assert ((found > PARAMS.onset) == (theirs > PARAMS.onset)).mean() > 0.995


@pytest.mark.parametrize("name", ["jfk.flac", "story_0085_p01.mp3"])
def test_speech_is_found_where_silero_finds_it(pyannote: PyannoteModel, name: str) -> None:
    samples = decode(AUDIO / "clips" / name)
    length = len(samples) / RATE
    ours = spoken(vad.speech(vad.probabilities(samples, pyannote.detector()), length, PARAMS), length)
    silero = spoken(vad.speech(vad.probabilities(samples), length), length)
    assert (ours * silero).sum() > 0.97 * silero.sum()
    # It fills short pauses, but makes up no speech.
    assert ours.sum() < 1.25 * silero.sum() + 50


@pytest.mark.parametrize("name", ["tone_440hz_10s.flac", "white_noise_20s.ogg", "room_silence_4s.wav"])
def test_silence_is_silence(pyannote: PyannoteModel, name: str) -> None:
    found = list(
        spans.read(Recording(AUDIO / "containers" / "edge" / name), 60, make_detector=pyannote.detector)
    )
    assert [span.speech for span in found] == [[]]


def test_spans_read_from_a_cut_are_those_of_an_uninterrupted_run(pyannote: PyannoteModel) -> None:
    path = AUDIO / "languages" / "de_librivox.mp3"
    whole = list(spans.read(Recording(path), 20, make_detector=pyannote.detector))
    assert len(whole) >= 3
    start = whole[1].start
    rest = list(spans.read(Recording(path), 20, number=1, start=start, make_detector=pyannote.detector))
    assert [(s.number, s.start, s.end, s.speech) for s in rest] == [
        (s.number, s.start, s.end, s.speech) for s in whole[1:]
    ]


def test_it_has_whisperx_face() -> None:
    made = PyannoteVad("cpu", 1)
    samples = decode(JFK)
    pieces = made({"waveform": made.preprocess_audio(samples), "sample_rate": RATE})
    assert pieces[0].start == pytest.approx(0.1, abs=0.3)
    assert 10 < pieces[-1].end <= 11
    merged = made.merge_chunks(pieces, 30, onset=PARAMS.onset, offset=PARAMS.offset)
    assert [round(chunk["end"]) for chunk in merged] == [11]


async def test_the_engine_hears_with_it_where_asked(tmp_path: Path) -> None:
    engine = EngineProcess(Settings(data_dir=tmp_path, vad="pyannote"))
    try:
        events = await ask(engine, JFK, language="en")
    finally:
        await engine.close()
    assert plain(text(events)) == WORDS
