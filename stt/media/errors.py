"""What is wrong with a recording, and what to do about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

from stt.codes import CodedError, ErrorCode
from stt.media import unreadable

if TYPE_CHECKING:  # the web process has no libav; packets are generic only for a type checker
    from av.audio.stream import AudioStream
    from av.container import Container
    from av.packet import Packet as AnyPacket

Packet: TypeAlias = "AnyPacket[AudioStream]"

_LONGEST_TAG = 60  # characters of a track's title that are shown


class MediaError(CodedError):
    """A file that cannot be transcribed, now or ever; the text says why and what to do.

    `code` is one of `not_media`, `no_audio_track`, `empty_audio`, `encrypted`, `unsupported_codec`,
    `too_long`, `too_much_memory`, `too_slow`.
    """


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
    return MediaError(ErrorCode.EMPTY_AUDIO)


def encrypted() -> MediaError:
    """The error of a file that is protected by DRM."""
    return MediaError(ErrorCode.ENCRYPTED)


def too_long(longest: float, seconds: float | None = None) -> MediaError:
    """The error of a recording that is longer than this server takes; `seconds` where that is known."""
    if seconds:
        return MediaError(ErrorCode.TOO_LONG, reason="length", longest=longest, seconds=seconds)
    return MediaError(ErrorCode.TOO_LONG, longest=longest)


def too_much_memory() -> MediaError:
    """The error of a file that takes more memory to decode than any recording does."""
    return MediaError(ErrorCode.TOO_MUCH_MEMORY)


def too_slow() -> MediaError:
    """The error of a file that takes longer to decode than to play."""
    return MediaError(ErrorCode.TOO_SLOW)


def undecodable(stream: AudioStream, packet: Packet) -> MediaError:
    """Why this packet, and with it all the sound, cannot be decoded."""
    if packet.has_sidedata("encryption_info") or packet.has_sidedata("encryption_init_info"):
        return encrypted()
    return unsupported_codec(stream)


def unsupported_codec(stream: AudioStream) -> MediaError:
    """The error of a file whose sound libav cannot decode."""
    codec = stream.codec_context
    parameters = {"reason": "codec", "codec": codec.name} if codec else {}
    return explained(path_of(stream.container), ErrorCode.UNSUPPORTED_CODEC, **parameters)


def path_of(container: Container) -> str:
    return container.name.removeprefix("file:")


def explained(path: str | os.PathLike[str], code: ErrorCode, **parameters: Any) -> MediaError:
    """The error whose reason the file's bytes show (`stt.media.unreadable`), else the given one."""
    if found := unreadable.reason(path):
        return from_bytes(found)
    return MediaError(code, **parameters)


def from_bytes(found: unreadable.Reason) -> MediaError:
    """The error of what the file's bytes show."""
    code, reason = found
    return MediaError(code, reason=reason) if reason else MediaError(code)
