"""Joins and thins out the peaks of the wave form, for `GET /api/jobs/{id}/peaks`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

PER_SECOND = 10  # peaks; the engine makes as many


def joined(pieces: Iterable[tuple[float, bytes]]) -> bytearray:
    """Join pieces of peaks to all peaks from the recording's beginning, with 0 where there are none yet.

    Each piece comes with its start in seconds. If two pieces meet within a tenth of a second, both have a
    peak for it, and the larger one counts.
    """
    whole = bytearray()
    for start, piece in pieces:
        if not piece:
            continue
        first = math.floor(start * PER_SECOND + 1e-6)
        last = first + len(piece) - 1
        whole.extend(bytes(max(0, last + 1 - len(whole))))
        before = {end: whole[end] for end in (first, last)}
        whole[first : last + 1] = piece
        for end, peak in before.items():
            whole[end] = max(whole[end], peak)
    return whole


def fewer(whole: bytearray, points: int) -> bytearray:
    """Reduce peaks to at most `points`, each the largest of an equal share."""
    count = len(whole)
    if count <= points:
        return whole
    borders = [number * count // points for number in range(points + 1)]
    return bytearray(max(whole[borders[n] : borders[n + 1]]) for n in range(points))
