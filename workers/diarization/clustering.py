"""Which voices are of one speaker, and so who speaks when.

Vectors are joined by how alike they are, the most alike first (average linkage), until the groups that are
left are of different voices. That is done with vectors spread evenly over the recording, as memory and time
grow with the square of their number. Every other vector is of the nearest speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

Labels: TypeAlias = NDArray[np.int64]
Vectors: TypeAlias = NDArray[np.float32]
Turn: TypeAlias = dict[str, Any]

SAMPLE = 3000  # vectors that are grouped; an hour has about 4500
# Groups whose vectors are less alike than this (mean cosine) are not joined.
ALIKE = 0.53
# Groups whose mean vectors are more alike than this are one speaker. Noise makes the vectors of one voice
# less alike, and their means hardly.
SAME = 0.72
# A group of fewer vectors is no speaker; the second is for a clip of fewer vectors than `FEW`.
FEWEST, FEWEST_OF_FEW, FEW = 4, 2, 40
# Turns of one speaker with a shorter pause are one, and a turn that is no longer than a word is none.
PAUSE, SHORT = 4.0, 0.78


def speakers(vectors: Vectors, at_least: int | None = None, at_most: int | None = None) -> Labels:
    """The speaker of each vector, as a number; as many as asked where there are as many vectors.

    Args:
        vectors: One row for each stretch of speech, in the order of time.
        at_least: Speakers that there are at least, or `None`.
        at_most: Speakers that there are at most, or `None`.
    """
    sample = normalize(vectors[_spread(len(vectors), SAMPLE)])
    fewest = min(at_least or 1, len(sample))
    centres = _joined(_centres(_groups(sample, fewest), sample), fewest, at_most or len(sample))
    if len(centres) < fewest:
        centres = KMeans(fewest, random_state=0, n_init=4).fit(sample).cluster_centers_
    nearest: Labels = cosine_similarity(vectors, centres).argmax(axis=1)
    return nearest


def _spread(count: int, most: int) -> Labels:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _groups(sample: Vectors, fewest: int) -> Labels:
    """The group of each vector of length one; `fewest` groups or more are large, if there are as many."""
    if len(sample) < 2:
        return np.zeros(len(sample), np.int64)
    # Twice what the cosine lacks to one, and defined for a vector of zeros too.
    tree = linkage(pdist(sample, "sqeuclidean"), "average")
    labels: Labels = fcluster(tree, 2 * (1 - ALIKE), "distance").astype(np.int64) - 1
    for count in range(labels.max() + 2, len(sample) + 1):
        if len(_large(labels)) >= fewest:
            break
        labels = fcluster(tree, count, "maxclust").astype(np.int64) - 1
    return labels


def _large(labels: Labels) -> Labels:
    """The groups that have enough vectors for a speaker; the largest ones where none has."""
    counts = np.bincount(labels)
    least = FEWEST if len(labels) >= FEW else FEWEST_OF_FEW
    return np.flatnonzero(counts >= min(least, counts.max()))


def _centres(labels: Labels, sample: Vectors) -> Vectors:
    """The sums of the vectors of each large group."""
    return np.stack([sample[labels == label].sum(axis=0) for label in _large(labels)])


def _joined(centres: Vectors, fewest: int, most: int) -> Vectors:
    """The centres, the most alike of them joined until they are different enough and not too many."""
    while len(centres) > fewest:
        alike = cosine_similarity(centres) - 2 * np.eye(len(centres))
        one, other = np.unravel_index(alike.argmax(), alike.shape)
        if alike[one, other] < SAME and len(centres) <= most:
            break
        centres[one] += centres[other]
        centres = np.delete(centres, other, axis=0)
    return centres


def turns(labels: Sequence[int], stretches: Sequence[tuple[float, float]]) -> list[Turn]:
    """When each speaker speaks, from who is heard in stretches that overlap."""
    made: list[Turn] = []
    for label, (start, end) in zip(labels, stretches, strict=True):
        if made and start < made[-1]["end"] and made[-1]["speaker"] != str(label):
            start = made[-1]["end"] = (made[-1]["end"] + start) / 2  # noqa: PLW2901
        made.append({"start": start, "end": end, "speaker": str(label)})
    made = _merged(made)
    return _merged([turn for turn in made if turn["end"] - turn["start"] > SHORT] or made)


def _merged(made: list[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in made:
        last = merged[-1] if merged else None
        if last and last["speaker"] == turn["speaker"] and turn["start"] - last["end"] <= PAUSE:
            last["end"] = turn["end"]
        else:
            merged.append(dict(turn))
    return merged
