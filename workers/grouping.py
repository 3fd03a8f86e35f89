"""Which voices are of one speaker, and so who speaks when.

Spectral clustering as senko does it (after 3D-Speaker), on vectors spread evenly over the recording, as its
memory grows with the square of their number and its time with the cube. Every other vector is of the nearest
speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

Labels: TypeAlias = NDArray[np.int64]
Vectors: TypeAlias = NDArray[np.float32]
Turn: TypeAlias = dict[str, Any]

SAMPLE = 1200  # vectors that are grouped; a tenth of an hour has about 450
MOST = 15  # speakers, where nothing else is asked
# A vector is linked with this share of the others, those most alike, and with so many at least.
LINKED, LINKS = 0.012, 6
# Speakers whose mean vectors are more alike than this are one (cosine), and one of fewer vectors is none.
SAME, FEWEST = 0.875, 4
# Six links are too many for a clip of few stretches. There, voices that differ by less than this are one.
FEW, ALIKE = 40, 0.5
# Turns of one speaker with a shorter pause are one, and a turn that is no longer than a word is none.
PAUSE, SHORT = 4.0, 0.78


def speakers(vectors: Vectors, at_least: int | None = None, at_most: int | None = None) -> Labels:
    """The speaker of each vector, as a number; as many as asked where there are as many vectors."""
    sample = vectors[_spread(len(vectors), SAMPLE)]
    fewest = min(at_least or 1, len(sample))
    most = max(at_most or MOST, fewest)
    labels = _of_few(sample) if len(sample) < FEW else _of_many(sample, fewest, max(most, MOST))
    centres = _joined(_centres(labels, sample), fewest, at_most or len(sample))
    if len(centres) < fewest:
        centres = KMeans(fewest, random_state=0, n_init=4).fit(normalize(sample)).cluster_centers_
    nearest: Labels = cosine_similarity(vectors, centres).argmax(axis=1)
    return nearest


def _spread(count: int, most: int) -> Labels:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _of_few(vectors: Vectors) -> Labels:
    """Speakers of a short clip."""
    if len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    join = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=ALIKE)
    labels: Labels = join.fit_predict(vectors)
    return labels


def _of_many(vectors: Vectors, fewest: int, most: int) -> Labels:
    """Speakers as the parts of the net of who is most alike that hang together least."""
    alike = cosine_similarity(vectors)
    links = max(LINKS, round(LINKED * len(vectors)))
    alike[alike < np.partition(alike, -links, axis=1)[:, -links, None]] = 0
    alike = (alike + alike.T) / 2
    np.fill_diagonal(alike, 0)
    laplacian = np.diag(np.abs(alike).sum(axis=1)) - alike
    values, places = eigh(laplacian, subset_by_index=[0, min(most, len(vectors) - 1)])
    count = fewest + int(np.diff(values[fewest - 1 :]).argmax())
    labels: Labels = KMeans(count, random_state=0, n_init=4).fit_predict(places[:, :count])
    return labels


def _centres(labels: Labels, vectors: Vectors) -> Vectors:
    """The sums of speakers' vectors, without speakers of too few, unless all are."""
    counts = np.bincount(labels)
    least = FEWEST if len(vectors) >= FEW else 2
    kept = np.flatnonzero(counts >= min(least, counts.max()))
    return np.stack([vectors[labels == label].sum(axis=0) for label in kept])


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
