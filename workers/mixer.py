"""Many channels to one: what is judged of them is judged over the seconds around each moment.

Samples wait here for some seconds, so that a decision knows what comes. Blocks are counted from the first
sample on, so what comes out does not depend on how the samples were cut into pieces.

- A constant offset (a cheap sound card has one) is taken away where it is large beside the sound.
- Of channels with the same content the mean of the audible ones is taken, as a silent one would halve the
  voice. One that would cancel the others, or that holds the same some milliseconds later, is left out.
- Where channels differ, voice activity says which of them carry speech. A quiet one is raised, as the far
  end of a telephone call, unless it only repeats a louder one (crosstalk, echo). One without speech is kept
  below those with it, as the music around the centre of 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers import levels, vad
from workers.sound import Samples

BLOCK = 16 * vad.FRAME  # samples that get one decision: half a second
# Blocks after the present one that a decision waits for, and those before it that are kept. Of some channels
# ten seconds: a quiet one is raised as well before the loud one speaks first. Of many less: memory.
AHEAD, AHEAD_OF_MANY, MANY, BEHIND = 20, 5, 8, 5
# Speech in so many blocks before and after decides: a word finds its channel open.
NEAR = 3
# Blocks over which a channel counts as in use, so that all that NEAR reaches is judged.
RECENT = 2 * NEAR + 1
# Blocks before and after in which a channel that cancels the other leaves it out.
AROUND = 2

# Power below which a channel holds nothing, with `levels.powers` as the measure: -80 dB.
SILENT = 1e-8
# Share of the loudest channel's power (-30 dB) from which one counts where voice activity has no say.
AUDIBLE = 1e-3
# Correlation from which two channels hold the same, and below which they cancel each other.
SAME, OPPOSITE = 0.9, -0.4
# The same for an eighth of a second, in which two voices may be alike by chance; and the share of the power
# around it (-20 dB) that it must have.
PART, PART_OPPOSITE, PART_POWER = BLOCK // 4, -0.8, 1e-2
# A channel becomes the reference of phases when it has so many times the power of the one before.
LOUDER = 4.0
# Frames of speech (an eighth of a second) that make a channel one that somebody speaks on.
SPOKEN_FRAMES = 4
# A channel with speech is raised to 6 dB below the loudest, or to -25 dB, but never by more than 40 dB.
BELOW_LOUDEST, SPEECH_FLOOR, MOST_GAIN = 0.25, 10**-2.5, 100.0
# How much a block counts in the level of a channel's speech: that of the last ten seconds.
NEWS = 0.05
# What is more than 15 dB below the speech of another channel at the same time does not tell how loud one is.
CROSSTALK = 10**-1.5
# Channels without speech stay 18 dB below it, all of them together.
BESIDE_SPEECH = 0.125
# Where there is a centre, those around it count as speech only if they sound like it about as much.
LIKE_CENTRE = 0.8
# Envelopes of a channel and of its echo, up to 0.64 s later: their correlation, and the range that counts.
ECHO, ECHO_FRAMES, ECHO_BLOCKS, ECHO_RANGE = 0.7, range(-2, 21), 4, 20.0
# The same sound in two channels, so many samples apart (0.25 to 50 ms), mixed makes a comb filter.
DELAYS, DELAYED = (4, 800), 0.7
# An offset counts from -60 dB and half of the sound beside it, and is taken away whole from twice that.
OFFSET, OFFSET_SHARE = 1e-3, 0.5
# What strays by more than two of so many parts from block to block is rumble, and is left.
STEADY = 5.0
# A voice is raised for voice activity to -25 dB, from what is below -45 dB.
QUIET_VOICE, RAISED_VOICE, MOST_RAISED = 10**-4.5, 10**-2.5, 1e5

# How much of what people say each loudspeaker's channel holds, where it is not all of it.
_WEIGHTS = {"FC": 1.0, "LFE": 0.0, "BL": 0.5, "BR": 0.5, "BC": 0.5, "SL": 0.5, "SR": 0.5}

Numbers: TypeAlias = NDArray[np.float64]


@dataclass(slots=True)
class Block:
    """Half a second of all channels, and what is known of it.

    `mean` and `spread` (RMS without the mean) by channel; `products` of each channel with each, and those of
    its `parts`; `power` by channel and frame. `voice`: whether it may be speech, by channel and frame, where
    that was asked for, and `loudest` the power of the loudest speech by channel.
    """

    rows: Samples
    mean: Numbers
    spread: Numbers
    products: Numbers
    parts: list[Numbers]
    power: Numbers
    voice: NDArray[np.bool_] | None = None
    loudest: Numbers | None = None


class Mixer:
    """One stream of channels to one of mono samples, of the same length and some seconds later."""

    def __init__(self, names: Sequence[str]) -> None:
        self._base = np.array([_WEIGHTS.get(name, 1.0) for name in names])
        self._ahead = NEAR + 1 if len(names) == 1 else AHEAD if len(names) <= MANY else AHEAD_OF_MANY
        self._centre = names.index("FC") if len(names) >= 5 and "FC" in names else None
        self._pending: list[Samples] = []
        self._blocks: list[Block] = []
        self._at = 0  # the block that is next to come out
        self._voices: list[vad.Listener] = []
        self._level = np.zeros(len(names))  # usual power of the speech of each
        self._reference: int | None = None
        self._sign = 1.0
        self._weights: Numbers | None = None  # of the block before

    def feed(self, rows: Samples) -> Iterator[Samples]:
        """What is ready after these samples of all channels, shape (channels, samples)."""
        self._pending.append(rows)
        if sum(part.shape[1] for part in self._pending) < BLOCK:
            return
        rows = np.concatenate(self._pending, axis=1)
        whole = rows.shape[1] // BLOCK * BLOCK
        self._pending = [rows[:, whole:].copy()]
        for start in range(0, whole, BLOCK):
            self._take(np.ascontiguousarray(rows[:, start : start + BLOCK]))
            while self._at + self._ahead < len(self._blocks):
                yield self._next()

    def flush(self) -> Iterator[Samples]:
        """The rest. What was learned of the channels stays, as the same ones may go on."""
        if any(part.shape[1] for part in self._pending):
            self._take(np.concatenate(self._pending, axis=1))
        while self._at < len(self._blocks):
            yield self._next()
        self._pending, self._blocks, self._at, self._voices = [], [], 0, []

    def _take(self, rows: Samples) -> None:
        self._blocks.append(_measured(rows))
        if len(rows) == 1:
            return
        if not self._differ():
            self._voices = []
        elif self._voices:
            self._listen(self._blocks[-1])
        else:  # from as far back as a decision that is still to come looks
            self._voices = [vad.Listener() for _ in rows]
            for block in self._blocks[max(0, self._at - NEAR) :]:
                self._listen(block)

    def _differ(self) -> bool:
        """Whether the channels that are in use hold different things."""
        recent = self._blocks[-RECENT:]
        used = (np.max([block.power.max(axis=1) for block in recent], axis=0) > SILENT) & (self._base > 0)
        if used.sum() < 2:
            return False
        products = np.sum([block.products for block in recent], axis=0)
        first = int(np.where(used, np.diag(products), 0).argmax())
        return bool((np.abs(_correlation(products)[first, used]) < SAME).any())

    def _listen(self, block: Block) -> None:
        """Ask voice activity about each channel of a block, the quiet ones raised."""
        place = next(number for number, one in enumerate(self._blocks) if one is block)
        recent = self._blocks[max(0, place - RECENT) : place + 1]
        power = np.max([np.percentile(one.power, 90, axis=1) for one in recent], axis=0)
        gains = np.sqrt(np.minimum(RAISED_VOICE / (power + 1e-30), MOST_RAISED))
        gains[power >= QUIET_VOICE] = 1
        block.voice, block.loudest = np.zeros(block.power.shape, bool), np.zeros(len(block.rows))
        for channel in np.flatnonzero(self._base):
            samples = (block.rows[channel] - block.mean[channel]) * gains[channel]
            whole = np.zeros(block.power.shape[1] * vad.FRAME, np.float32)
            whole[: len(samples)] = np.clip(samples, -1, 1)[: len(whole)]
            voice = self._voices[channel].hear(whole) > vad.Listener.params.offset
            block.voice[channel] = voice
            if voice.sum() >= SPOKEN_FRAMES:
                block.loudest[channel] = _loud(block.power[channel, voice])
        block.loudest = _apart(block.loudest)

    def _next(self) -> Samples:
        """The mix of the block that is next."""
        rows = self._without_offset()
        if len(rows) == 1:
            mixed: Samples = rows[0]
        else:
            weights = self._decided()
            before = weights if self._weights is None else self._weights
            mixed = _mix(rows, before, weights)
            self._weights = weights
        self._at += 1
        if self._at > BEHIND:
            del self._blocks[0]
            self._at -= 1
        return mixed

    def _around(self, count: int, at: int | None = None) -> list[Block]:
        at = self._at if at is None else at
        return self._blocks[max(0, at - count) : at + count + 1]

    def _without_offset(self) -> Samples:
        places = [max(0, self._at - 1), self._at, min(len(self._blocks) - 1, self._at + 1)]
        offsets = [self._offset(place) for place in places]
        rows = self._blocks[self._at].rows
        if not np.any(offsets):
            return rows
        before, here, after = offsets
        knots = [-0.5 * BLOCK, 0.5 * BLOCK, 1.5 * BLOCK]
        samples = np.arange(rows.shape[1])
        lines = [np.interp(samples, knots, values) for values in zip(before, here, after, strict=True)]
        level: Samples = (rows - np.stack(lines)).astype(np.float32)
        return level

    def _offset(self, at: int) -> Numbers:
        """The offset of each channel around a block, as far as it is significant."""
        around = self._around(NEAR, at)
        # The last block may be too short to have a mean of its own.
        long = [block for block in around if 4 * block.rows.shape[1] >= BLOCK] or around
        means = np.array([block.mean for block in long])
        if np.abs(means).max() <= OFFSET:
            return np.zeros(means.shape[1])
        # It may drift: what counts is how far the means are from a line.
        slope = np.median(np.diff(means, axis=0), axis=0) if len(means) > 2 else np.zeros(means.shape[1])
        level = means - slope * (np.arange(len(means)) - min(at, NEAR))[:, None]
        offset = np.median(level, axis=0)
        strays = np.abs(level - offset).mean(axis=0) / (np.abs(offset) + 1e-12)
        sound = np.max([block.spread for block in around], axis=0)
        least = np.maximum(OFFSET, OFFSET_SHARE * sound)
        share = np.clip(np.abs(offset) / least - 1, 0, 1) * np.clip(2 - STEADY * strays, 0, 1)
        significant: Numbers = offset * share
        return significant

    def _decided(self) -> Numbers:
        """The weight of each channel in the block that is next."""
        near = self._around(NEAR)
        peak = np.max([block.power.max(axis=1) for block in near], axis=0)
        if not (peak > 0).any():
            return self._natural(peak) if self._weights is None else self._weights
        weights = self._by_speech(near, peak)
        if weights is None:
            weights = self._natural(peak)
            if all(block.voice is None for block in near):  # who was raised goes on, where no other is in use
                weights = weights * _raise(self._level)
        return self._in_phase(weights, peak)

    def _natural(self, peak: Numbers) -> Numbers:
        """The mean of the audible channels."""
        audible = peak > np.where(self._base > 0, peak, 0).max() * AUDIBLE
        weights = np.where(audible, self._base, 0)
        if not weights.any():  # low frequency effects are all there is
            weights = (np.arange(len(peak)) == peak.argmax()).astype(float)
        shares: Numbers = weights / weights.sum()
        return shares

    def _by_speech(self, near: list[Block], peak: Numbers) -> Numbers | None:
        """Weights by which channels carry speech; None where none does, or none was asked."""
        judged = [(block.voice, block.power) for block in near if block.voice is not None]
        if not judged:
            return None
        voice = np.concatenate([one for one, _ in judged], axis=1)
        power = np.concatenate([one for _, one in judged], axis=1)
        spoken = self._spoken(voice.sum(axis=1))
        if not spoken.any():
            return None
        level = np.array([_loud(row[said]) for row, said in zip(power, voice, strict=True)])
        level[~spoken] = 0
        weights: Numbers = np.where(spoken, self._base * self._gains(level), 0) / self._base[spoken].sum()
        # What nobody speaks on, with no more amplitude than this share of the speech.
        others = ~spoken & (self._base > 0) & (peak > SILENT)
        if others.any():
            loudest = np.sqrt((level * weights**2).max())
            natural = self._base / self._base[spoken].sum()
            # Hum and bass, of which `power` knows little, are drowning too.
            bass = 2 * np.max([block.spread for block in near], axis=0)
            amplitude = np.maximum(np.sqrt(peak), bass)[others]
            most = BESIDE_SPEECH * loudest / (amplitude * natural[others]).sum()
            weights[others] = natural[others] * min(1.0, most)
        return weights

    def _spoken(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which channels carry speech, by their frames of it."""
        spoken = (frames >= SPOKEN_FRAMES) & (self._base > 0)
        if self._centre is not None and spoken[self._centre]:
            spoken &= frames >= LIKE_CENTRE * frames[self._centre]
        return spoken

    def _gains(self, level: Numbers) -> Numbers:
        """How much each channel with speech is raised; `level` is the power of its speech, 0 without."""
        news = _apart(level)
        self._level += np.where(self._level > 0, NEWS, 1) * np.where(news > 0, news - self._level, 0)
        after = [block.loudest for block in self._blocks[self._at :] if block.loudest is not None]
        usual = np.maximum(self._level, _mean_of_some(after, len(level)))
        usual = np.where(usual > 0, usual, level)
        gains = _raise(usual)
        source = int(level.argmax())
        for channel in np.flatnonzero(gains > 1).tolist():
            if not level[channel] or (channel != source and self._repeats(source, channel)):
                gains[channel] = 1
        return gains

    def _repeats(self, source: int, channel: int) -> bool:
        """Whether a channel holds nothing but what another does: at once, or as an echo."""
        products = np.sum([block.products for block in self._around(NEAR)], axis=0)
        if abs(_correlation(products)[source, channel]) > ECHO:
            return True
        power = np.concatenate(
            [block.power[[source, channel]] for block in self._around(ECHO_BLOCKS)], axis=1
        )
        first, second = (_envelope(row) for row in power)
        length = len(first)
        likeness = [
            _likeness(first[max(0, -lag) : length - max(0, lag)], second[max(0, lag) : length + min(0, lag)])
            for lag in ECHO_FRAMES
            if length > 2 * abs(lag)
        ]
        return max(likeness, default=0.0) > ECHO

    def _in_phase(self, weights: Numbers, peak: Numbers) -> Numbers:
        """The weights without channels that cancel the reference or hold the same a little later."""
        chosen = np.flatnonzero(weights).tolist()
        strength = weights**2 * peak
        self._refer_to(strength, chosen)
        reference = self._reference
        kept = [
            channel for channel in chosen
            if channel == reference
            or not (self._opposite(channel) or self._delayed(channel, strength))
        ]  # fmt: skip
        if len(kept) == len(chosen):
            return self._sign * weights
        left = np.zeros_like(weights)
        left[kept] = weights[kept] / self._base[kept].sum() * self._base[chosen].sum()
        return self._sign * left

    def _refer_to(self, strength: Numbers, chosen: list[int]) -> None:
        """Keep the reference, or take a much stronger one with the sign that goes on as the last did."""
        best, last = int(strength.argmax()), self._reference
        if last is None or last not in chosen or strength[best] > LOUDER * strength[last]:
            if last is not None and best != last and self._opposite(best):
                self._sign = -self._sign
            self._reference = best

    def _opposite(self, channel: int) -> bool:
        """Whether a channel cancels the reference anywhere around the block that is next."""
        assert self._reference is not None
        pair = [self._reference, channel]
        around = self._around(AROUND)
        whole, parts = (
            [block.products for block in around],
            [part for block in around for part in block.parts],
        )
        return _cancels(whole, pair, OPPOSITE, AUDIBLE) or _cancels(parts, pair, PART_OPPOSITE, PART_POWER)

    def _delayed(self, channel: int, strength: Numbers) -> bool:
        """Whether a channel holds what the reference does, some milliseconds earlier or later."""
        reference = self._reference
        assert reference is not None
        if self._blocks[self._at].voice is None or strength[channel] < 0.1 * strength[reference]:
            return False
        rows = np.concatenate([block.rows[[reference, channel]] for block in self._around(1)], axis=1)
        likeness = _cross_correlation(np.diff(rows))
        least, most = DELAYS
        far = max(np.abs(likeness[least:most]).max(), np.abs(likeness[-most:-least]).max())
        close = np.abs([*likeness[:least], *likeness[-least:]]).max()
        return bool(far > DELAYED and far > close + 0.1)


