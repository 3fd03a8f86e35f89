"""Half an hour of mixed load on a whole `stt up`: nothing grows, and nothing is lost.

``python bench/soak.py --minutes 30`` starts the service in a folder of its own, with PostgreSQL, Valkey and
the metrics of every role, and uses it as people do: uploads of several sizes, some refused or broken off;
listeners that come, leave and come back; pages, lists, downloads; cancels, retries, deletes. Every few
seconds it notes memory, descriptors, threads, connections, keys and files (bench/soak_samples.py).

After a warm-up it fits a line and compares the median of the last quarter with that of the first. At the end
every text must be what it was the first time, deletes must leave nothing, and the log must hold no error. It
prints a table, writes ``--json``, and ends with exit code 1 if something grows or was wrong. In less than ten
minutes growth is shown, but not judged. It talks to loopback only.

The engine's memory: glibc keeps what the largest batch took until the process ends (docs/engine.md), so it
rises by steps to a plateau. Its longest life is judged, with a wider tolerance. In the last third of the time
running jobs are cancelled too, which ends the engine, so that what a worker keeps of dead engines shows. When
nothing is left to do, the idle engine must end, and the next recording must get a new one.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import wave
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import psutil
from engine import errors
from soak_load import LIMIT, NAME, Load, Recording
from soak_samples import Sample, Sampler, Verdict, judge_all

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
AUDIO = ROOT.parent / "shared" / "audio"
EVERY = 5.0  # seconds between two samples
WARM_UP_MINUTES = 5.0  # at most a sixth of the time
JUDGED_FROM_MINUTES = 10.0
IDLE_SECONDS = 45
DRAIN_SECONDS = 300
STOP_SECONDS = 15
LARGE_SECONDS = 200  # of silence, at 48 kHz in stereo: 38 MB
WORST_ERROR_RATE = 0.35  # of one recording; base mishears more in some languages than in others
# Logged as errors, and none here: the beginning of the event, and why.
KNOWN_ERRORS: dict[str, str] = {}


class Service:
    """A `stt up` of our own."""

    def __init__(self, folder: Path) -> None:
        self.data, self.temporary, self.log = folder / "data", folder / "tmp", folder / "log"
        self.temporary.mkdir()
        port = _free_ports(3)
        self.metrics = {
            role: f"http://127.0.0.1:{port + n}/metrics"
            for n, role in enumerate(("web", "maintenance", "worker"))
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("STT_")}
        self.env = env | {
            "STT_DATA_DIR": str(self.data), "STT_PORT": "0", "STT_METRICS_PORT": str(port),
            "STT_LOG_FORMAT": "json", "STT_MAX_UPLOAD_BYTES": str(LIMIT), "STT_SPAN_SECONDS": "20",
            "STT_MODEL_IDLE_SECONDS": str(IDLE_SECONDS), "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its address, once it is ready; it is ended after the block."""
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "stt", "up", env=self.env, stdout=subprocess.PIPE, stderr=log
            )
            try:
                assert self.process.stdout
                line = await asyncio.wait_for(self.process.stdout.readline(), 120)
                assert line.startswith(b"ready: "), self.log.read_text()
                yield line.decode().removeprefix("ready: ").strip()
            finally:
                await self.stop()

    async def stop(self) -> int:
        """End it as a terminal would; its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)


def _free_ports(count: int) -> int:
    """The first of so many neighbours that nobody listens on."""
    for port in range(21000, 30000, count):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", port + n)) for n in range(count)):
                return port
    raise OSError("no ports are free")


def make_recordings(folder: Path) -> dict[str, Recording]:
    """The samples, some clips of ../shared/audio if there are any, some joined, and a large one."""
    made = {}
    for path in sorted(SAMPLES.glob("*.flac")):
        name = path.name.split("-")[0]
        made[name] = Recording(name, path, name, path.with_suffix(".txt").read_text(encoding="utf-8"))
    made |= _clips()
    english = made["en"]
    sound, pause = _decode(english.path), np.zeros(16000, np.int16)
    for name, count in (("two", 2), ("long", 4)):
        path = _write(folder / f"{name}.wav", np.concatenate([sound, pause] * count), 16000, 1)
        made[name] = Recording(name, path, "en", " ".join([english.reference] * count))
    parts = [np.zeros(48000 * LARGE_SECONDS, np.int16), np.repeat(sound, 3)]
    path = _write(folder / "large.wav", np.repeat(np.concatenate(parts), 2), 48000, 2)
    made["large"] = Recording("large", path, "en", english.reference)
    return made


def _clips() -> dict[str, Recording]:
    wanted = ("clips/leopard_test_en.wav", "clips/librivox_austen_0870.wav", "clips/story_0110_p03.mp3",
              "languages/fr_leopard.wav", "languages/de_leopard.wav")  # fmt: skip
    if not (AUDIO / "manifest.tsv").is_file():
        return {}
    with (AUDIO / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    return {
        Path(path).stem: Recording(
            Path(path).stem, AUDIO / path, rows[path]["language"], rows[path]["reference_text"]
        )
        for path in wanted
    }


def _decode(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as source:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
        frames = [out for frame in source.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _write(path: Path, samples: np.ndarray[Any, Any], rate: int, channels: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


class Soak:
    """One run."""

    def __init__(self, service: Service, load: Load, minutes: float) -> None:
        self.service, self.load, self.minutes = service, load, minutes
        self.warm_up = min(WARM_UP_MINUTES, minutes / 6) * 60
        self.samples: list[Sample] = []
        self.sampler = Sampler(service.process.pid, service.data, service.temporary, service.metrics)
        self.facts: dict[str, Any] = {}

    @property
    def problems(self) -> list[str]:
        """Everything that was wrong."""
        return self.load.problems

    async def run(self) -> None:
        """Load, then quiet, then look at what is left."""
        await self.sampler.open()
        try:
            await self._use()
        finally:
            await self.sampler.close()
        await self.check_end()
        self.check_log()

    async def _use(self) -> None:
        await self.load.hear_all()
        self.check_words()
        acting = asyncio.create_task(self.load.run())
        await self._watch()
        self.load.end()
        await acting
        await self._drain()
        await self.check_jobs()
        await self.check_metrics()
        await self.load.delete_all()
        await self.check_nothing_left()
        await self.check_idle()

    async def _watch(self) -> None:
        began = time.monotonic()
        while (now := time.monotonic() - began) < self.minutes * 60:
            self.load.may_stop_running = now > self.minutes * 40
            self.samples.append({"seconds": now, **await self.sampler.sample()})
            if len(self.samples) % 12 == 0:
                self._tell(now)
            await asyncio.sleep(max(0.0, now + EVERY - (time.monotonic() - began)))

    def _tell(self, now: float) -> None:
        last = self.samples[-1]
        held = ", ".join(
            f"{role} {last[f'{role} uss_mb']:.0f}"
            for role in ("web", "maintenance", "worker", "engine", "postgres", "valkey")
            if f"{role} uss_mb" in last
        )
        print(f"{now / 60:5.1f} min: {last['jobs stored']:.0f} jobs; MB: {held}", flush=True)

    async def _drain(self) -> None:
        unended = "select count(*) from jobs where status in ('pending', 'processing')"
        async with asyncio.timeout(DRAIN_SECONDS):
            while await self.sampler.pool.fetchval(unended):
                await asyncio.sleep(0.5)

    def check_words(self) -> None:
        """The first texts are what was said."""
        for name, recording in self.load.recordings.items():
            wrong, words = errors(recording.reference, self.load.texts[name], _plain)
            self.facts.setdefault("word errors", {})[name] = round(wrong / words, 3)
            if wrong / words > WORST_ERROR_RATE:
                self.problems.append(f"{name}: {wrong} of {words} words are wrong: {self.load.texts[name]}")

    async def check_jobs(self) -> None:
        """Every job that was accepted and not deleted has the first text of its recording."""
        rows = {str(row["id"]): row for row in await self.sampler.pool.fetch("select * from jobs")}
        self.problems.extend(f"{id_} is gone" for id_ in self.load.jobs.keys() - rows.keys())
        self.problems.extend(f"{id_} was deleted" for id_ in rows.keys() - self.load.jobs.keys())
        self.facts["jobs at the end"] = dict(Counter(row["status"] for row in rows.values()))
        for id_, job in self.load.jobs.items():
            wanted = "cancelled" if job.cancelled else "completed"
            row = rows.get(id_, {"status": wanted, "transcription_text": self.load.texts[job.recording]})
            if row["status"] != wanted:
                self.problems.append(f"{id_} ({job.recording}) is {row['status']}, not {wanted}")
            elif wanted == "completed" and row["transcription_text"] != self.load.texts[job.recording]:
                self.problems.append(f"{id_} ({job.recording}) has another text: {row['transcription_text']}")

    async def check_metrics(self) -> None:
        """What the service counted is what was done."""
        for role, count in self.sampler.unread.items():
            self.problems.append(f"the metrics of {role} did not answer {count} times")
        try:
            web = await self.sampler.metrics("web")
        except aiohttp.ClientError as error:
            self.problems.append(f"the metrics of web do not answer: {error}")
            return
        accepted, listeners = web.get("stt_uploads_total outcome=accepted"), web["stt_event_listeners"]
        if accepted != self.load.counts["accepted"]:
            self.problems.append(f"{self.load.counts['accepted']} uploads, and {accepted} in the metrics")
        if listeners:
            self.problems.append(f"{listeners:.0f} listeners, and all have left")

    async def check_nothing_left(self) -> None:
        """After all jobs were deleted there are no rows, files and keys of theirs."""
        for table in ("jobs", "spans", "transcripts"):
            if count := await self.sampler.pool.fetchval(f"select count(*) from {table}"):
                self.problems.append(f"{count} rows of {table} are left over")
        if left := self.sampler.stored_keys():
            self.problems.append(f"files are left over: {sorted(left)}")
        if left := list((self.service.data / "results").iterdir()):
            self.problems.append(f"folders are left over: {left}")
        if left := [path.name for path in self.service.temporary.rglob("*") if path.is_file()]:
            self.problems.append(f"temporary files are left over: {left}")
        keys = sorted(key.decode() for key in await self.sampler.redis.keys("*"))
        kinds = Counter(re.sub(r"[0-9a-f]{32}", "ID", key) for key in keys)
        self.facts["keys at the end"] = dict(kinds)
        # Tickets without a job are harmless, and maintenance keeps a few.
        if len(keys) > 60:
            self.problems.append(f"keys are left over: {kinds}")

    async def check_idle(self) -> None:
        """The idle engine ends with all of its memory, and the next recording gets another one."""
        async with asyncio.timeout(IDLE_SECONDS + 30):
            while "engine" in (held := self.sampler.processes()):
                await asyncio.sleep(1)
        self.facts["idle, MB"] = {
            name.split()[0]: round(value) for name, value in held.items() if name.endswith("uss_mb")
        }
        before = dict(self.load.texts)
        self.load.recordings = {"en": self.load.recordings["en"]}
        await self.load.hear_all()
        if self.load.texts != before:
            self.problems.append(f"a new engine hears something else: {self.load.texts['en']}")
        await self.load.delete_all()

    async def check_end(self) -> None:
        """It ends in order, with every process that it had."""
        began = time.monotonic()
        code = await self.service.stop()
        self.facts["seconds to stop"] = round(time.monotonic() - began, 1)
        if code:
            self.problems.append(f"stt up ended with {code}")
        for pid, born in self.sampler.family.items():
            if psutil.pid_exists(pid) and psutil.Process(pid).create_time() == born:
                self.problems.append(f"the process {pid} is left over: {psutil.Process(pid).cmdline()}")

    def check_log(self) -> None:
        """Every line is JSON, none is an error, none has the name of a file or a text."""
        words = [text[:40] for text in self.load.texts.values() if text]
        lines = self.service.log.read_text(encoding="utf-8").splitlines()
        levels: Counter[str] = Counter()
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"level": "not JSON", "event": line}
            levels[entry["level"]] += 1
            if entry["level"] in ("error", "critical", "not JSON") and not entry["event"].startswith(
                tuple(KNOWN_ERRORS) or "\0"
            ):
                self.problems.append(f"an error is logged, or a line that is no JSON: {line[:500]}")
            if any(secret in line for secret in (NAME, *words)):
                self.problems.append(f"the log has a file's name or a text: {line[:300]}")
        self.facts["log lines"] = dict(levels)

    def verdicts(self) -> list[Verdict]:
        """Every quantity after the warm-up."""
        return judge_all(self.samples, self.warm_up)


def _plain(text: str) -> str:
    return re.sub(r"[^\w\s]", " ", text.lower())


def show(verdicts: list[Verdict], *, judged: bool) -> None:
    """Print the table."""
    print(f"{'':28}{'first':>10}{'last':>10}{'most':>10}{'an hour':>10}{'tolerance':>10}{'noticed':>10}")
    for one in verdicts:
        figures = (one.first, one.last, one.most, one.per_hour, one.tolerance, one.noticed)
        verdict = ("GROWS" if one.growing else "flat") if judged else "too short to judge"
        print(f"{one.name:28}" + "".join(f"{figure:10.1f}" for figure in figures) + f"  {verdict}")
    print("first, last: medians of those quarters; noticed: the least growth by hour that would be found")


async def run(given: argparse.Namespace, folder: Path) -> int:
    """The whole run; the exit code."""
    service = Service(folder)
    recordings = make_recordings(folder)
    try:
        async with service.running() as url:
            soak = Soak(service, Load(url, recordings, random.Random(given.seed)), given.minutes)
            try:
                await soak.run()
            except Exception as error:  # noqa: BLE001 - what was measured is shown all the same
                soak.problems.append("".join(traceback.format_exception(error)))
    finally:
        if given.log and service.log.exists():
            given.log.write_bytes(service.log.read_bytes())
    judged = given.minutes >= JUDGED_FROM_MINUTES
    verdicts = soak.verdicts()
    show(verdicts, judged=judged)
    for title, found in (("done", dict(sorted(soak.load.counts.items()))), *soak.facts.items()):
        print(f"{title}: {found}")
    soak.problems.extend(f"{one.name} grows" for one in verdicts if one.growing and judged)
    for problem in soak.problems:
        print(f"WRONG: {problem}")
    print("FAILED" if soak.problems else "nothing grows, nothing was lost or left over")
    if given.json:
        report = {
            "minutes": given.minutes, "problems": soak.problems, "facts": soak.facts,
            "done": soak.load.counts, "verdicts": [asdict(one) for one in verdicts],
            "samples": soak.samples,
        }  # fmt: skip
        given.json.write_text(json.dumps(report, indent=1))
    return 1 if soak.problems else 0


def main() -> int:
    """Run in a folder that goes away."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="of load [default: 30]")
    parser.add_argument("--seed", type=int, default=1, help="of what is done in which order")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--log", type=Path, help="keep the service's log here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stt-soak-") as folder:
        return asyncio.run(run(given, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
