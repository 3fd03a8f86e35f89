"""Opens untrusted files with libav, so that nothing but one media file is read.

The web's probe and the engine both use it, so both accept the same files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av

# PyAV imports these when it opens the first file. In a sandbox they could not be imported any more.
import av.subtitles.codeccontext
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from stt.codes import ErrorCode
from stt.media import unreadable
from stt.media.errors import (
    MediaError,
    Packet,
    codec_tag,
    empty_audio,
    encrypted,
    explained,
    from_bytes,
    listed_codec_tag,
    path_of,
    printable,
    too_long,
    undecodable,
    unsupported_codec,
)
from stt.media.frames import (
    IMPLAUSIBLE,
    MOST_HELD_SECONDS,
    RATE,
    check_format,
    check_frame,
    format_of,
    make_resampler,
    resample,
)
from stt.media.parts import Part, View, parts

# Demuxers of formats that hold sound themselves. Playlists (hls, dash), lists of files (concat, imf),
# devices, network protocols and pictures are left out on purpose: a file named talk.mp3 may have any of these
# formats, and libav would open the files that it names. Raw formats without a header are left out too: any
# bytes fit them.
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
# A length above this is an error of the container.
_LONGEST_SECONDS = 366 * 86400.0
# Tracks that a viewer chooses on purpose, such as a commentary.
_SIDE_TRACKS = Disposition.comment | Disposition.visual_impaired | Disposition.karaoke
# An Apple device records the same sound a second time in this codec, which nobody else decodes.
_SPATIAL_TAGS = {"apac"}
# Errors of a demuxer after which reading is tried again: in a row, and in all.
_ERRORS_IN_A_ROW, _MOST_ERRORS = 10, 1000
# Parts of a file whose lengths are added up. The length of the other parts is estimated from their bytes.
_PARTS_MEASURED = 50
_STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


def open_media(path: str | os.PathLike[str], part: Part | None = None) -> InputContainer:
    """Open a media file, or a part of it. The caller closes it.

    Raises:
        MediaError: `not_media`.
        OSError: the file itself cannot be read.
    """
    with open(path, "rb"):  # noqa: PTH123  so that a missing file is not called "not media"
        pass
    try:
        source = f"file:{os.fspath(path)}" if part is None or part.whole else View(path, part)
        container = av.open(source, "r", options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        if not _is_to_blame(path, error):
            raise
        raise _not_media(path) from None
    if container.format.name == "gsm" and not unreadable.is_gsm(path):
        container.close()
        raise _not_media(path)
    return container


def audio_stream(container: InputContainer) -> AudioStream:
    """The default track, else the one that libav rates best (`av_find_best_stream`).

    Raises:
        MediaError: `no_audio_track`, `unsupported_codec`, `encrypted`, or `empty_audio` for a
            sound file that ends before its first sample.
    """
    return audio_tracks(container)[0]


def audio_tracks(container: InputContainer) -> list[AudioStream]:
    """The tracks for which there is a decoder: first that of `audio_stream`, last commentaries and the like.

    Raises:
        MediaError: as `audio_stream`.
    """
    found = container.streams.audio
    if not found:
        if not container.streams and container.format.name == "flac":
            raise empty_audio()  # libav finds its only track with the first frame
        raise explained(path_of(container), ErrorCode.NO_AUDIO_TRACK)
    readable = [track for track in found if track.codec_context is not None]
    if not readable:
        raise unsupported_codec(found[0])
    free = [track for track in readable if not _is_protected(container, track)]
    if not free:
        raise encrypted()
    chosen = _chosen(container, free)
    return sorted(free, key=lambda track: (track.index != chosen.index, is_aside(track), track.index))


def is_aside(track: AudioStream) -> bool:
    """Whether it is a commentary, an audio description or a karaoke track."""
    return bool(track.disposition & _SIDE_TRACKS)


def unreadable_tracks(container: InputContainer) -> list[AudioStream]:
    """The tracks that cannot be decoded, except those that are a copy of another one."""
    found = [track for track in container.streams.audio if not is_aside(track)]
    return [
        track
        for track in found
        if (track.codec_context is None or _is_protected(container, track))
        and listed_codec_tag(track) not in _SPATIAL_TAGS
    ]


def name_of(container: InputContainer, track: AudioStream) -> str:
    """A track's name for people, such as `audio track 2 (eng, "Commentary")`."""
    number = [one.index for one in container.streams.audio].index(track.index) + 1
    language, title = (printable(track.metadata.get(key, "")) for key in ("language", "title"))
    details = [language] if language not in ("", "und") else []
    details += [f'"{title}"'] if title else []
    return f"audio track {number}" + (f" ({', '.join(details)})" if details else "")


def inspect(
    path: str | os.PathLike[str], packets: int | None = None, longest: float = 0.0
) -> tuple[str, float | None]:
    """The kind of a file (`audio` or `video`) and its length in seconds, None if the container has none.

    The first second of sound of one of its tracks is decoded and resampled, to prove that it can be.

    Args:
        path: The file. packets: Decode no more packets than this of each track; None: no limit. longest: A
            recording that is longer by its header, in seconds, is refused, unless its bytes cannot hold so
            much sound. 0: no limit.

    Raises:
        MediaError: it cannot be transcribed.
        OSError: the file cannot be read.
    """
    found = parts(path)
    failure: MediaError | None = None
    for part in found[:_PARTS_MEASURED]:
        try:
            kind, pace = _inspect_part(path, part, packets)
        except MediaError as error:
            failure = failure or error
        else:
            length = _length(path, found)
            if length is not None:
                check_length(longest, length, Path(path).stat().st_size / pace)
            return kind, length
    raise failure or empty_audio()


