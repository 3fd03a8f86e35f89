"""Chooses the audio tracks of a file that are transcribed, and mixes them.

Tracks with speech at different times are mixed.

Programs that record a call write each person to a track of its own. The tracks of a film hold the same speech
in several languages. A screen recording often has the same voice from the microphone and from the desktop.
Tracks with speech at the same time are unintelligible when mixed. So the speech of each track is detected
first, in the whole file: then the choice does not depend on the sample at which a caller begins to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.audio import vad
from workers.audio.sound import RATE, Samples

BINS_PER_SECOND = 10
_BIN = RATE // BINS_PER_SECOND
_PARAMS = vad.Params(pad=0.1)
# A track is silent if no sample has more than this amplitude (-75 dB).
SILENT = 1.8e-4
# A track with less speech than this holds a click, or music that is taken for speech for a moment.
LEAST_SPEECH_SECONDS = 0.5
# Two tracks have speech at the same time if the speech that they share is more than this share of the speech
# of the track with less speech.
SAME_TIME = 0.5
# A track with less than this share of the other's speech holds somebody who speaks now and then. It is mixed
# even if somebody on the other track speaks all the time.
SELDOM = 0.1
# Two tracks hold the same sound if their levels, where both have speech, correlate by more than this. Then
# one is a copy of the other, however little speech it has.
_SAME_SOUND = 0.9
# A quiet track is raised to the level of the loudest one, by 20 dB at most, and only so far that its noise
# stays 30 dB below the speech of the loudest one. A gain of less than 4 dB is not applied.
_MOST_GAIN, _NOISE, _LEAST_GAIN = 10.0, 0.03, 1.6


@dataclass(frozen=True, slots=True)
class Activity:
    """For each tenth of a second of a track: whether it holds speech, and its level (RMS, 1 is full scale).

    Both have the shape (tenths of a second,).
    """

    speech: NDArray[np.bool_]
    level: NDArray[np.float32]
    silent: bool = False

    @property
    def speaks(self) -> bool:
        """Whether there is enough speech in it."""
        return bool(self.speech.sum() >= LEAST_SPEECH_SECONDS * BINS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tracks are mixed (the place of each and its gain), and the places of those that are left out.

    Only tracks with speech are in `left_out`.
    """

    mixed: list[tuple[int, float]]
    left_out: list[int]


def activity(blocks: Iterable[Samples]) -> Activity:
    """Detect the speech of a track and measure its level. Memory grows by a few bytes a second of sound."""
    detector, loudest = vad.SileroDetector(), 0.0
    found: list[vad.Probabilities] = []
    levels: list[NDArray[np.float32]] = []
    rest = np.zeros(0, np.float32)
    length = 0
    for block in blocks:
        length += len(block)
        loudest = max(loudest, float(np.abs(block).max(initial=0)))
        # The detector does not find very quiet speech, so the track is raised. The gain only becomes smaller.
        gain = min(100.0, max(1.0, 0.5 / loudest)) if loudest > SILENT else 1.0
        found.append(detector.process(block * np.float32(gain)))
        whole = np.concatenate([rest, block])
        count = len(whole) // _BIN
        levels.append(_levels(whole[: count * _BIN]))
        rest = whole[count * _BIN :]
    found.append(detector.flush())
    level = np.concatenate([np.zeros(0, np.float32), *levels])
    speech = _in_bins(np.concatenate(found), length / RATE, len(level))
    return Activity(speech, level, silent=loudest <= SILENT)


def _levels(samples: Samples) -> NDArray[np.float32]:
    levels: NDArray[np.float32] = np.sqrt(np.mean(np.square(samples.reshape(-1, _BIN)), axis=1))
    return levels


def _in_bins(found: vad.Probabilities, seconds: float, bins: int) -> NDArray[np.bool_]:
    spoken = np.zeros(bins, np.bool_)
    for part in vad.speech(found, seconds, _PARAMS):
        spoken[round(part.start * BINS_PER_SECOND) : round(part.end * BINS_PER_SECOND)] = True
    return spoken


