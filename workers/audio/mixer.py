"""Mixes the channels of a recording into one. The weights of a block depend on the seconds around it.

Samples wait here for some seconds, so that a decision can use the blocks after it. Blocks are counted from
the first sample on, so the result does not depend on how the samples were cut into calls.

- A constant offset (DC), as of a cheap sound card, is subtracted if it is large compared with the sound.
- Channels with the same content are averaged. Inaudible channels are left out, as each would make the mean
  quieter. A channel that would cancel the others, or that holds the same sound some milliseconds later, is
  left out too.
- If channels differ, voice activity detection finds those with speech. A quiet channel with speech, such as
  the far end of a telephone call, is raised, unless it only repeats a louder one (crosstalk, echo). A channel
  without speech, such as music around the centre of 5.1, is kept quieter than those with speech.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.audio import channels, vad
from workers.audio.channels import Block, Numbers
from workers.audio.sound import Samples

BLOCK = channels.BLOCK  # samples that get one decision: half a second
# Blocks after the present one for which a decision waits, and blocks before it that are kept. With up to
# `MANY` channels it waits ten seconds: then a quiet channel is raised also before a loud one has its first
# speech. With more channels it waits for less time, to save memory.
AHEAD, AHEAD_OF_MANY, MANY, BEHIND = 20, 5, 8, 5
# A channel carries speech if there is some within so many blocks, so it is raised before a word begins.
NEAR = 3
# A channel is in use if it holds sound in the last so many blocks, which are all blocks near one that is
# decided.
RECENT = 2 * NEAR + 1
# A channel that cancels another within so many blocks before or after is left out.
AROUND = 2

# Power (`levels.powers`) below which a channel is silent: -80 dB.
SILENT = 1e-8
# Share of the loudest channel's power (-30 dB) from which a channel is audible, if no speech is detected.
AUDIBLE = 1e-3
# Correlation from which two channels hold the same sound, and below which they cancel each other.
SAME, OPPOSITE = 0.9, -0.4
# As `OPPOSITE`, for an eighth of a second, in which two voices may correlate by chance. The part must have at
# least the second number as its share of the power of the loudest part (-20 dB).
PART_OPPOSITE, PART_POWER = -0.8, 1e-2
# A channel becomes the reference of phases if it has so many times the power of the present reference.
LOUDER = 4.0
# Frames of speech (an eighth of a second) that a channel with speech has at least.
SPOKEN_FRAMES = 4
# A channel with speech is raised to 6 dB below the loudest one or to -25 dB, whichever is more, but by 40 dB
# at most.
BELOW_LOUDEST, SPEECH_FLOOR, MOST_GAIN = 0.25, 10**-2.5, 100.0
# The weight of a new block in the moving average of the power of a channel's speech (about ten seconds).
NEW_WEIGHT = 0.05
# Speech more than 15 dB below that of another channel at the same time may be crosstalk. It is ignored when
# the level of its channel is measured.
CROSSTALK = 10**-1.5
# The sum of all channels without speech stays 18 dB below the speech.
BESIDE_SPEECH = 0.125
# If the centre has speech, another channel has speech only with at least this share of its frames of speech.
LIKE_CENTRE = 0.8
# An echo comes up to 0.64 s later. These are: the least correlation of the two envelopes, the lags in frames,
# and how many blocks before and after are compared.
ECHO, ECHO_FRAMES, ECHO_BLOCKS = 0.7, range(-2, 21), 4
# The same sound in two channels with a delay of so many samples (0.25 to 50 ms) would be comb-filtered by
# mixing. The second number is the least correlation.
DELAYS, DELAYED = (4, 800), 0.7
# An offset is subtracted in part if it is above -60 dB and above this share of the sound, and whole from
# twice that on.
OFFSET, OFFSET_SHARE = 1e-3, 0.5
# An offset that varies from block to block is rumble. If it varies by more than 1 / `STEADY` of itself it is
# subtracted in part, from 2 / `STEADY` on not at all.
STEADY = 5.0
# For voice activity detection, a channel below -45 dB is raised to -25 dB, by 50 dB at most.
QUIET_VOICE, RAISED_VOICE, MOST_RAISED = 10**-4.5, 10**-2.5, 1e5

# The weight of the channels of some loudspeakers, which hold little or no speech; that of others is 1.
_WEIGHTS = {"FC": 1.0, "LFE": 0.0, "BL": 0.5, "BR": 0.5, "BC": 0.5, "SL": 0.5, "SR": 0.5}


class Mixer:
    """Mixes a stream of channels into one of mono samples, of the same length and some seconds later.

    All methods measure or weight the same window of blocks, so the class has more than 200 lines.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """A mixer of the channels with these names, such as `FL`, `FC` and `LFE` (libav's)."""
        self._base = np.array([_WEIGHTS.get(name, 1.0) for name in names])
        self._ahead = NEAR + 1 if len(names) == 1 else AHEAD if len(names) <= MANY else AHEAD_OF_MANY
        self._centre = names.index("FC") if len(names) >= 5 and "FC" in names else None
        self._pending: list[Samples] = []
        self._blocks: list[Block] = []
        self._at = 0  # the number of the next block to be mixed
        self._detectors: list[vad.SileroDetector] = []  # one for each channel, while channels differ
        self._level = np.zeros(len(names))  # usual power of each channel's speech
        self._reference: int | None = None  # the channel with which the phases of others are compared
        self._sign = 1.0
        self._weights: Numbers | None = None  # of the block before

    def feed(self, rows: Samples) -> Iterator[Samples]:
        """The mono samples that are ready after these; `rows` has the shape (channels, samples)."""
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
        """The remaining mono samples. The levels of the channels are kept, as the same channels may go on."""
        if any(part.shape[1] for part in self._pending):
            self._take(np.concatenate(self._pending, axis=1))
        while self._at < len(self._blocks):
            yield self._next()
        self._pending, self._blocks, self._at, self._detectors = [], [], 0, []

    def _take(self, rows: Samples) -> None:
        self._blocks.append(channels.measured(rows))
        if len(rows) == 1:
            return
        if not self._differ():
            self._detectors = []
        elif self._detectors:
            self._detect_voice(self._blocks[-1])
        else:  # from the first block that a later decision uses
            self._detectors = [vad.SileroDetector() for _ in rows]
            for block in self._blocks[max(0, self._at - NEAR) :]:
                self._detect_voice(block)

    def _differ(self) -> bool:
        """Whether the channels that are in use hold different things."""
        recent = self._blocks[-RECENT:]
        used = (np.max([block.power.max(axis=1) for block in recent], axis=0) > SILENT) & (self._base > 0)
        if used.sum() < 2:
            return False
        products = np.sum([block.products for block in recent], axis=0)
        first = int(np.where(used, np.diag(products), 0).argmax())
        return bool((np.abs(channels.correlation(products)[first, used]) < SAME).any())

    def _detect_voice(self, block: Block) -> None:
        """Detect voice activity in each channel of a block, with quiet channels raised."""
        place = next(number for number, other in enumerate(self._blocks) if other is block)
        recent = self._blocks[max(0, place - RECENT) : place + 1]
        power = np.max([np.percentile(other.power, 90, axis=1) for other in recent], axis=0)
        gains = np.sqrt(np.minimum(RAISED_VOICE / (power + 1e-30), MOST_RAISED))
        gains[power >= QUIET_VOICE] = 1
        block.voice, block.loudest = np.zeros(block.power.shape, bool), np.zeros(len(block.rows))
        for channel in np.flatnonzero(self._base):
            samples = (block.rows[channel] - block.mean[channel]) * gains[channel]
            whole = np.zeros(block.power.shape[1] * vad.FRAME, np.float32)
            whole[: len(samples)] = np.clip(samples, -1, 1)[: len(whole)]
            voice = self._detectors[channel].process(whole) > vad.SileroDetector.params.offset
            block.voice[channel] = voice
            if voice.sum() >= SPOKEN_FRAMES:
                block.loudest[channel] = channels.loud(block.power[channel, voice])
        block.loudest = _without_crosstalk(block.loudest)

    def _next(self) -> Samples:
        """Mix the next block."""
        rows = self._without_offset()
        if len(rows) == 1:
            mixed: Samples = rows[0]
        else:
            weights = self._next_weights()
            before = weights if self._weights is None else self._weights
            mixed = _mix(rows, before, weights)
            self._weights = weights
        self._at += 1
        if self._at > BEHIND:
            del self._blocks[0]
            self._at -= 1
        return mixed

    def _around(self, count: int, at: int | None = None) -> list[Block]:
        """The block `at`, by default the next one, and up to `count` blocks before and after it."""
        at = self._at if at is None else at
        return self._blocks[max(0, at - count) : at + count + 1]

    def _without_offset(self) -> Samples:
        """The samples of the next block, with the offset of each channel subtracted."""
        places = [max(0, self._at - 1), self._at, min(len(self._blocks) - 1, self._at + 1)]
        offsets = [self._offset(place) for place in places]
        rows = self._blocks[self._at].rows
        if not np.any(offsets):
            return rows
        before, here, after = offsets
        knots = [-0.5 * BLOCK, 0.5 * BLOCK, 1.5 * BLOCK]
        samples = np.arange(rows.shape[1])
        lines = [np.interp(samples, knots, values) for values in zip(before, here, after, strict=True)]
        corrected: Samples = (rows - np.stack(lines)).astype(np.float32)
        return corrected

    def _offset(self, at: int) -> Numbers:
        """The offset to be subtracted from each channel around a block, shape (channels,)."""
        around = self._around(NEAR, at)
        # The last block may be too short to have a mean of its own.
        long = [block for block in around if 4 * block.rows.shape[1] >= BLOCK] or around
        means = np.array([block.mean for block in long])
        if np.abs(means).max() <= OFFSET:
            return np.zeros(means.shape[1])
        # The offset may drift: its variation is measured from a line through the means.
        slope = np.median(np.diff(means, axis=0), axis=0) if len(means) > 2 else np.zeros(means.shape[1])
        detrended = means - slope * (np.arange(len(means)) - min(at, NEAR))[:, None]
        offset = np.median(detrended, axis=0)
        variation = np.abs(detrended - offset).mean(axis=0) / (np.abs(offset) + 1e-12)
        sound = np.max([block.spread for block in around], axis=0)
        least = np.maximum(OFFSET, OFFSET_SHARE * sound)
        share = np.clip(np.abs(offset) / least - 1, 0, 1) * np.clip(2 - STEADY * variation, 0, 1)
        significant: Numbers = offset * share
        return significant

    def _next_weights(self) -> Numbers:
        """The weight of each channel in the next block, shape (channels,)."""
        near = self._around(NEAR)
        peak = np.max([block.power.max(axis=1) for block in near], axis=0)
        if not (peak > 0).any():
            return self._mean_of_audible(peak) if self._weights is None else self._weights
        weights = self._by_speech(near, peak)
        if weights is None:
            weights = self._mean_of_audible(peak)
            # Without voice detection no other channel is in use, so a raised one stays raised.
            if all(block.voice is None for block in near):
                weights = weights * _gains_for(self._level)
        return self._in_phase(weights, peak)

    def _mean_of_audible(self, peak: Numbers) -> Numbers:
        """Weights for the mean of the audible channels."""
        audible = peak > np.where(self._base > 0, peak, 0).max() * AUDIBLE
        weights = np.where(audible, self._base, 0)
        if not weights.any():  # only the channel of low frequency effects is audible
            weights = (np.arange(len(peak)) == peak.argmax()).astype(float)
        shares: Numbers = weights / weights.sum()
        return shares

    def _by_speech(self, near: list[Block], peak: Numbers) -> Numbers | None:
        """Weights that depend on which channels have speech; None if none has, or if it was not detected."""
        detected = [(block.voice, block.power) for block in near if block.voice is not None]
        if not detected:
            return None
        voice, power = (np.concatenate(arrays, axis=1) for arrays in zip(*detected, strict=True))
        spoken = self._spoken(voice.sum(axis=1))
        if not spoken.any():
            return None
        level = np.array([channels.loud(row[speech]) for row, speech in zip(power, voice, strict=True)])
        level[~spoken] = 0
        weights: Numbers = np.where(spoken, self._base * self._gains(level), 0) / self._base[spoken].sum()
        # The amplitude of channels without speech is at most `BESIDE_SPEECH` of that of the speech.
        others = ~spoken & (self._base > 0) & (peak > SILENT)
        if others.any():
            loudest = np.sqrt((level * weights**2).max())
            unraised = self._base / self._base[spoken].sum()
            # Hum and bass mask speech too, but `power` hardly measures them.
            bass = 2 * np.max([block.spread for block in near], axis=0)
            amplitude = np.maximum(np.sqrt(peak), bass)[others]
            most = BESIDE_SPEECH * loudest / (amplitude * unraised[others]).sum()
            weights[others] = unraised[others] * min(1.0, most)
        return weights

    def _spoken(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which channels have speech, shape (channels,); `frames`: the frames of speech in each."""
        spoken = (frames >= SPOKEN_FRAMES) & (self._base > 0)
        if self._centre is not None and spoken[self._centre]:
            spoken &= frames >= LIKE_CENTRE * frames[self._centre]
        return spoken

    def _gains(self, level: Numbers) -> Numbers:
        """The factor by which each channel is raised; `level`: the power of its speech, 0 without speech."""
        new = _without_crosstalk(level)
        self._level += np.where(self._level > 0, NEW_WEIGHT, 1) * np.where(new > 0, new - self._level, 0)
        after = [block.loudest for block in self._blocks[self._at :] if block.loudest is not None]
        usual = np.maximum(self._level, _mean_of_known(after, len(level)))
        usual = np.where(usual > 0, usual, level)
        gains = _gains_for(usual)
        source = int(level.argmax())
        for channel in np.flatnonzero(gains > 1).tolist():
            if not level[channel] or (channel != source and self._repeats(source, channel)):
                gains[channel] = 1
        return gains

    def _repeats(self, source: int, channel: int) -> bool:
        """Whether a channel holds only the sound of `source`: at the same time, or as an echo."""
        products = np.sum([block.products for block in self._around(NEAR)], axis=0)
        if abs(channels.correlation(products)[source, channel]) > ECHO:
            return True
        power = np.concatenate(
            [block.power[[source, channel]] for block in self._around(ECHO_BLOCKS)], axis=1
        )
        first, second = (channels.envelope(row) for row in power)
        length = len(first)
        likeness = [
            channels.likeness(
                first[max(0, -lag) : length - max(0, lag)], second[max(0, lag) : length + min(0, lag)]
            )
            for lag in ECHO_FRAMES
            if length > 2 * abs(lag)
        ]
        return max(likeness, default=0.0) > ECHO

    def _in_phase(self, weights: Numbers, peak: Numbers) -> Numbers:
        """The weights without the channels that cancel the reference or repeat it a little later."""
        chosen = np.flatnonzero(weights).tolist()
        strength = weights**2 * peak
        self._choose_reference(strength, chosen)
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

    def _choose_reference(self, strength: Numbers, chosen: list[int]) -> None:
        """Keep the reference channel, or take a much louder one, with the sign that continues the phase."""
        best, last = int(strength.argmax()), self._reference
        if last is None or last not in chosen or strength[best] > LOUDER * strength[last]:
            if last is not None and best != last and self._opposite(best):
                self._sign = -self._sign
            self._reference = best

    def _opposite(self, channel: int) -> bool:
        """Whether a channel cancels the reference anywhere around the next block."""
        assert self._reference is not None
        pair = [self._reference, channel]
        around = self._around(AROUND)
        whole = [block.products for block in around]
        parts = [part for block in around for part in block.parts]
        return channels.cancels(whole, pair, OPPOSITE, AUDIBLE) or channels.cancels(
            parts, pair, PART_OPPOSITE, PART_POWER
        )

    def _delayed(self, channel: int, strength: Numbers) -> bool:
        """Whether a channel holds the sound of the reference some milliseconds earlier or later."""
        reference = self._reference
        assert reference is not None
        if self._blocks[self._at].voice is None or strength[channel] < 0.1 * strength[reference]:
            return False
        rows = np.concatenate([block.rows[[reference, channel]] for block in self._around(1)], axis=1)
        likeness = channels.cross_correlation(np.diff(rows))
        least, most = DELAYS
        far = max(np.abs(likeness[least:most]).max(), np.abs(likeness[-most:-least]).max())
        close = np.abs([*likeness[:least], *likeness[-least:]]).max()
        return bool(far > DELAYED and far > close + 0.1)


def _mix(rows: Samples, before: Numbers, after: Numbers) -> Samples:
    """The weighted sum of the channels, with weights that change linearly from `before` to `after`.

    Args:
        rows: The samples, shape (channels, samples).
        before: The weights at the first sample, shape (channels,).
        after: The weights at the last sample, shape (channels,).
    """
    mixed: Samples = after.astype(np.float32) @ rows
    if not np.array_equal(before, after):
        share = np.linspace(1, 0, rows.shape[1], dtype=np.float32)
        mixed += share * ((before - after).astype(np.float32) @ rows)
    return mixed


def _gains_for(usual: Numbers) -> Numbers:
    """The factor by which each channel is raised, by the usual power of its speech; 1 if that is 0."""
    wanted = max(usual.max() * BELOW_LOUDEST, SPEECH_FLOOR)
    gains: Numbers = np.where(usual > 0, np.sqrt(wanted / (usual + 1e-30)), 1).clip(1, MOST_GAIN)
    return gains


def _without_crosstalk(level: Numbers) -> Numbers:
    """The levels, with 0 for each that is so far below the highest one that it may be crosstalk."""
    return np.where(level >= level.max() * CROSSTALK, level, 0)


def _mean_of_known(known_levels: list[Numbers], channels: int) -> Numbers:
    """The mean level of each channel over the blocks that have one."""
    known = np.array(known_levels).reshape(-1, channels)
    mean: Numbers = known.sum(axis=0) / np.maximum((known > 0).sum(axis=0), 1)
    return mean