def _measured(rows: Samples) -> Block:
    mean, spread = rows.mean(axis=1, dtype=np.float64), rows.std(axis=1, dtype=np.float64)
    if len(rows) == 1:  # the rest is there to compare channels
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


def _mix(rows: Samples, before: Numbers, after: Numbers) -> Samples:
    """The channels by their weights, which go over from those before to those after."""
    mixed: Samples = after.astype(np.float32) @ rows
    if not np.array_equal(before, after):
        share = np.linspace(1, 0, rows.shape[1], dtype=np.float32)
        mixed += share * ((before - after).astype(np.float32) @ rows)
    return mixed


def _correlation(products: Numbers) -> Numbers:
    size = np.sqrt(np.diag(products)) + 1e-12
    found: Numbers = products / size[:, None] / size
    return found


def _cancels(products: list[Numbers], pair: list[int], least: float, share: float) -> bool:
    """Whether two channels are opposite in any stretch in which both have some share of their power."""
    both = np.array([one[np.ix_(pair, pair)] for one in products])
    power = np.diagonal(both, axis1=1, axis2=2)
    loud = (power > share * power.max(axis=0)).all(axis=1)
    likeness = both[:, 0, 1] / (np.sqrt(power.prod(axis=1)) + 1e-12)
    return bool((likeness[loud] < least).any())


