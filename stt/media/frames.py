"""Checks the formats of decoded frames, and resamples the frames."""

from __future__ import annotations

import av
import av.subtitles.codeccontext
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from stt.codes import ErrorCode
from stt.media.errors import MediaError

RATE = 16_000  # samples a second, as Whisper takes them
PIECE = RATE // 4  # samples in a frame after resampling
# Limits of the format. For a DSD recording libav gives the number of bytes a second as the rate, 3 MHz for
# DSD512. libswresample takes up to 64 channels. `MOST_VALUES` is for all channels of one frame, before and
# after resampling; the largest frame of real codecs has 2^22.
LEAST_RATE, MOST_RATE = 1_000, 3_072_000
MOST_CHANNELS = 64
MOST_VALUES = 2**24
# A resampler holds a fraction of a second. If it seems to hold more, it has lost sound: if it cannot allocate
# memory, it raises no error.
MOST_HELD_SECONDS = 1.0
# The length by the container is ignored if the length estimated from the bytes is so many times longer or
# shorter.
IMPLAUSIBLE = 3.0


def format_of(track: AudioStream | AudioFrame) -> tuple[int, int]:
    """Rate and number of channels of a frame, or of a track by its header, where 0 is unknown."""
    if isinstance(track, AudioFrame):
        return track.sample_rate, track.layout.nb_channels
    codec = track.codec_context
    return codec.sample_rate or 0, codec.channels or 0


def check_format(rate: int, channels: int) -> None:
    """Refuse a rate or number of channels that no recording has, before memory is allocated. 0 is unknown.

    Raises:
        MediaError: `unsupported_codec`.
    """
    if rate and not LEAST_RATE <= rate <= MOST_RATE:
        raise MediaError(ErrorCode.UNSUPPORTED_CODEC, reason="rate", rate=rate)
    if channels > MOST_CHANNELS:
        raise MediaError(
            ErrorCode.UNSUPPORTED_CODEC, reason="channels", channels=channels, most=MOST_CHANNELS
        )


def check_frame(frame: AudioFrame) -> None:
    """Refuse a frame that would take far more memory than those of a recording.

    Raises:
        MediaError: `unsupported_codec`.
    """
    rate, channels = format_of(frame)
    if rate <= 0 or channels <= 0:
        raise MediaError(ErrorCode.UNSUPPORTED_CODEC, reason="no_format")
    check_format(rate, channels)
    values = frame.samples * channels
    if max(values, values * RATE // rate) > MOST_VALUES:
        raise MediaError(ErrorCode.UNSUPPORTED_CODEC, reason="blocks", samples=frame.samples)


def make_resampler(frame: AudioFrame) -> AudioResampler:
    """A resampler from the format of this frame to `RATE`, in pieces of `PIECE` samples; the channels stay.

    Raises:
        MediaError: `unsupported_codec`, no recording has this format.
    """
    check_frame(frame)
    return AudioResampler("flt", frame.layout, RATE, frame_size=PIECE)


def resample(resampler: AudioResampler, frame: AudioFrame | None) -> list[AudioFrame]:
    """The resampled frames that are ready after this one; None: all that remain.

    Raises:
        MediaError: `unsupported_codec`, libav cannot resample this format.
    """
    try:
        return resampler.resample(frame)
    except MemoryError:
        raise
    except av.FFmpegError:
        if frame is None:
            raise MediaError(ErrorCode.UNSUPPORTED_CODEC, reason="mixing") from None
        channels = frame.layout.nb_channels
        raise MediaError(ErrorCode.UNSUPPORTED_CODEC, reason="mixing_channels", channels=channels) from None
