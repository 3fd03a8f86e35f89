"""Files with several tracks, gaps and late starts, made by libav."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

RATE = 16_000
Float = NDArray[np.float32]

_KINDS = {".mkv": "matroska", ".ts": "mpegts", ".aac": "adts", ".m4a": "mp4"}


@dataclass(frozen=True)
class Made:
    """A track to be written: pieces of sound at 16 kHz, each with the second at which it begins."""

    pieces: Sequence[tuple[float, Float]]
    codec: str = "pcm_s16le"
    rate: int = RATE
    layout: str = "mono"
    disposition: Disposition = field(default_factory=lambda: Disposition(0))
    metadata: dict[str, str] = field(default_factory=dict)


class Pipe:
    """A file that cannot be sought in, as what a live recording is written to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


def write(
    path: Path, made: Sequence[Made], *, video: float = 0.0, live: bool = False, interleaved: bool = True
) -> Path:
    """A container with these tracks, and with so many seconds of video; live: without a length."""
    target: Any = Pipe(path) if live else str(path)
    kind = {".mkv": "matroska", ".ts": "mpegts", ".aac": "adts", ".m4a": "mp4"}.get(
        path.suffix, path.suffix[1:]
    )
    with av.open(target, "w", format=kind) as out:
        film = _film(out, path) if video else None
        streams = [_stream(out, one) for one in made]
        out.start_encoding()
        packets = _pictures(film, video) if film else []
        for stream, one in zip(streams, made, strict=True):
            packets += _encoded(stream, one)
        if interleaved:
            packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
        for packet in packets:
            out.mux(packet)
    if live:
        target.close()
    return path


def _stream(out: Any, one: Made) -> Any:
    stream = out.add_stream(one.codec, rate=one.rate, layout=one.layout)
    stream.disposition = one.disposition
    stream.metadata.update(one.metadata)
    return stream


def _film(out: Any, path: Path) -> Any:
    film = out.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=10)
    film.width = film.height = 64
    film.pix_fmt = "yuv420p"
    return film


def _pictures(film: Any, seconds: float) -> list[Any]:
    packets = []
    for number in range(int(seconds * 10)):
        picture = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
        picture.pts = number
        packets += film.encode(picture)
    return packets + film.encode(None)


def _encoded(stream: Any, one: Made) -> list[Any]:
    context, packets = stream.codec_context, []
    size = context.frame_size or 1024
    for number, (begin, samples) in enumerate(one.pieces, 1):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(context.format, one.layout, one.rate, frame_size=size)
        at = round(begin * one.rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            if part.samples < size and number < len(one.pieces):
                continue  # an encoder takes a short frame only at the end
            part.pts, part.time_base = at, Fraction(1, one.rate)
            at += part.samples
            packets += stream.encode(part)
    return packets + stream.encode(None)