def _loud(power: Numbers) -> float:
    return float(np.percentile(power, 90)) if len(power) else 0.0


def _raise(usual: Numbers) -> Numbers:
    """How much to raise channels by the usual power of their speech; those where it is 0 not at all."""
    wanted = max(usual.max() * BELOW_LOUDEST, SPEECH_FLOOR)
    gains: Numbers = np.where(usual > 0, np.sqrt(wanted / (usual + 1e-30)), 1).clip(1, MOST_GAIN)
    return gains


def _apart(level: Numbers) -> Numbers:
    """Levels of speech without those that are so far below another that they may be crosstalk of it."""
    return np.where(level >= level.max() * CROSSTALK, level, 0)


def _mean_of_some(known_levels: list[Numbers], channels: int) -> Numbers:
    """The mean level of each channel over the blocks that have one."""
    known = np.array(known_levels).reshape(-1, channels)
    mean: Numbers = known.sum(axis=0) / np.maximum((known > 0).sum(axis=0), 1)
    return mean


def _envelope(power: Numbers) -> Numbers:
    """Level by frame in dB, what is far below the loudest all alike."""
    level = 10 * np.log10(power + 1e-12)
    clipped: Numbers = np.maximum(level, np.percentile(level, 95) - ECHO_RANGE)
    return clipped


def _likeness(first: Numbers, second: Numbers) -> float:
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / (np.sqrt((first @ first) * (second @ second)) + 1e-12))


def _cross_correlation(pair: Samples) -> Numbers:
    """Likeness of two rows by how many samples the first is later; negative ones count from the end."""
    size = 1 << int(2 * pair.shape[1] - 1).bit_length()
    first, second = np.fft.rfft(pair.astype(np.float64), size)
    found: Numbers = np.fft.irfft(first * second.conj(), size)
    found /= np.sqrt(np.prod(np.sum(np.square(pair, dtype=np.float64), axis=1))) + 1e-12
    return found
