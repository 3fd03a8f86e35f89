"""Recordings whose channels are hard to mix, through the whole engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stt.settings import Settings
from tests.support.audio import needs_audio, write_wav
from tests.support.engine import WORDS, ask, plain, text
from tests.support.places import AUDIO
from tests.support.sounds import voice
from workers.engine.handle import EngineProcess

pytestmark = [pytest.mark.engine, needs_audio]

LEOPARD = "mr quilter is the apostle of the middle classes and we are glad to welcome his gospel"


async def test_nothing_is_lost_of_recordings_that_are_hard_to_mix(tmp_path: Path) -> None:
    """Through the engine: reports of users, and relatives of them."""
    cases = AUDIO / "cases"
    # The recording ends before the last eight words.
    cut = WORDS.removesuffix(" ask what you can do for your country")
    said = {
        cases / "stereo_in_phase_then_inverted.flac": f"{LEOPARD} {cut}",
        cases / "surround_speech_in_centre.mka": WORDS,
        cases / "v_dc.flac": WORDS,
        cases / "pop_left_then_soft_right.flac": WORDS,
    }
    jfk = voice("clips/jfk.flac")
    leopard = np.float32(0.5) * voice("clips/leopard_test_en.wav")
    inverted = write_wav(
        tmp_path / "inverted.wav", np.concatenate([-leopard, jfk]), np.concatenate([leopard, jfk])
    )
    quiet = write_wav(tmp_path / "quiet.wav", np.float32(0.01) * jfk)
    said |= {inverted: f"{LEOPARD} {WORDS}", quiet: WORDS}
    engine = EngineProcess(Settings(data_dir=tmp_path / "data"))
    try:
        found = {path: plain(text(await ask(engine, path, language="en"))) for path in said}
    finally:
        await engine.close()
    assert found == said
