"""Our engine beside its peers: speed, word error rate, memory and time to the first text, in one table.

``python bench/engine.py`` takes about two minutes: the short clips, ours and the fastest peer. More with
``--systems all``, ``--recordings clips long languages`` (beginnings of paths in a manifest). A folder of
recordings with a manifest.tsv (path, duration_s, language, reference_text) is given with ``--audio``; by
default it is ``../shared/audio`` beside the repository. ``--overhead`` compares the whole service with the
bare engine on one recording of ten minutes instead.

WhisperX's command line, openai-whisper and whisper.cpp need ffmpeg in the PATH, the last two a package each:
``pip install --target FOLDER --no-deps openai-whisper tiktoken more-itertools numba llvmlite pywhispercpp
imageio-ffmpeg``, then ``--peers FOLDER``; nothing of it comes near our own packages. Their weights are made
of ours (bench/weights.py).

Every system runs in a process of its own (bench/peers.py), with the same weights and with the language
given, and hears all recordings one after the other, after a short one to warm up. Rounds go through the
systems in turn, every second one backwards, so that what else the machine does meets all of them; the table
shows medians over rounds, and ratios are those of a round. On a machine that does other things too, compare
the CPU seconds. Recordings that settings were chosen on are left out unless ``--tuning`` asks for them.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import peers
import psutil
import weights
from peers import SYSTEMS, Result, Row, System

ROOT = Path(__file__).resolve().parent.parent
AUDIO = ROOT.parent / "shared" / "audio"
# The packing of windows, the tail of silence, and the thresholds of a second look were chosen on this one.
TUNED_ON = ("long/en_stories_32min.opus",)
LETTERS = ("zh", "ja")  # languages without spaces: their error rate is that of characters
OVERHEAD_ON = "multispeaker/constructed_3spk.opus"
# How many times as fast as a peer we want to be.
FASTEST, COMMAND_LINE, SAME_BEAM = 2.0, 6.0, 1.5
OVERHEAD = 2.0  # percent
DRAWS = 10_000  # of the bootstrap


class Rounds:
    """What each system did in each round, and the figures that come of it."""

    def __init__(self, files: list[Row], normaliser: Callable[[str], Callable[[str], str]]) -> None:
        self.files = files
        self.length = sum(float(file["duration_s"]) for file in files)
        self.languages = sorted({file["language"] for file in files}, key=lambda one: (one != "en", one))
        self.done: dict[str, list[Result]] = {}
        self._normaliser = normaliser
        self._counts: dict[str, list[tuple[int, int]]] = {}

    def speeds(self, system: str) -> list[float]:
        """Seconds of sound a second, warm, of each round."""
        return [self.length / sum(file["seconds"] for file in one["files"]) for one in self.done[system]]

    def ratio(self, ours: str, its: str) -> float:
        """How many times as fast as it we are: the median of the rounds."""
        pairs = zip(self.speeds(ours), self.speeds(its), strict=True)
        return statistics.median(a / b for a, b in pairs)

    def median(self, system: str, figure: str) -> float:
        """The median of a figure over rounds."""
        return statistics.median(one[figure] for one in self.done[system])

    def first(self, system: str) -> float:
        """Seconds to the first text: the median of rounds and recordings."""
        found = [file["first"] for one in self.done[system] for file in one["files"] if file["first"]]
        return statistics.median(found) if found else float("nan")

    def rate(self, system: str, language: str = "") -> float:
        """Errors in percent of the words of a language, or of all, as the first round heard them."""
        if system not in self._counts:
            self._counts[system] = [
                errors(file["text"], result["text"], self._normaliser(file["language"]))
                for file, result in zip(self.files, self.done[system][0]["files"], strict=True)
            ]
        pairs = [
            pair
            for file, pair in zip(self.files, self._counts[system], strict=True)
            if language in ("", file["language"])
        ]
        return 100 * sum(edits for edits, _ in pairs) / max(1, sum(words for _, words in pairs))

    def between(self, ours: str, its: str) -> tuple[float, float]:
        """By how much error rates differ in percent: 95 % interval of a paired bootstrap over recordings."""
        for system in (ours, its):
            self.rate(system)
        found = np.array([self._counts[ours], self._counts[its]], float)  # system, recording, edits and words
        drawn = np.random.default_rng(0).integers(found.shape[1], size=(DRAWS, found.shape[1]))
        edits, words = found[:, drawn].sum(axis=2).transpose(2, 0, 1)
        low, high = np.percentile(100 * (edits[0] / words[0] - edits[1] / words[1]), [2.5, 97.5])
        return float(low), float(high)

    def fastest(self, ours: str, among: Sequence[str]) -> str:
        """The system beside which we are slowest."""
        return min(among, key=lambda name: self.ratio(ours, name))


def measure(name: str, files: list[Row], folders: Folders) -> Result:
    """One system in a process of its own: what it heard, how long it took, the most memory of its tree."""
    system = SYSTEMS[name]
    answer = folders.own / "answer.json"
    command = [sys.executable, str(Path(peers.__file__)), name, str(folders.model_of(system)), str(answer)]
    warm_up = min(files, key=lambda file: float(file["duration_s"]))
    with (folders.own / "log").open("w+") as said:
        began, spent = time.perf_counter(), _children_cpu()
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=said, text=True, env=folders.environment(system)
        ) as process:
            memory: list[float] = [0.0]
            watcher = threading.Thread(target=_watch, args=(process.pid, memory), daemon=True)
            watcher.start()
            process.communicate(json.dumps([warm_up, *files]))
        whole = time.perf_counter() - began
        said.seek(0)
        assert process.returncode == 0, f"{name} failed:\n{said.read()[-4000:]}"
    warming, *results = json.loads(answer.read_text(encoding="utf-8"))
    return {
        "files": results, "whole": whole - warming["seconds"], "memory": max(memory),
        "cpu": _children_cpu() - spent,
    }  # fmt: skip


class Folders:
    """Where the systems find what they need."""

    def __init__(self, own: Path, model: Path, packages: Path | None) -> None:
        self.own, self.model, self._packages = own, model, packages
        self._converted = own / "converted"
        self._bin = own / "bin"
        self._bin.mkdir()
        self.ffmpeg = shutil.which("ffmpeg") is not None or self._bring_ffmpeg()

    def _bring_ffmpeg(self) -> bool:
        found = sorted(self._packages.glob("imageio_ffmpeg/binaries/ffmpeg-*")) if self._packages else []
        if found:
            (self._bin / "ffmpeg").symlink_to(found[0].resolve())
        return bool(found)

    def missing(self, system: System) -> str:
        """What the system needs and is not there."""
        if system.ffmpeg and not self.ffmpeg:
            return "ffmpeg"
        beside = self._packages is not None and any(self._packages.glob(f"{system.module}*"))
        there = not system.module or beside or importlib.util.find_spec(system.module) is not None
        return "" if there else system.module

    def model_of(self, system: System) -> Path:
        """The folder with its weights, made first where that is needed."""
        if not system.converted:
            return self.model
        if not self._converted.exists():
            self._converted.mkdir()
            weights.convert(self.model, self._converted)
        return self._converted

    def environment(self, system: System) -> dict[str, str]:
        """Its environment: only peers see the packages of peers, and nobody asks a hub."""
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        if system.module and self._packages:
            path = [str(self._packages.resolve()), *path]
        return {
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "HF_HUB_OFFLINE": "1",
            "PATH": os.pathsep.join([str(self._bin), os.environ["PATH"]]),
        }  # fmt: skip


def _children_cpu() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(pid: int, memory: list[float]) -> None:
    """Note the memory of a process and all below it, in MiB, five times a second."""
    while True:
        try:
            process = psutil.Process(pid)
            tree = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        memory.append(sum(map(_resident, tree)) / 2**20)
        time.sleep(0.2)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def errors(reference: str, text: str, normalise: Callable[[str], str]) -> tuple[int, int]:
    """Edits between two texts, and words of the first, after normalising both."""
    wanted, found = normalise(reference).split(), normalise(text).split()
    row = list(range(len(found) + 1))
    for word in wanted:
        diagonal, row[0] = row[0], row[0] + 1
        for place, other in enumerate(found, 1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (word != other)),
            )
    return row[-1], len(wanted)


def normalisers() -> tuple[str, Callable[[str], Callable[[str], str]]]:
    """Whisper's own, by language; with its list of British spellings where a package brings it."""
    for name in ("whisper.normalizers", "whisper_normalizer"):
        try:
            english = importlib.import_module(f"{name}.english").EnglishTextNormalizer()
            basic = importlib.import_module(f"{name}.basic").BasicTextNormalizer
            break
        except ImportError:
            continue
    else:
        name = "transformers, British spellings count as errors"
        found = importlib.import_module("transformers.models.whisper.english_normalizer")
        english, basic = found.EnglishTextNormalizer({}), found.BasicTextNormalizer
    others = {split: basic(split_letters=split) for split in (False, True)}
    return name, lambda language: english if language == "en" else others[language in LETTERS]


