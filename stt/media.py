"""Opening a recording with libav so that an untrusted file can only be what it is: one media file.

Used by the web role's probe and by the engine, so both judge a file alike.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import Container, InputContainer
from av.packet import Packet as AnyPacket
from av.stream import Disposition
from av.video.stream import VideoStream

from stt import unreadable

Packet: TypeAlias = "AnyPacket[AudioStream]"

# Demuxers of files that hold sound themselves. Playlists (hls, dash), lists of files (concat, imf), devices,
# network protocols and pictures are left out on purpose: a file named talk.mp3 may be any of them, and
# libav would open what it points to. Raw formats without a header are left out too: anything fits those.
DEMUXERS = (
    "aac", "ac3", "ac4", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "ast", "au", "avi", "caf",
    "dsf", "dss", "dts", "dtshd", "eac3", "flac", "flv", "gsm", "iff", "ircam", "lc3", "loas",
    "matroska", "webm", "mlp", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mp3", "mpc", "mpc8", "mpeg",
    "mpegts", "mxf", "nistsphere", "nut", "ogg", "qcp", "rm", "sds", "shn", "sox", "tak", "truehd",
    "tta", "voc", "w64", "wav", "wtv", "wv", "xwma",
)  # fmt: skip

_OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "file",
    "enable_drefs": "0",  # a QuickTime movie may name other files as its tracks
}
# A longer recording is none: its container tells nonsense.
_LONGEST_SECONDS = 366 * 86400.0
# Tracks a viewer chooses on purpose; what people mean by "the sound" is another one.
_SIDE_TRACKS = Disposition.comment | Disposition.visual_impaired | Disposition.karaoke
_STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


class MediaError(Exception):
    """A file that cannot be transcribed, now or ever; the text says why and what to do.

    `code` is one of `not_media`, `no_audio_track`, `empty_audio`, `encrypted`, `unsupported_codec`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def open_media(path: str | os.PathLike[str]) -> InputContainer:
    """Open a media file; the caller closes it.

    Raises:
        MediaError: `not_media`.
        OSError: the file itself cannot be read.
    """
    with open(path, "rb"):  # noqa: PTH123  so that a missing file is not called "not media"
        pass
    try:
        container = av.open(f"file:{os.fspath(path)}", options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        if not _is_to_blame(path, error):
            raise
        raise _not_media(path) from None
    if container.format.name == "gsm" and not unreadable.is_gsm(path):
        container.close()
        raise _not_media(path)
    return container


def audio_stream(container: InputContainer) -> AudioStream:
    """The track that people mean: the default one, else the one libav finds best.

    Raises:
        MediaError: `no_audio_track`, `unsupported_codec`, `encrypted`, or `empty_audio` for a
            sound file that ends before its first sample.
    """
    tracks = container.streams.audio
    if not tracks:
        if not container.streams and container.format.name == "flac":
            raise empty_audio()  # its only track is told by the first frame
        raise _explained(_path(container), "no_audio_track", "There is no sound in this file. "
            "Please export it again with its audio track.")  # fmt: skip
    readable = [track for track in tracks if track.codec_context is not None]
    if not readable:
        raise unsupported_codec(tracks[0])
    chosen = _chosen(container, readable)
    if "enc_key_id" in chosen.metadata or unreadable.is_protected(_path(container), tag(chosen)):
        raise encrypted()
    return chosen


def inspect(path: str | os.PathLike[str], packets: int | None = None) -> tuple[str, float | None]:
    """Kind of a file (`audio` or `video`) and its length in seconds where the container says so.

    Some sound is decoded to be sure of it, from no more than `packets` packets.

    Raises:
        MediaError: it cannot be transcribed.
        OSError: the file cannot be read.
    """
    with open_media(path) as container:
        stream = audio_stream(container)
        _hear_something(container, stream, packets)
        length = container.duration
        seconds = length / av.time_base if length and length > 0 else None
        return _kind(container), seconds if seconds and seconds < _LONGEST_SECONDS else None


def packets_of(container: InputContainer, stream: AudioStream) -> Iterator[Packet]:
    """The packets of a stream; a file that breaks off ends there without an error.

    Raises:
        OSError: the file cannot be read any further, through no fault of what is in it.
    """
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed, None)
        except av.FFmpegError as error:
            if not _is_to_blame(_path(container), error):
                raise
            return
        if packet is None:
            return
        yield packet


def _path(container: Container) -> str:
    return container.name.removeprefix("file:")


def _not_media(path: str | os.PathLike[str]) -> MediaError:
    return _explained(
        path,
        "not_media",
        "This is not an audio or video file, or it is damaged beyond reading. "
        "Please check that it plays on your computer and send it again.",
    )


def _explained(path: str | os.PathLike[str], code: str, sentence: str) -> MediaError:
    """The error of a file, by what its bytes tell, else as given."""
    return MediaError(*(unreadable.reason(path) or (code, sentence)))


def _is_to_blame(path: str | os.PathLike[str], error: av.FFmpegError) -> bool:
    """Whether what is in the file made libav fail, not the machine.

    Some of its demuxers say EIO where a file is cut short; only reading it tells whether its disk fails.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return False
    return not isinstance(error, OSError) or _is_readable(path)


def _is_readable(path: str | os.PathLike[str]) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            while file.read(2**20):
                pass
    except OSError:
        return False
    return True


def tag(stream: AudioStream) -> str:
    """The container's four-letter name of a stream's codec, such as `mp4a`; empty if it has none."""
    return stream.codec_context.codec_tag.strip("\x00") if stream.codec_context else ""


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


def undecodable(stream: AudioStream, packet: Packet) -> MediaError:
    """Why this packet, and with it all the sound, cannot be decoded."""
    if packet.has_sidedata("encryption_info") or packet.has_sidedata("encryption_init_info"):
        return encrypted()
    return unsupported_codec(stream)


def unsupported_codec(stream: AudioStream) -> MediaError:
    """The error of a file whose sound libav cannot decode."""
    codec = stream.codec_context
    return _explained(
        _path(stream.container),
        "unsupported_codec",
        "The sound in this file is in a format that cannot be decoded"
        f"{f' ({codec.name})' if codec else ''}. "
        "Please convert it to MP3, M4A, FLAC or WAV and send it again.",
    )


def _chosen(container: InputContainer, tracks: list[AudioStream]) -> AudioStream:
    spoken = [track for track in tracks if not track.disposition & _SIDE_TRACKS] or tracks
    best = container.streams.best("audio")  # libav's own choice: the default track, then by quality
    return next((track for track in spoken if best and track.index == best.index), spoken[0])


def _kind(container: InputContainer) -> str:
    moving = [track for track in container.streams.video if _moves(track)]
    return "video" if moving else "audio"


def _moves(track: VideoStream) -> bool:
    """Whether it is a film; a cover picture is a video stream too."""
    return not track.disposition & _STILL


def _hear_something(container: InputContainer, stream: AudioStream, packets: int | None) -> None:
    failed: Packet | None = None
    for seen, packet in enumerate(packets_of(container, stream)):
        if packets is not None and seen >= packets:
            break
        try:
            if any(frame.samples for frame in packet.decode()):
                return
        except av.FFmpegError:
            failed = packet
    reason = unreadable.reason(_path(container))
    raise MediaError(*reason) if reason else undecodable(stream, failed) if failed else empty_audio()
