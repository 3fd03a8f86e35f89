"""The errors of recordings that cannot be transcribed. `stt.codes` has their sentences."""

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
    """A file cannot be transcribed, and trying again does not help. The text says why and what to do.

    `code` is one of `not_media`, `no_audio_track`, `empty_audio`, `encrypted`, `unsupported_codec`,
    `too_long`, `too_much_memory`, `too_slow`.
    """


def printable(text: str) -> str:
    """A text from a file's metadata as one short line of printable characters, for sentences and the log."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= _LONGEST_TAG else f"{line[:_LONGEST_TAG]}…"


def codec_tag(stream: AudioStream) -> str:
    """The container's four-letter name of a stream's codec, such as `mp4a`; empty if it has none."""
    try:
        return stream.codec_context.codec_tag.strip("\x00") if stream.codec_context else ""
    except UnicodeDecodeError:  # a WAV has a number there, such as 255 for AAC
        return ""


def listed_codec_tag(stream: AudioStream) -> str:
    """As `codec_tag`, also for a stream without a decoder, whose tag is in the metadata."""
    return codec_tag(stream) or str(stream.metadata.get("codec_tag", ""))


def empty_audio() -> MediaError:
    """The error of a file without any sample of sound."""
    return MediaError(ErrorCode.EMPTY_AUDIO)


def encrypted() -> MediaError:
    """The error of a file that is protected by DRM."""
    return MediaError(ErrorCode.ENCRYPTED)


def too_long(longest: float, seconds: float | None = None) -> MediaError:
    """The error of a recording of `seconds` (None: unknown) where only `longest` seconds are accepted."""
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
    """The error of a file in which a packet cannot be decoded: encrypted, or an unsupported codec."""
    if packet.has_sidedata("encryption_info") or packet.has_sidedata("encryption_init_info"):
        return encrypted()
    return unsupported_codec(stream)


def unsupported_codec(stream: AudioStream) -> MediaError:
    """The error of a file whose sound libav cannot decode."""
    codec = stream.codec_context
    parameters = {"reason": "codec", "codec": codec.name} if codec else {}
    return explained(path_of(stream.container), ErrorCode.UNSUPPORTED_CODEC, **parameters)


def path_of(container: Container) -> str:
    """The path of an open file."""
    return container.name.removeprefix("file:")


def explained(path: str | os.PathLike[str], code: ErrorCode, **parameters: Any) -> MediaError:
    """The error that the bytes of a file show (`stt.media.unreadable`), else the given one.

    Args:
        path: The file.
        code: The code of the error if the bytes show nothing.
        **parameters: The parameters of its sentence.
    """
    if found := unreadable.reason(path):
        return from_bytes(found)
    return MediaError(code, **parameters)


def from_bytes(found: unreadable.Reason) -> MediaError:
    """The error for a result of `unreadable.reason`."""
    code, reason = found
    return MediaError(code, reason=reason) if reason else MediaError(code)
