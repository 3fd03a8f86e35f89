"""Memory is flat: the most memory for a recording of many hours beside that for ten minutes.

``python bench/memory.py`` repeats a long recording to one hour (``--hours 10``: about a quarter of an hour on
two cores), sends it and ten minutes of it through the bare engine, each in a new process, and prints the
memory of the process and all below it by hour, the most of it, the difference, and the seconds to the first
text. ``--diarize`` has speakers told apart too: their process hears the whole recording, so what it takes by
hour is what it has at its end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import peers
import psutil

AUDIO = Path(__file__).resolve().parent.parent.parent / "shared" / "audio"
SOURCE = "long/en_stories_32min.opus"
SHORT_HOURS = 1 / 6
LIMIT_MB, FIRST_SECONDS = 300, 10
EVERY = 0.1  # seconds between two looks
SHOWN = 12  # lines of a curve at most


@dataclass
class Look:
    """What the processes had at a moment, in MB; the engine's own and that of those below it."""

    heard: float  # seconds of the recording that are recognised
    engine: float
    below: float


@dataclass
class Watched:
    """A recording's way through the engine, watched."""

    hours: float
    seconds: float = 0.0
    first: float = float("nan")
    heard: float = 0.0
    looks: list[Look] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """The most memory of all processes together."""
        return max(look.engine + look.below for look in self.looks)

    def by_part(self) -> Iterator[tuple[float, float, float]]:
        """For each hour, or so: where it ends, the most of the engine, and of those below it."""
        part = max(3600.0, self.hours * 3600 / SHOWN) if self.hours > 1 else self.hours * 3600 / 4
        for end, group in itertools.groupby(self.looks, key=lambda look: int(look.heard // part)):
            looks = list(group)
            yield (
                min((end + 1) * part, self.hours * 3600) / 3600,
                max(look.engine for look in looks),
                max(look.below for look in looks),
            )


def repeated(source: Path, target: Path, hours: float) -> None:
    """A recording again and again until it has so many hours; its packets are copied as they are."""
    with av.open(str(target), "w") as written:
        with av.open(str(source)) as read:
            ours = written.add_stream_from_template(read.streams.audio[0])
        start = 0
        while start is not None:
            start = _append(source, written, ours, start, hours * 3600)


def _append(
    source: Path, written: av.container.OutputContainer, ours: av.AudioStream, start: int, seconds: float
) -> int | None:
    """Where the next copy begins, in the stream's time; None when there is enough."""
    with av.open(str(source)) as read:
        theirs = read.streams.audio[0]
        end = start
        for packet in read.demux(theirs):
            if packet.pts is None:
                continue
            packet.pts = packet.dts = max(0, packet.pts) + start
            if packet.pts * packet.time_base >= seconds:
                return None
            end = packet.pts + packet.duration
            packet.stream = ours
            written.mux(packet)
        return end


async def watch(file: Path, hours: float, model: Path, *, diarize: bool) -> Watched:
    """Send a recording through a new engine and look at its memory all the while."""
    watched = Watched(hours)
    engine = await peers.start(model)
    row = {"path": str(file), "language": "en"}

    def note(event: peers.Result) -> None:
        if event["type"] == "span":
            watched.heard = event["end"]

    with _looking(engine.pid, watched):
        result = await peers.ask(engine, row, model, note, diarize=diarize)
    await engine.close()
    watched.seconds, watched.first = result["seconds"], result["first"] or float("nan")
    return watched


@contextmanager
def _looking(pid: int, watched: Watched) -> Iterator[None]:
    ended = threading.Event()

    def look() -> None:
        process = psutil.Process(pid)
        while not ended.wait(EVERY):
            below = sum(map(_resident, process.children(recursive=True)))
            watched.looks.append(Look(watched.heard, _resident(process), below))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield
    finally:
        ended.set()
        looker.join()


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


def show(watched: Watched) -> None:
    """Print a recording's figures."""
    speed = watched.hours * 3600 / watched.seconds
    print(f"\n{watched.hours:.2f} h in {watched.seconds:.0f} s (x {speed:.1f})", end=", ")
    print(f"first text after {watched.first:.1f} s")
    print(f"{'to hour':>8} {'engine MB':>10} {'below MB':>9}   (the most in that part)")
    for hour, engine, below in watched.by_part():
        print(f"{hour:8.2f} {engine:10.0f} {below:9.0f}")
    print(f"peak of all together: {watched.peak:.0f} MB", flush=True)


async def measure(given: argparse.Namespace, folder: Path) -> None:
    """Both recordings, and what was wanted of them."""
    from stt.settings import Settings
    from workers.engine import models

    model = given.model or models.find("base", Settings(data_dir=folder))
    peaks, first = [], float("nan")
    for hours in (min(SHORT_HOURS, given.hours / 2), given.hours):
        file = folder / f"{hours:.2f}h{given.source.suffix}"
        repeated(given.source, file, hours)
        watched = await watch(file, hours, model, diarize=given.diarize)
        show(watched)
        peaks.append(watched.peak)
        first = watched.first
    more = peaks[1] - peaks[0]
    met = "met" if more <= LIMIT_MB else "missed"
    print(f"\ngoal: at most {LIMIT_MB} MB more: reached {more:+.0f} MB, {met}")
    met = "met" if first <= FIRST_SECONDS else "missed"
    print(f"goal: first text of the long one within {FIRST_SECONDS} s: reached {first:.1f} s, {met}")


def main() -> None:
    """Make the recordings in a folder that goes away."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--source", type=Path, default=AUDIO / SOURCE, help="what is repeated")
    parser.add_argument("--model", type=Path, help="a folder with a CTranslate2 model; default: base")
    parser.add_argument("--diarize", action="store_true", help="tell speakers apart too")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"({time.monotonic() - began:.0f} s in all)")
