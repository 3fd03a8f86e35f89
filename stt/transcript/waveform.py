"""The wave form as players take it: `GET /api/jobs/{id}/peaks`."""

from __future__ import annotations

import math
from collections.abc import Iterable

PER_SECOND = 10  # peaks; the engine makes as many


def joined(pieces: Iterable[tuple[float, bytes]]) -> bytearray:
    """All peaks from the recording's beginning, 0 where there are none yet.

    Each piece comes with the second it begins at. Two that meet within a tenth of a second share its byte,
    and the larger one counts.
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
    """At most so many, each the largest of an equal share."""
    count = len(whole)
    if count <= points:
        return whole
    borders = [number * count // points for number in range(points + 1)]
    return bytearray(max(whole[borders[n] : borders[n + 1]]) for n in range(points))