def recordings(folder: Path, wanted: list[str], *, tuning: bool) -> list[Row]:
    """Recordings with a reference whose paths begin with one of `wanted`."""
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    kept = [
        {
            **row,
            "name": row["path"],
            "path": str((folder / row["path"]).resolve()),
            "text": _text(folder, row),
        }
        for row in rows
        if row["path"].startswith(tuple(wanted)) and (tuning or row["path"] not in TUNED_ON)
    ]
    return [row for row in kept if row["text"] and row["language"] and float(row["duration_s"] or 0)]


def _text(folder: Path, row: Row) -> str:
    beside = (folder / row["path"]).with_suffix(".txt")
    return beside.read_text(encoding="utf-8") if beside.is_file() else row["reference_text"] or ""


def table(rounds: Rounds, normaliser: str) -> None:
    """Print a line for each system."""
    if not rounds.done:
        return
    count = len(next(iter(rounds.done.values())))
    print(f"{len(rounds.files)} recordings, {rounds.length:.0f} s; {peers.CORES} cores; {count} rounds")
    print(f"normaliser: {normaliser}; error rates in % (of characters in {' and '.join(LETTERS)})")
    print("x real time warm and with its start; ours/it: median of the rounds; memory: all its processes\n")
    print(
        f"{'':18} {'warm':>6} {'start':>6} {'ours/it':>7} {'cpu s':>6} {'first s':>7} {'MB':>6}  {'all':>5}",
        *(f"{language:>5}" for language in rounds.languages),
    )
    ours = "ours" if "ours" in rounds.done else next(iter(rounds.done))
    for system in rounds.done:
        print(
            f"{system:18} {statistics.median(rounds.speeds(system)):6.1f} "
            f"{rounds.length / rounds.median(system, 'whole'):6.1f} "
            f"{rounds.ratio(ours, system):7.2f} {rounds.median(system, 'cpu'):6.1f} "
            f"{rounds.first(system):7.2f} {rounds.median(system, 'memory'):6.0f} ",
            *(f"{rounds.rate(system, language):5.1f}" for language in ["", *rounds.languages]),
            flush=True,
        )


