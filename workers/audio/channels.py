"""Measures of the channels of a recording, by which `workers.audio.mixer` compares them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.audio import levels, vad
from workers.audio.sound import Samples

BLOCK = levels.BLOCK  # samples of a block: half a second
PART = BLOCK // 4  # samples of a part of a block: an eighth of a second
# The range of an envelope in dB: frames further below the loud ones are raised to that level.
ENVELOPE_RANGE = 20.0

Numbers: TypeAlias = NDArray[np.float64]


@dataclass(slots=True)
class Block:
    """Half a second of all channels, and its measures.

    - `rows`: the samples, shape (channels, samples).
    - `mean` and `spread` (RMS without the mean), shape (channels,).
    - `products`: the products of each channel with each, summed over the differences from sample to sample,
      shape (channels, channels).
    - `parts`: `products` for each eighth of a second.
    - `power`: of each frame (`levels.powers`), shape (channels, frames).
    - `voice`: whether a frame may be speech, shape (channels, frames); None if speech was not detected.
    - `loudest`: the power of the loud frames of speech, shape (channels,); None as `voice`.
    """

    rows: Samples
    mean: Numbers
    spread: Numbers
    products: Numbers
    parts: list[Numbers]
    power: Numbers
    voice: NDArray[np.bool_] | None = None
    loudest: Numbers | None = None


def measured(rows: Samples) -> Block:
    """Measure the samples of a block, shape (channels, samples), without detecting speech."""
    mean, spread = rows.mean(axis=1, dtype=np.float64), rows.std(axis=1, dtype=np.float64)
    if len(rows) == 1:  # the other measures compare channels
        return Block(rows, mean, spread, np.zeros((1, 1)), [], np.zeros((1, 1)))
    changes = np.diff(rows, axis=1, prepend=rows[:, :1]).astype(np.float64)
    parts = [part @ part.T for part in np.split(changes, range(PART, rows.shape[1], PART), axis=1)]
    return Block(
        rows,
        mean,
        spread,
        np.sum(parts, axis=0),
        parts,
        np.stack([levels.powers(row, vad.FRAME) for row in rows]),
    )


def correlation(products: Numbers) -> Numbers:
    """The correlation of each channel with each, shape (channels, channels), from `Block.products`."""
    size = np.sqrt(np.diag(products)) + 1e-12
    found: Numbers = products / size[:, None] / size
    return found


def cancels(products: list[Numbers], pair: list[int], least: float, share: float) -> bool:
    """Whether two channels cancel each other in a stretch in which both are loud.

    Args:
        products: `Block.products` of each stretch, shape (channels, channels).
        pair: The numbers of the two channels.
        least: The correlation below which they cancel each other.
        share: A channel is loud in a stretch if it has more than this share of its power in the loudest one.
    """
    both = np.array([stretch[np.ix_(pair, pair)] for stretch in products])
    power = np.diagonal(both, axis1=1, axis2=2)
    loud = (power > share * power.max(axis=0)).all(axis=1)
    likeness = both[:, 0, 1] / (np.sqrt(power.prod(axis=1)) + 1e-12)
    return bool((likeness[loud] < least).any())


def loud(power: Numbers) -> float:
    """The power of the loud frames; 0 without frames."""
    return float(np.percentile(power, 90)) if len(power) else 0.0


def envelope(power: Numbers) -> Numbers:
    """The level of each frame in dB; none is more than `ENVELOPE_RANGE` below the loud ones."""
    level = 10 * np.log10(power + 1e-12)
    clipped: Numbers = np.maximum(level, np.percentile(level, 95) - ENVELOPE_RANGE)
    return clipped


def likeness(first: Numbers, second: Numbers) -> float:
    """Pearson's correlation coefficient of two envelopes."""
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / (np.sqrt((first @ first) * (second @ second)) + 1e-12))


def cross_correlation(pair: Samples) -> Numbers:
    """The correlation of two rows by lag, shape (lags,).

    The index is the number of samples by which the first row is later; negative ones count from the end.
    """
    size = 1 << int(2 * pair.shape[1] - 1).bit_length()
    first, second = np.fft.rfft(pair.astype(np.float64), size)
    found: Numbers = np.fft.irfft(first * second.conj(), size)
    found /= np.sqrt(np.prod(np.sum(np.square(pair, dtype=np.float64), axis=1))) + 1e-12
    return found
