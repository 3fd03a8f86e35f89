"""Decodes a recording as a stream of 16 kHz mono samples, with little memory whatever its length.

`workers.audio.__main__` runs it in a process of its own. Positions are numbers of samples from the
recording's start, so they are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from stt.media import errors, parts
from workers.audio import tracks
from workers.audio.sound import BLOCK_SECONDS, RATE, Samples
from workers.audio.track import Track

# How many tracks are decoded to detect speech, and how many of them at the same time.
MOST_TRACKS, TRACKS_AT_ONCE = 32, 2


class Recording:
    """One pass over a file's sound.

    These attributes are known with the first block:

    - `kept`: the names of the tracks that are transcribed, if there was a choice.
    - `left_out`: the names of tracks with speech that are not transcribed, because those in `kept` have
      speech at the same time.
    - `unreadable`: the names of the tracks that cannot be decoded.

    `decoded` is the number of samples decoded so far.
    """

    def __init__(self, path: Path, longest: float = 0.0) -> None:
        """Open a file.

        Args:
            path: The file.
            longest: A longer recording, in seconds, is an error; 0: no limit.

        Raises:
            MediaError: it cannot be transcribed.
            OSError: it cannot be read.
        """
        self._path, self._longest = path, longest
        self._parts = parts.parts(path)
        first = Track(path, self._parts, longest=longest)
        self._tracks, self._gains = [first], [1.0]
        self._decided = False
        self.kept: list[str] = []
        self.left_out: list[str] = []
        self.unreadable = first.unreadable
        self.decoded = 0

    @property
    def damaged(self) -> int:
        """How many packets could not be decoded."""
        return sum(track.damaged for track in self._tracks)

    @property
    def broken_off(self) -> float | None:
        """The second at which an error of the file ended decoding; None if it was decoded to its end."""
        return max((track.broken_off for track in self._tracks if track.broken_off is not None), default=None)

    @property
    def duration(self) -> float | None:
        """Length in seconds by the container, or estimated from the bytes read so far; None if unknown."""
        known = [duration for track in self._tracks if (duration := track.duration) is not None]
        return max(known, default=None)

    @property
    def missing(self) -> float:
        """Seconds of sound that are missing by the length in the header. Read it after the last block.

        It is 0 for formats whose header does not give the exact length of the sound, but an estimate, a value
        calculated from the bytes, or the length of the video.
        """
        return max(track.missing for track in self._tracks)

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Decode the samples from `start` on, in blocks of about `BLOCK_SECONDS`.

        The sound before `start` is decoded and dropped, as seeking is not exact in most formats. A file with
        several tracks is decoded once more before that, to choose among them.

        Raises:
            MediaError: nothing could be decoded, or the recording is too long.
        """
        self._choose_tracks()
        yield from _blocks(self._pieces(), start)
        if self.decoded == 0:
            raise self._tracks[0].failure or errors.empty_audio()

    def close(self) -> None:
        """Close the file."""
        for track in self._tracks:
            track.close()

    def _pieces(self) -> Iterator[Samples]:
        pieces: Iterable[Samples] = self._tracks[0].pieces()
        if len(self._tracks) > 1 or self._gains != [1.0]:
            pieces = tracks.mix([_blocks(track.pieces()) for track in self._tracks], self._gains)
        for piece in pieces:
            self.decoded += len(piece)
            yield piece

    def _choose_tracks(self) -> None:
        """Choose among the tracks, if there are several."""
        first = self._tracks[0]
        if self._decided or len(first.others) < 2 or len(self._parts) > 1:
            return
        self._decided = True
        others, beyond = first.others[:MOST_TRACKS], first.others[MOST_TRACKS:]
        names = [name for _, name, _ in others]
        with ThreadPoolExecutor(TRACKS_AT_ONCE) as pool:
            activities = list(pool.map(self._activity, [index for index, _, _ in others]))
        choice = tracks.choose(activities, [aside for _, _, aside in others])
        if choice is None:
            return
        self.unreadable += [
            name for name, activity in zip(names, activities, strict=True) if activity is None
        ]
        first.close()
        self._gains = [gain for _, gain in choice.mixed]
        indices = [others[place][0] for place, _ in choice.mixed]
        self._tracks = [Track(self._path, self._parts, index, longest=self._longest) for index in indices]
        self.kept = [names[place] for place, _ in choice.mixed]
        self.left_out = [names[place] for place in choice.left_out] + [name for _, name, _ in beyond]

    def _activity(self, index: int) -> tracks.Activity | None:
        track = Track(self._path, self._parts, index, longest=self._longest)
        try:
            activity = tracks.activity(_blocks(track.pieces()))
        finally:
            track.close()
        return activity if track.decoded else None


def _blocks(pieces: Iterator[Samples], start: int = 0) -> Iterator[Samples]:
    """Join pieces to blocks of `BLOCK_SECONDS` or a little more, from the sample `start` on."""
    pending: list[Samples] = []
    waiting = skipped = 0
    for piece in pieces:
        kept = piece[max(0, start - skipped) :]
        skipped += len(piece) - len(kept)
        if len(kept):  # an empty slice would keep the whole piece in memory
            pending.append(kept)
        waiting += len(kept)
        if waiting >= BLOCK_SECONDS * RATE:
            yield np.concatenate(pending)
            pending, waiting = [], 0
    if waiting:
        yield np.concatenate(pending)
