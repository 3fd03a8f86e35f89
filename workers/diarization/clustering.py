"""Clusters speaker embeddings, and makes turns of speakers from them.

1. Agglomerative clustering with average linkage (UPGMA, by scipy) joins the two most similar clusters again
   and again, until the mean cosine similarity between any two is below `LINKAGE_COSINE`. It takes at most
   `MOST_CLUSTERED` embeddings, spread evenly over the recording: memory and time grow with the square.
2. Clusters with too few embeddings are dropped.
3. Clusters whose centroids are similar are merged (`CENTROID_COSINE`).
4. Every embedding is assigned to the nearest centroid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

from stt.transcript.schema import Turn

Labels: TypeAlias = NDArray[np.int64]  # shape (embeddings,)
Embeddings: TypeAlias = NDArray[np.float32]  # shape (embeddings, dimensions)

MOST_CLUSTERED = 3000  # embeddings; an hour has about 4500
# Clusters are not joined if the mean cosine between their embeddings is less than this.
LINKAGE_COSINE = 0.53
# Clusters are one speaker if the cosine of their centroids is more than this. Noise makes the embeddings of
# one voice less similar, but hardly changes their centroid.
CENTROID_COSINE = 0.72
# Embeddings that a cluster must have to be a speaker; the second number holds for recordings with fewer than
# `SHORT_RECORDING` embeddings.
LEAST, LEAST_IN_SHORT_RECORDING, SHORT_RECORDING = 4, 2, 40
# Turns of one speaker are joined if the pause between them is not longer than this, in seconds.
LONGEST_PAUSE = 4.0
# A turn that is not longer than this, in seconds (a word), is dropped.
SHORTEST_TURN = 0.78


def cluster(embeddings: Embeddings, at_least: int | None = None, at_most: int | None = None) -> Labels:
    """The speaker of each embedding, as a number, shape (embeddings,).

    Args:
        embeddings: One for each subsegment of speech, in the order of time, shape (embeddings, dimensions).
        at_least: There are at least so many speakers. Fewer are found if there are fewer embeddings.
        at_most: There are at most so many speakers.
    """
    sample = normalize(embeddings[_evenly_spread(len(embeddings), MOST_CLUSTERED)])
    fewest = min(at_least or 1, len(sample))
    labels = _linkage_clusters(sample, fewest)
    centroids = _merge_similar(_centroids(labels, sample), fewest, at_most or len(sample))
    if len(centroids) < fewest:
        centroids = KMeans(fewest, random_state=0, n_init=4).fit(sample).cluster_centers_
    nearest: Labels = cosine_similarity(embeddings, centroids).argmax(axis=1)
    return nearest


def _evenly_spread(count: int, most: int) -> Labels:
    """At most `most` indices, spread evenly over 0 to `count` - 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _linkage_clusters(sample: Embeddings, fewest: int) -> Labels:
    """The cluster of each embedding, by average linkage.

    Args:
        sample: Embeddings of length one, shape (embeddings, dimensions).
        fewest: At least so many clusters get enough embeddings for a speaker, if there are as many.
    """
    if len(sample) < 2:
        return np.zeros(len(sample), np.int64)
    # The squared Euclidean distance of vectors of length one is 2 (1 - cosine). It is defined for zeros too.
    tree = linkage(pdist(sample, "sqeuclidean"), "average")
    labels: Labels = fcluster(tree, 2 * (1 - LINKAGE_COSINE), "distance").astype(np.int64) - 1
    for count in range(labels.max() + 2, len(sample) + 1):
        if len(_large_clusters(labels)) >= fewest:
            break
        labels = fcluster(tree, count, "maxclust").astype(np.int64) - 1
    return labels


def _large_clusters(labels: Labels) -> Labels:
    """The clusters that have enough embeddings for a speaker; the largest ones if none has."""
    counts = np.bincount(labels)
    least = LEAST if len(labels) >= SHORT_RECORDING else LEAST_IN_SHORT_RECORDING
    return np.flatnonzero(counts >= min(least, counts.max()))


def _centroids(labels: Labels, sample: Embeddings) -> Embeddings:
    """The centroid of each large cluster, as the sum of its embeddings, shape (clusters, dimensions)."""
    return np.stack([sample[labels == label].sum(axis=0) for label in _large_clusters(labels)])


def _merge_similar(centroids: Embeddings, fewest: int, most: int) -> Embeddings:
    """The centroids after the most similar ones were merged, until they differ and are not too many.

    Args:
        centroids: Sums of embeddings, shape (clusters, dimensions).
        fewest: No merging below this number.
        most: Merging goes on above this number, however different they are.
    """
    while len(centroids) > fewest:
        similarity = cosine_similarity(centroids) - 2 * np.eye(len(centroids))
        one, other = np.unravel_index(similarity.argmax(), similarity.shape)
        if similarity[one, other] < CENTROID_COSINE and len(centroids) <= most:
            break
        centroids[one] += centroids[other]
        centroids = np.delete(centroids, other, axis=0)
    return centroids


def turns(labels: Sequence[int], times: Sequence[tuple[float, float]]) -> list[Turn]:
    """The turns of the speakers. If subsegments of two speakers overlap, the turn changes in the middle.

    Args:
        labels: The speaker of each subsegment.
        times: Start and end of each subsegment, in seconds, in the order of time. They may overlap.
    """
    made: list[Turn] = []
    for label, (start, end) in zip(labels, times, strict=True):
        if made and start < made[-1]["end"] and made[-1]["speaker"] != str(label):
            start = made[-1]["end"] = (made[-1]["end"] + start) / 2  # noqa: PLW2901
        made.append({"start": start, "end": end, "speaker": str(label)})
    made = _without_pauses(made)
    return _without_pauses([turn for turn in made if turn["end"] - turn["start"] > SHORTEST_TURN] or made)


def _without_pauses(made: list[Turn]) -> list[Turn]:
    """The turns, with those of one speaker joined if the pause between them is short."""
    merged: list[Turn] = []
    for turn in made:
        last = merged[-1] if merged else None
        if last and last["speaker"] == turn["speaker"] and turn["start"] - last["end"] <= LONGEST_PAUSE:
            last["end"] = turn["end"]
        else:
            merged.append(turn.copy())
    return merged