def check_length(longest: float, seconds: float, by_bytes: float) -> None:
    """Refuse a recording that is too long by its header, unless its bytes cannot hold that much.

    Args:
        longest: Seconds that are allowed; 0: no limit.
        seconds: The length in seconds by the header.
        by_bytes: The length in seconds, estimated from the bytes that a second at the beginning takes.

    Raises:
        MediaError: `too_long`.
    """
    if longest and longest < seconds < by_bytes * IMPLAUSIBLE:
        raise too_long(longest, seconds)


def _inspect_part(path: str | os.PathLike[str], part: Part, packets: int | None) -> tuple[str, float]:
    """The kind of a part of a file, and the number of bytes that a second of its sound takes."""
    with open_media(path, part) as container:
        kind, tracks = _kind(container), [track.index for track in audio_tracks(container)]
    failure: MediaError | None = None
    for track in tracks:
        with open_media(path, part) as container:
            stream = _by_index(container, track)
            try:
                check_format(*format_of(stream))
                return kind, _decode_beginning(container, stream, packets)
            except MediaError as error:
                failure = failure or error
    raise failure or empty_audio()


def _by_index(container: InputContainer, index: int) -> AudioStream:
    return next(track for track in container.streams.audio if track.index == index)


def _length(path: str | os.PathLike[str], found: list[Part]) -> float | None:
    """The length of all parts of a file in seconds, by their containers; None if one has none."""
    seconds, measured = 0.0, found[:_PARTS_MEASURED]
    for part in measured:
        try:
            with open_media(path, part) as container:
                length = (container.duration or 0) / av.time_base
        except MediaError:
            continue
        if not 0 < length < _LONGEST_SECONDS:
            return None
        seconds += length
    share = (measured[-1].end - measured[0].start) / max(1, found[-1].end - found[0].start)
    return seconds / share if seconds and share else None


def packets_of(
    container: InputContainer,
    stream: AudioStream,
    failed: Callable[[av.FFmpegError, bool], None] = lambda error, last: None,
) -> Iterator[Packet]:
    """The packets of a stream. After an error of the demuxer reading is tried again.

    Args:
        container: An open file.
        stream: One of its streams.
        failed: Is called with each error, and whether reading ends with it.

    Raises:
        OSError: reading the file fails, and its content is not the cause.
    """
    in_a_row = in_all = 0
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed, None)
        except av.FFmpegError as error:
            if not _is_to_blame(path_of(container), error):
                raise
            in_a_row, in_all = in_a_row + 1, in_all + 1
            last = in_a_row > _ERRORS_IN_A_ROW or in_all > _MOST_ERRORS
            failed(error, last)
            if last:
                return
            demuxed = container.demux(stream)  # the generator before has ended with the error
            continue
        if packet is None:
            return
        in_a_row = 0 if packet.size else in_a_row
        yield packet


def _is_protected(container: InputContainer, track: AudioStream) -> bool:
    return "enc_key_id" in track.metadata or unreadable.is_protected(path_of(container), codec_tag(track))


def _not_media(path: str | os.PathLike[str]) -> MediaError:
    return explained(path, ErrorCode.NOT_MEDIA)


def _is_to_blame(path: str | os.PathLike[str], error: av.FFmpegError) -> bool:
    """Whether the content of the file is the cause of an error of libav, and not the machine.

    Some demuxers report EIO if a file is cut short. Reading the whole file shows whether the disk fails.
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


def _decode_beginning(container: InputContainer, stream: AudioStream, packets: int | None) -> float:
    """Decode and resample the first second, as the engine will.

    Args:
        container: An open file.
        stream: One of its streams.
        packets: Decode no more packets than this; None: no limit.

    Returns:
        The number of bytes that a second of sound takes.

    Raises:
        MediaError: no sound can be decoded.
        MemoryError: the resampler lost sound.
    """
    failure = empty_audio()
    resampler, source = None, None
    size, decoded, resampled = 0, 0.0, 0.0
    for seen, packet in enumerate(packets_of(container, stream)):
        if decoded >= 1 or (packets is not None and seen >= packets):
            break
        size += packet.size
        try:
            for frame in _frames(stream, packet):
                check_frame(frame)
                if resampler is None or source != (frame.format.name, format_of(frame)):
                    resampler, source = make_resampler(frame), (frame.format.name, format_of(frame))
                decoded += frame.samples / frame.sample_rate
                frame.pts = None
                resampled += _seconds(resample(resampler, frame))
        except MediaError as error:
            failure = error
    resampled += _seconds(resample(resampler, None)) if resampler else 0.0
    if decoded - resampled > MOST_HELD_SECONDS:
        raise MemoryError("the resampler lost sound")
    if not resampled:
        reason = unreadable.reason(path_of(container))
        raise from_bytes(reason) if reason else failure
    return size / decoded


def _seconds(frames: list[AudioFrame]) -> float:
    return sum(frame.samples for frame in frames) / RATE


def _frames(stream: AudioStream, packet: Packet) -> list[AudioFrame]:
    """The frames of a packet that hold sound.

    Raises:
        MediaError: it cannot be decoded.
    """
    try:
        return [frame for frame in packet.decode() if frame.samples]
    except MemoryError:
        raise
    except av.FFmpegError:
        raise undecodable(stream, packet) from None