def goals(rounds: Rounds) -> None:
    """Print what we want to reach beside what was reached, as far as its systems were run."""
    rivals = [name for name in rounds.done if SYSTEMS[name].peer]
    if not rivals or "ours" not in rounds.done:
        return
    print()
    fastest = rounds.fastest("ours", rivals)
    _goal(f"our defaults x the fastest peer ({fastest})", FASTEST, rounds.ratio("ours", fastest))
    if "whisperx-cli" in rivals:
        reached = rounds.ratio("ours", "whisperx-cli")
        _goal("our defaults x WhisperX's command line", COMMAND_LINE, reached)
    for name, beam in (("ours", 1), ("ours-beam5", 5)):
        like = [rival for rival in rivals if SYSTEMS[rival].beam == beam]
        if name in rounds.done and like:
            fastest = rounds.fastest(name, like)
            reached = rounds.ratio(name, fastest)
            _goal(f"{name} x the fastest peer of beam {beam} ({fastest})", SAME_BEAM, reached)
    best = min(rivals, key=rounds.rate)
    reached, wanted = rounds.rate("ours"), rounds.rate(best)
    met = "met" if reached <= wanted else "missed"
    print(f"goal: WER at most the most accurate peer's ({best}), {wanted:.2f} %: {reached:.2f} %, {met}")
    for rival in rivals:
        low, high = rounds.between("ours", rival)
        print(f"  WER of ours less that of {rival}: 95 % interval over recordings {low:+.1f} to {high:+.1f}")


def _goal(what: str, wanted: float, reached: float) -> None:
    print(
        f"goal: {what} at least {wanted:g}: reached {reached:.2f}, {'met' if reached >= wanted else 'missed'}"
    )


