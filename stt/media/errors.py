"""What is wrong with a recording, and what to do about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from stt.media import unreadable

if TYPE_CHECKING:  # the web process has no libav; packets are generic only for a type checker
    from av.audio.stream import AudioStream
    from av.container import Container
    from av.packet import Packet as AnyPacket

Packet: TypeAlias = "AnyPacket[AudioStream]"

_LONGEST_TAG = 60  # characters of a track's title that are shown


class MediaError(Exception):
    """A file that cannot be transcribed, now or ever; the text says why and what to do.

    `code` is one of `not_media`, `no_audio_track`, `empty_audio`, `encrypted`, `unsupported_codec`,
    `too_long`, `too_much_memory`, `too_slow`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def printable(text: str) -> str:
    """A tag of a file as it may stand in a sentence or in the log: one short line of printable characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= _LONGEST_TAG else f"{line[:_LONGEST_TAG]}…"


def codec_tag(stream: AudioStream) -> str:
    """The container's four-letter name of a stream's codec, such as `mp4a`; empty if it has none."""
    try:
        return stream.codec_context.codec_tag.strip("\x00") if stream.codec_context else ""
    except UnicodeDecodeError:  # a WAV has a number there, such as 255 for AAC
        return ""


def listed_codec_tag(stream: AudioStream) -> str:
    """As `codec_tag`, also for a stream without a decoder."""
    return codec_tag(stream) or str(stream.metadata.get("codec_tag", ""))


def empty_audio() -> MediaError:
    """The error of a file in which there is no sample of sound."""
    return MediaError(
        "empty_audio",
        "The file has an audio track, but no sound can be read from it. "
        "Please check that it plays on your computer and send it again.",
    )


def encrypted() -> MediaError:
    """The error of a file that is protected by DRM."""
    return MediaError(*unreadable.COPY_PROTECTED)


def too_long(longest: float, seconds: float | None = None) -> MediaError:
    """The error of a recording that is longer than this server takes; `seconds` where that is known."""
    length = f"is {_hours(seconds)} long; " if seconds else "is longer than this server takes: "
    return MediaError(
        "too_long",
        f"The recording {length}at most {_hours(longest)} are taken (STT_MAX_DURATION_SECONDS). "
        "Please send it in parts.",
    )


def too_much_memory() -> MediaError:
    """The error of a file that takes more memory to decode than any recording does."""
    return MediaError(
        "too_much_memory",
        "Reading the sound of this file takes far more memory than that of a recording: it is damaged. "
        "Please convert it to MP3, M4A, FLAC or WAV and send it again.",
    )


def too_slow() -> MediaError:
    """The error of a file that takes longer to decode than to play."""
    return MediaError(
        "too_slow",
        "Reading the sound of this file takes longer than playing it: it is damaged. "
        "Please convert it to MP3, M4A, FLAC or WAV and send it again.",
    )


def undecodable(stream: AudioStream, packet: Packet) -> MediaError:
    """Why this packet, and with it all the sound, cannot be decoded."""
    if packet.has_sidedata("encryption_info") or packet.has_sidedata("encryption_init_info"):
        return encrypted()
    return unsupported_codec(stream)


def unsupported_codec(stream: AudioStream) -> MediaError:
    """The error of a file whose sound libav cannot decode."""
    codec = stream.codec_context
    return explained(
        path_of(stream.container),
        "unsupported_codec",
        "The sound in this file is in a format that cannot be decoded"
        f"{f' ({codec.name})' if codec else ''}. "
        "Please convert it to MP3, M4A, FLAC or WAV and send it again.",
    )


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes = round(seconds / 60)
    parts = [f"{minutes // 60} h" if minutes >= 60 else "", f"{minutes % 60} min" if minutes % 60 else ""]
    return " ".join(part for part in parts if part)


def path_of(container: Container) -> str:
    return container.name.removeprefix("file:")


def explained(path: str | os.PathLike[str], code: str, sentence: str) -> MediaError:
    """The error whose reason the file's bytes show (`stt.media.unreadable`), else the given one."""
    return MediaError(*(unreadable.reason(path) or (code, sentence)))
