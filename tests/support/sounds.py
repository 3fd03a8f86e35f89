"""Sounds that tests make: noises in which nobody speaks, and voices as a telephone passes them on."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tests.support.audio import Float, decode
from tests.support.places import AUDIO
from workers.audio.sound import RATE

SECONDS = 10

Samples = NDArray[np.float32]
Wave = NDArray[np.float64]


def level(samples: Samples | Wave, decibels: float) -> Samples:
    """The samples at a level (RMS, dB of full scale)."""
    gain = 10 ** (decibels / 20) / np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    made: Samples = np.clip(samples * gain, -1, 1).astype(np.float32)
    return made


def narrow(samples: Samples | Wave, low: float = 300, high: float = 3400) -> Samples:
    """The samples without what lies below `low` and above `high`, in Hz."""
    spectrum, tones = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum[(tones < low) | (tones > high)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def _noises() -> dict[str, Samples]:
    chance = np.random.default_rng(0)
    count = RATE * SECONDS
    time = np.arange(count) / RATE

    def sine(hertz: float) -> Wave:
        return np.sin(2 * np.pi * hertz * time)

    def coloured(power: float) -> Wave:
        spectrum = np.fft.rfft(chance.normal(size=count))
        return np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** power, count)

    def bursts(each_second: int, length: int, decay: float) -> Wave:
        made = np.zeros(count)
        for _ in range(each_second * SECONDS):
            at = int(chance.integers(0, count - length))
            made[at : at + length] += chance.normal(size=length) * np.exp(-np.arange(length) / decay)
        return made

    def tune() -> Wave:
        made = np.zeros(count)
        for at in range(0, count, RATE // 4):
            pitch = 220 * 2 ** (chance.integers(0, 24) / 12)
            length = np.arange(min(RATE, count - at)) / RATE
            tones = sum(np.sin(2 * np.pi * pitch * n * length) / n**1.3 for n in range(1, 8))
            made[at : at + len(length)] += tones * np.exp(-3 * length)
        return made

    breath = narrow(chance.normal(size=count), 400, 4000) * np.maximum(0, np.sin(2 * np.pi * 0.5 * time)) ** 2
    return {
        "white": coloured(0), "pink": coloured(0.5), "brown": coloured(1),
        "hum": sum((sine(50 * n) / n for n in range(1, 9)), np.zeros(count)),
        "tone": sine(440), "ring": (sine(440) + sine(480)) * (time % 6 < 2), "busy": sine(425) * (time % 1 <
        0.5), "keys": bursts(5, 200, 30), "applause": narrow(bursts(60, 800, 120), 500,
        6000).astype(np.float64), "music": tune(), "chord": sine(220) + sine(277) + sine(330), "breath":
        breath, "modulated": coloured(0.5) * (1 + sine(4)),
    }  # fmt: skip


NOISES = _noises()


def decibels(samples: Float) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples))) + 1e-12))


def _long_noises() -> dict[str, Float]:
    lot = np.random.default_rng(4)
    count = 20 * RATE
    time = np.arange(count) / RATE
    white = lot.normal(size=count)
    spectrum, pitches = np.fft.rfft(white), np.maximum(np.arange(count // 2 + 1), 20)
    pink, brown = (np.fft.irfft(spectrum / pitches**power, count) for power in (0.5, 1.0))
    claps = np.zeros(count)
    for start in lot.integers(0, count - 400, 6000):
        claps[start : start + 400] += lot.normal(size=400) * np.exp(-np.arange(400) / 80)
    return {
        "white": white,
        "pink": pink,
        "brown": brown,
        "hum": np.sum([np.sin(2 * np.pi * 50 * n * time + n) / n for n in range(1, 12)], axis=0),
        "tone": np.sin(2 * np.pi * 440 * time),
        "chord": np.sum([np.sin(2 * np.pi * pitch * time) for pitch in (220, 277, 330)], axis=0),
        "ring": (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 480 * time)) * (time % 6 < 2),
        "breath": pink * np.clip(np.sin(2 * np.pi * 0.3 * time), 0, 1) ** 2,
        "applause": claps,
    }


LONG_NOISES = _long_noises()


@cache
def voice(name: str, level: float = -20.0) -> Float:
    samples = decode(AUDIO / name)
    return (samples * 10 ** ((level - decibels(samples)) / 20)).astype(np.float32)