def choose(tracks: Sequence[Activity | None], aside: Sequence[bool] = ()) -> Choice | None:
    """Decide which tracks are transcribed.

    Args:
        tracks: The activity of each track, the default track first; None for one that cannot be decoded.
        aside: Whether each track is a commentary or the like, which is chosen only if all others are silent.

    Returns:
        None if no track can be decoded.
    """
    aside = aside or [False] * len(tracks)
    readable = [place for place, track in enumerate(tracks) if track is not None]
    for side in (False, True):
        group = [place for place in readable if aside[place] == side]
        if any(not _of(tracks, place).silent for place in group):
            return _among(tracks, group)
    return Choice([(readable[0], 1.0)], []) if readable else None


def _among(tracks: Sequence[Activity | None], group: list[int]) -> Choice:
    speaking = [place for place in group if _of(tracks, place).speaks]
    if not speaking:
        return Choice([(next(place for place in group if not _of(tracks, place).silent), 1.0)], [])
    mixed, left_out = [speaking[0]], []
    together = _of(tracks, speaking[0])
    for place in speaking[1:]:
        other = _of(tracks, place)
        if _same_time(together, other):
            left_out.append(place)
        else:
            mixed.append(place)
            together = _joined(together, other)
    gains = _gains([_of(tracks, place) for place in mixed])
    return Choice(list(zip(mixed, gains, strict=True)), left_out)


def _of(tracks: Sequence[Activity | None], place: int) -> Activity:
    found = tracks[place]
    assert found is not None
    return found


def _same_time(one: Activity, other: Activity) -> bool:
    """Whether two tracks have speech at the same time most of the time."""
    length = min(len(one.speech), len(other.speech))
    both = one.speech[:length] & other.speech[:length]
    less, more = sorted((int(one.speech.sum()), int(other.speech.sum())))
    if both.sum() <= SAME_TIME * less:
        return False
    return less > SELDOM * more or _same_sound(one.level[:length][both], other.level[:length][both])


def _same_sound(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    levels = np.log(np.stack([one, other]).astype(np.float64) + 1e-6)
    levels -= levels.mean(axis=1, keepdims=True)
    power = float(np.sqrt(np.prod(np.square(levels).sum(axis=1))))
    return power > 0 and float(levels[0] @ levels[1]) > _SAME_SOUND * power


def _joined(one: Activity, other: Activity) -> Activity:
    length = max(len(one.speech), len(other.speech))
    speech, level = np.zeros(length, np.bool_), np.zeros(length, np.float32)
    for part in (one, other):
        speech[: len(part.speech)] |= part.speech
        np.maximum(level[: len(part.level)], part.level, out=level[: len(part.level)])
    return Activity(speech, level)


def _gains(tracks: list[Activity]) -> list[float]:
    levels = [float(np.sqrt(np.mean(np.square(track.level[track.speech])))) for track in tracks]
    most = max(levels)
    return [_gain(track, level, most) for track, level in zip(tracks, levels, strict=True)]


def _gain(track: Activity, level: float, most: float) -> float:
    noise = float(np.percentile(track.level, 20))
    gain = min(most / max(level, 1e-9), _MOST_GAIN, _NOISE * most / max(noise, 1e-9))
    return gain if gain >= _LEAST_GAIN else 1.0


def mix(sources: Sequence[Iterable[Samples]], gains: Sequence[float]) -> Iterable[Samples]:
    """The blocks of several tracks added up.

    Args:
        sources: The blocks of each track; the blocks with the same number have one length, except for the
            last ones. A track that ends earlier is silent from there on.
        gains: The factor for each track.
    """
    readers = [iter(source) for source in sources]
    while True:
        blocks = [next(reader, None) for reader in readers]
        pieces = [
            block * np.float32(gain) for block, gain in zip(blocks, gains, strict=True) if block is not None
        ]
        if not pieces:
            return
        total = np.zeros(max(map(len, pieces)), np.float32)
        for piece in pieces:
            total[: len(piece)] += piece
        yield total
