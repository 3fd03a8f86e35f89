"""Opening a recording with libav so that an untrusted file can only be what it is: one media file.

Used by the web role's probe and by the engine, so both judge a file alike.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import av

# PyAV imports these when it opens the first file. In a sandbox they could not be imported any more.
import av.subtitles.codeccontext
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import Container, InputContainer
from av.packet import Packet as AnyPacket
from av.stream import Disposition
from av.video.stream import VideoStream

from stt.media import unreadable
from stt.media.parts import Part, View, parts

Packet: TypeAlias = "AnyPacket[AudioStream]"

RATE = 16_000  # of the samples that are recognised
PIECE = RATE // 4  # samples that are resampled at once
# Limits of what a header may say. libav counts the bytes of a DSD recording: DSD512 has 3 MHz. libswresample
# takes up to 64 channels. `MOST_VALUES` is for all channels of one frame, before and after resampling; the
# largest frame of real codecs has 2^22.
LEAST_RATE, MOST_RATE = 1_000, 3_072_000
MOST_CHANNELS = 64
MOST_VALUES = 2**24
# A resampler holds a fraction of a second. If it holds more, it has lost sound for want of memory: it raises
# no error then.
MOST_HELD_SECONDS = 1.0
# A container's length is ignored if the length calculated from its bytes is so many times longer or shorter.
IMPLAUSIBLE = 3.0

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
# An Apple device records the same sound a second time in this codec, which nobody else decodes.
_SPATIAL_TAGS = {"apac"}
# Errors of a demuxer after which reading is tried again: in a row, and in all.
_ERRORS_IN_A_ROW, _MOST_ERRORS = 10, 1000
_LONGEST_TAG = 60  # characters of a track's title that are shown
# Parts of a file that are opened to add up its length; beyond, it is guessed from their bytes.
_PARTS_MEASURED = 50
_STILL = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails


class MediaError(Exception):
    """A file that cannot be transcribed, now or ever; the text says why and what to do.

    `code` is one of `not_media`, `no_audio_track`, `empty_audio`, `encrypted`, `unsupported_codec`,
    `too_long`, `too_much_memory`, `too_slow`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def open_media(path: str | os.PathLike[str], part: Part | None = None) -> InputContainer:
    """Open a media file, or a part of it; the caller closes it.

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
    """The track that people mean: the default one, else the one libav finds best.

    Raises:
        MediaError: `no_audio_track`, `unsupported_codec`, `encrypted`, or `empty_audio` for a
            sound file that ends before its first sample.
    """
    return audio_tracks(container)[0]


def audio_tracks(container: InputContainer) -> list[AudioStream]:
    """The tracks for which there is a decoder: first the one that people mean, last commentaries.

    Raises:
        MediaError: as `audio_stream`.
    """
    found = container.streams.audio
    if not found:
        if not container.streams and container.format.name == "flac":
            raise empty_audio()  # its only track is told by the first frame
        raise _explained(_path(container), "no_audio_track", "There is no sound in this file. "
            "Please export it again with its audio track.")  # fmt: skip
    readable = [track for track in found if track.codec_context is not None]
    if not readable:
        raise unsupported_codec(found[0])
    free = [track for track in readable if not _is_protected(container, track)]
    if not free:
        raise encrypted()
    chosen = _chosen(container, free)
    return sorted(free, key=lambda track: (track.index != chosen.index, is_aside(track), track.index))


def is_aside(track: AudioStream) -> bool:
    """Whether it is a track that a viewer chooses on purpose, such as a commentary."""
    return bool(track.disposition & _SIDE_TRACKS)


def unreadable_tracks(container: InputContainer) -> list[AudioStream]:
    """The tracks that cannot be decoded and hold no copy of another one."""
    found = [track for track in container.streams.audio if not is_aside(track)]
    return [
        track
        for track in found
        if (track.codec_context is None or _is_protected(container, track))
        and _tag(track) not in _SPATIAL_TAGS
    ]


def name_of(container: InputContainer, track: AudioStream) -> str:
    """A track's name for people, such as `audio track 2 (eng, "Commentary")`."""
    number = [one.index for one in container.streams.audio].index(track.index) + 1
    language, title = (_shown(track.metadata.get(key, "")) for key in ("language", "title"))
    details = [language] if language not in ("", "und") else []
    details += [f'"{title}"'] if title else []
    return f"audio track {number}" + (f" ({', '.join(details)})" if details else "")