def overhead(given: argparse.Namespace, folder: Path, model: Path) -> None:
    """The whole service beside the bare engine on one recording, in turns."""
    cut(given.audio / OVERHEAD_ON, file := folder / "recording.opus", given.overhead)
    row = {"path": str(file), "language": "en", "duration_s": str(given.overhead)}
    pairs = asyncio.run(_in_turns(row, folder, model, given.rounds))
    service, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    more = 100 * (statistics.median(a / b for a, b in pairs) - 1)
    print(
        f"\n{given.overhead:g} s, median of {len(pairs)} rounds: service {service:.2f} s, engine {bare:.2f} s"
    )
    met = "met" if more <= OVERHEAD else "missed"
    print(f"goal: the service at most {OVERHEAD:g} % over the bare engine: reached {more:+.1f} %, {met}")


async def _in_turns(row: Row, folder: Path, model: Path, count: int) -> list[tuple[float, float]]:
    engine = await peers.start(model)
    pairs = []
    with peers.up(folder / "data", model) as url:
        for number in range(-1, count):  # the first is for warming up
            seconds = {}
            for name in ("service", "engine") if number % 2 else ("engine", "service"):
                if name == "service":
                    result = await asyncio.to_thread(peers.through, url, row)
                else:
                    result = await peers.ask(engine, row, model)
                seconds[name] = result["seconds"]
            if number >= 0:
                pairs.append((seconds["service"], seconds["engine"]))
                print(f"service {pairs[-1][0]:.2f} s, engine {pairs[-1][1]:.2f} s", flush=True)
    await engine.close()
    return pairs


def cut(source: Path, target: Path, seconds: float) -> None:
    """The beginning of a recording, its packets as they are."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        theirs = read.streams.audio[0]
        ours = written.add_stream_from_template(theirs)
        for packet in read.demux(theirs):
            if packet.pts is None or packet.pts * packet.time_base > seconds:
                break
            packet.stream = ours
            written.mux(packet)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, default=AUDIO)
    parser.add_argument("--recordings", nargs="+", default=["clips"])
    parser.add_argument(
        "--systems", nargs="+", default=["ours", "fw-batched-greedy"], choices=["all", *SYSTEMS]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--service", action="store_true", help="ours through the whole service too")
    parser.add_argument("--tuning", action="store_true", help="recordings that settings were chosen on too")
    parser.add_argument("--model", type=Path, help="a folder with a CTranslate2 model; default: base")
    parser.add_argument("--peers", type=Path, help="a folder with packages of peers")
    parser.add_argument("--save", type=Path, help="a file for all that was heard and measured, as JSON")
    parser.add_argument(
        "--overhead", nargs="?", const=600.0, type=float, metavar="SECONDS",
        help="service beside engine on a recording of so many seconds, or ten minutes",
    )  # fmt: skip
    return parser.parse_args()


def run(given: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    from stt.settings import Settings
    from workers.engine import models

    model = given.model or models.find("base", Settings(data_dir=folder))
    if given.overhead:
        overhead(given, folder, model)
        return
    files = recordings(given.audio, given.recordings, tuning=given.tuning)
    assert files, f"no recordings in {given.audio} begin with {given.recordings}"
    if given.peers:
        sys.path.append(str(given.peers))  # for the normaliser; our own packages come first
    name, normaliser = normalisers()
    rounds = Rounds(files, normaliser)
    _measure_all(rounds, given, Folders(folder, model, given.peers))
    table(rounds, name)
    goals(rounds)


def _measure_all(rounds: Rounds, given: argparse.Namespace, folders: Folders) -> None:
    wanted = {*given.systems} if given.systems != ["all"] else {*SYSTEMS} - {"service"}
    systems = [name for name in SYSTEMS if name in wanted or (name == "service" and given.service)]
    lacking = {name: what for name in systems if (what := folders.missing(SYSTEMS[name]))}
    print("not run:", ", ".join(f"{name} (no {what})" for name, what in lacking.items()) or "-", flush=True)
    rounds.done = {name: [] for name in systems if name not in lacking}
    for number in range(given.rounds):
        names = list(rounds.done)
        for name in names if number % 2 == 0 else names[::-1]:
            rounds.done[name].append(measure(name, rounds.files, folders))
            if given.save:
                text = json.dumps({"files": rounds.files, "rounds": rounds.done}, ensure_ascii=False)
                given.save.write_text(text, encoding="utf-8")


def main() -> None:
    """Keep what is made along the way in a folder that goes away."""
    given: Any = arguments()
    with tempfile.TemporaryDirectory() as folder:
        run(given, Path(folder))


if __name__ == "__main__":
    main()
