"""The same speech in every container is the same sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stt.media import libav
from tests.support.audio import Float, decode, needs_audio
from tests.support.places import AUDIO
from workers.audio.sound import RATE

FILES = sorted(path for path in (AUDIO / "containers").glob("*") if path.is_file())
# What is lost where few bits are spent, or the telephone's 8 kHz; the rest is nearly the original.
ALIKE = {"jfk_amr.amr": 0.9}

pytestmark = needs_audio


def likeness(samples: Float, original: Float) -> tuple[float, int]:
    """The correlation where they fit best, and by how many samples the first one lies behind there."""
    size = 2 ** int(np.ceil(np.log2(len(samples) + len(original))))
    spectra = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(original, size))
    found = np.fft.irfft(spectra, size)
    best = int(np.argmax(np.abs(found)))
    energy = float(np.sqrt((samples @ samples) * (original @ original)))
    return float(found[best]) / energy, best if best < size // 2 else best - size


def test_there_are_many() -> None:
    assert len(FILES) >= 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_container_gives_the_same_sound_at_the_same_time(path: Path) -> None:
    original = decode(AUDIO / "clips" / "jfk.flac")
    samples = decode(path)
    alike, delay = likeness(samples, original)
    assert alike > ALIKE.get(path.name, 0.98)
    assert 0 <= delay < RATE * 0.03  # the encoder's own, where the container has no place to say it
    assert len(samples) == pytest.approx(len(original), abs=RATE * 0.03)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_container_is_accepted_as_what_it_holds(path: Path) -> None:
    kind, duration = libav.inspect(path)
    assert kind == ("video" if "video" in path.name else "audio")
    # A picture may last longer, and a file without a header only lets it be estimated.
    assert duration == pytest.approx(11, abs=0.7)