def _shown(text: str) -> str:
    """A tag of a file as it may stand in a sentence or in the log: one short line of printable characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= _LONGEST_TAG else f"{line[:_LONGEST_TAG]}…"


def inspect(
    path: str | os.PathLike[str], packets: int | None = None, longest: float = 0.0
) -> tuple[str, float | None]:
    """Kind of a file (`audio` or `video`) and its length in seconds where the container says so.

    The first second of sound of one of its tracks is decoded and resampled to be sure of it.

    Args:
        path: The file.
        packets: Decode no more packets than this of each track.
        longest: A recording of more seconds by its header is refused, unless its bytes cannot hold so much
            sound. 0: no limit.

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
        seconds: The length by the header.
        by_bytes: The length in seconds if each second took as many bytes as the beginning does.

    Raises:
        MediaError: `too_long`.
    """
    if longest and longest < seconds < by_bytes * IMPLAUSIBLE:
        raise too_long(longest, seconds)


def format_of(track: AudioStream | AudioFrame) -> tuple[int, int]:
    """Rate and number of channels of a frame, or of a track by its header, where 0 is unknown."""
    if isinstance(track, AudioFrame):
        return track.sample_rate, track.layout.nb_channels
    codec = track.codec_context
    return codec.sample_rate or 0, codec.channels or 0


def check_format(rate: int, channels: int) -> None:
    """Refuse a rate or a number of channels that no recording has, before memory is allocated; 0 is unknown.

    Raises:
        MediaError: `unsupported_codec`.
    """
    if rate and not LEAST_RATE <= rate <= MOST_RATE:
        raise MediaError(
            "unsupported_codec",
            f"By its header this file has {rate:,} samples a second, which no recording has: the file is "
            "damaged. Please export it again, with 8,000 to 192,000 samples a second.",
        )
    if channels > MOST_CHANNELS:
        raise MediaError(
            "unsupported_codec",
            f"By its header this file has {channels:,} channels; no more than {MOST_CHANNELS} can be read. "
            "Please export it again with fewer channels.",
        )


def check_frame(frame: AudioFrame) -> None:
    """Refuse a frame that would take far more memory than those of a recording.

    Raises:
        MediaError: `unsupported_codec`.
    """
    rate, channels = format_of(frame)
    if rate <= 0 or channels <= 0:
        raise MediaError(
            "unsupported_codec",
            "The sound in this file does not say how many samples a second or channels it has: the file is "
            "damaged. Please export it again as MP3, M4A, FLAC or WAV.",
        )
    check_format(rate, channels)
    values = frame.samples * channels
    if max(values, values * RATE // rate) > MOST_VALUES:
        raise MediaError(
            "unsupported_codec",
            f"The sound in this file comes in blocks of {frame.samples:,} samples, which is more than can be "
            "read: the file is damaged. Please export it again as MP3, M4A, FLAC or WAV.",
        )


def make_resampler(frame: AudioFrame) -> AudioResampler:
    """A resampler from the format of this frame to `RATE`, in pieces of `PIECE` samples; the channels stay.

    Raises:
        MediaError: `unsupported_codec`, no recording has this format.
    """
    check_frame(frame)
    return AudioResampler("flt", frame.layout, RATE, frame_size=PIECE)


def resample(resampler: AudioResampler, frame: AudioFrame | None) -> list[AudioFrame]:
    """The frames that are ready after this one; the rest if it is None.

    Raises:
        MediaError: `unsupported_codec`, libav cannot resample this format.
    """
    try:
        return resampler.resample(frame)
    except MemoryError:
        raise
    except av.FFmpegError:
        channels = f"{frame.layout.nb_channels} channels" if frame else "channels"
        raise MediaError(
            "unsupported_codec",
            f"The {channels} of sound in this file cannot be mixed into one. "
            "Please export it again as mono or stereo.",
        ) from None


def _inspect_part(path: str | os.PathLike[str], part: Part, packets: int | None) -> tuple[str, float]:
    """The kind of a part of a file, and how many bytes a second of its sound takes."""
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
    """The length of all parts of a file in seconds, by their containers; None if one does not name it."""
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
        OSError: the file cannot be read any further, through no fault of what is in it.
    """
    in_a_row = in_all = 0
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed, None)
        except av.FFmpegError as error:
            if not _is_to_blame(_path(container), error):
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


def _path(container: Container) -> str:
    return container.name.removeprefix("file:")


def _is_protected(container: InputContainer, track: AudioStream) -> bool:
    return "enc_key_id" in track.metadata or unreadable.is_protected(_path(container), tag(track))


def _not_media(path: str | os.PathLike[str]) -> MediaError:
    return _explained(
        path,
        "not_media",
        "This is not an audio or video file, or it is damaged beyond reading. "
        "Please check that it plays on your computer and send it again.",
    )


def _explained(path: str | os.PathLike[str], code: str, sentence: str) -> MediaError:
    """The error whose reason the file's bytes show (`stt.media.unreadable`), else the given one."""
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
    try:
        return stream.codec_context.codec_tag.strip("\x00") if stream.codec_context else ""
    except UnicodeDecodeError:  # a WAV has a number there, such as 255 for AAC
        return ""


def _tag(stream: AudioStream) -> str:
    """As `tag`, also for a stream without a decoder."""
    return tag(stream) or str(stream.metadata.get("codec_tag", ""))


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
    return _explained(
        _path(stream.container),
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
    """Decode and resample the first second, as the engine will; returns the bytes of a second of sound.

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
        reason = unreadable.reason(_path(container))
        raise MediaError(*reason) if reason else failure
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
