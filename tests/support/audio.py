"""Recordings that tests make, and how they compare what was decoded."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.places import AUDIO
from workers.audio.decode import Recording
from workers.audio.sound import RATE

needs_audio = pytest.mark.skipif(not AUDIO.is_dir(), reason=f"no recordings in {AUDIO}")
Float = NDArray[np.float32]


def tone(seconds: float, hertz: float = 300, rate: int = RATE) -> Float:
    return (0.3 * np.sin(np.arange(int(seconds * rate)) / rate * 2 * np.pi * hertz)).astype(np.float32)


def write_wav(path: Path, *channels: Float, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack(channels, 1) * 32767).astype("<i2").tobytes())
    return path


def encode(
    path: Path,
    tracks: list[Float],
    codec: str = "aac",
    container: str | None = None,
    *,
    bit_rate: int | None = None,
    **options: str,
) -> Path:
    """A container with one mono track each; the second one carries the default flag if there are two."""
    with av.open(path, "w", format=container, options=options) as out:
        streams = [out.add_stream(codec, rate=RATE, layout="mono") for _ in tracks]
        for stream in streams if bit_rate else []:
            stream.bit_rate = bit_rate
        if len(streams) > 1:
            streams[0].disposition = av.stream.Disposition(0)
            streams[1].disposition = av.stream.Disposition.default
        for stream, samples in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            fifo = av.AudioFifo()
            fifo.write(frame)
            for part in fifo.read_many(1024, partial=True):
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    return path


def decode(path: Path, start: int = 0) -> Float:
    recording = Recording(path)
    try:
        return np.concatenate([np.zeros(0, np.float32), *recording.blocks(start)])
    finally:
        recording.close()


def loudness(samples: Float) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def hertz(samples: Float) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RATE / len(samples))


def silence(seconds: float) -> Float:
    return np.zeros(int(seconds * RATE), np.float32)
