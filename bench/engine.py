"""Our engine beside its peers: speed, word error rate, memory and time to the first text, in one table.

``python bench/engine.py`` takes about two minutes: the short clips, ours and the fastest peer. More with
``--systems all``, ``--recordings clips long languages`` (beginnings of paths in a manifest), ``--service``.
A folder of recordings with a manifest.tsv (path, duration_s, language, reference_text) is given with
``--audio``; by default it is ``../shared/audio`` beside the repository.

Every system runs in a process of its own, with the same weights and with the language given, and hears all
recordings one after the other. Rounds go through the systems in turn, every second one backwards, so that
what else the machine does meets all of them; the table shows medians over rounds. On a machine that does
other things too, compare the CPU seconds. Recordings that settings were chosen on are left out unless
``--tuning`` asks for them.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
AUDIO = ROOT.parent / "shared" / "audio"
# The packing of windows, the tail of silence, and the thresholds of a second look were chosen on this one.
TUNED_ON = ("long/en_stories_32min.opus",)
LETTERS = ("zh", "ja")  # languages without spaces: their error rate is that of characters

Row = dict[str, str]
Result = dict[str, Any]


# Each system: files and their languages in, texts and times out. Runs in a process of its own.


def ours(files: list[Row], model: Path, *, beam: int | None = None) -> list[Result]:
    from stt.settings import Settings
    from workers.engine import Engine

    given = {} if beam is None else {"beam_size": beam}

    async def run() -> list[Result]:
        engine = Engine(Settings(data_dir=model.parent.parent, **given))
        await engine.start()
        results = [await _ours(engine, file, model) for file in [files[0], *files]]
        await engine.close()
        return results[1:]

    return asyncio.run(run())


async def _ours(engine: Any, file: Row, model: Path) -> Result:
    began, first, text = time.perf_counter(), None, ""
    request = {
        "type": "transcribe", "job": "0", "path": file["path"], "model": str(model), "task": "transcribe",
        "language": file["language"], "options": {}, "resume": {},
    }  # fmt: skip
    async for event in engine.ask(request):
        if event["type"] == "span":
            text += "".join(segment["text"] for segment in event["segments"])
            first = first or (time.perf_counter() - began if text else None)
        assert event["type"] != "error", event
    return {"seconds": time.perf_counter() - began, "first": first, "text": text}


def service(files: list[Row], _model: Path) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder, _up(Path(folder)) as url:
        return [_through(url, file) for file in [files[0], *files]][1:]


@contextmanager
def _up(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "STT_DATA_DIR": str(folder), "STT_PORT": str(port), "STT_LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "stt", "up"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = (re.search(r"ready: (\S+)", line) for line in process.stdout)
        found = next(line for line in lines if line)
        try:
            yield found[1]
        finally:
            process.terminate()
            process.wait()


def _through(url: str, file: Row) -> Result:
    path = Path(file["path"])
    began = time.perf_counter()
    head = (
        f'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\n{file["language"]}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="a{path.suffix}"\r\n\r\n'
    )
    request = urllib.request.Request(
        f"{url}/api/jobs/upload", head.encode() + path.read_bytes() + b"\r\n--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    job = json.load(urllib.request.urlopen(request))
    first = None
    with urllib.request.urlopen(f"{url}/api/jobs/{job['id']}/events") as events:
        for line in events:
            if line.startswith(b"event: segment"):
                first = first or time.perf_counter() - began
            if line.startswith((b"event: completed", b"event: failed", b"event: cancelled")):
                break
    seconds = time.perf_counter() - began
    job = json.load(urllib.request.urlopen(f"{url}/api/jobs/{job['id']}"))
    assert job["status"] == "completed", job
    return {"seconds": seconds, "first": first, "text": job["transcription_text"] or ""}


def faster_whisper(files: list[Row], model: Path, *, beam: int, batch: int = 0) -> list[Result]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    loaded = WhisperModel(str(model), device="cpu", compute_type="int8", cpu_threads=os.cpu_count() or 1)
    options: dict[str, Any] = {"beam_size": beam} | ({"batch_size": batch} if batch else {})
    pipeline = BatchedInferencePipeline(loaded) if batch else loaded

    def run(file: Row) -> Result:
        began, first, text = time.perf_counter(), None, ""
        segments, _ = pipeline.transcribe(file["path"], language=file["language"], **options)
        for segment in segments:
            first = first or time.perf_counter() - began
            text += " " + segment.text
        return {"seconds": time.perf_counter() - began, "first": first, "text": text}

    return [run(file) for file in [files[0], *files]][1:]


def whisperx(files: list[Row], model: Path) -> list[Result]:
    """WhisperX's command line with its defaults; no alignment, whose models need the hub."""
    results = []
    for language in sorted({file["language"] for file in files}):
        some = [file["path"] for file in files if file["language"] == language]
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            subprocess.run(
                [
                    sys.executable, "-m", "whisperx", *some, "--model", str(model), "--language", language,
                    "--no_align", "--output_format", "txt", "--output_dir", folder, "--device", "cpu",
                    "--compute_type", "float32", "--threads", str(os.cpu_count()),
                ],
                check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            for path in some:
                text = (Path(folder) / (Path(path).stem + ".txt")).read_text(encoding="utf-8")
                result = {"seconds": seconds / len(some), "first": None, "text": text, "path": path}
                results.append(result)
    by_path = {result["path"]: result for result in results}
    return [by_path[file["path"]] for file in files]


def openai_whisper(files: list[Row], model: Path) -> list[Result]:
    import whisper  # with base.pt in the model's folder

    loaded = whisper.load_model(str(model / "base.pt"), device="cpu")

    def run(file: Row) -> Result:
        began = time.perf_counter()
        text = loaded.transcribe(file["path"], language=file["language"], beam_size=None, fp16=False)["text"]
        return {"seconds": time.perf_counter() - began, "first": None, "text": text}

    return [run(file) for file in files]


def whisper_cpp(files: list[Row], model: Path) -> list[Result]:
    from pywhispercpp.model import Model  # with ggml-base-q8_0.bin in the model's folder

    loaded = Model(str(model / "ggml-base-q8_0.bin"), n_threads=os.cpu_count())

    def run(file: Row) -> Result:
        began = time.perf_counter()
        text = " ".join(part.text for part in loaded.transcribe(file["path"], language=file["language"]))
        return {"seconds": time.perf_counter() - began, "first": None, "text": text}

    return [run(file) for file in files]


SYSTEMS: dict[str, Callable[[list[Row], Path], list[Result]]] = {
    "ours": ours,
    "ours-beam5": lambda files, model: ours(files, model, beam=5),
    "service": service,
    "whisperx-cli": whisperx,
    "fw-greedy": lambda files, model: faster_whisper(files, model, beam=1),
    "fw-beam5": lambda files, model: faster_whisper(files, model, beam=5),
    "fw-batched-greedy": lambda files, model: faster_whisper(files, model, beam=1, batch=8),
    "fw-batched-beam5": lambda files, model: faster_whisper(files, model, beam=5, batch=8),
    "openai-whisper": openai_whisper,
    "whisper.cpp": whisper_cpp,
}
NEEDS = {"openai-whisper": "whisper", "whisper.cpp": "pywhispercpp"}


def measure(system: str, files: list[Row], model: Path) -> Result:
    """One system in a process of its own: what it heard, how long it took, the most memory of its tree."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        command = [
            sys.executable,
            __file__,
            "--child",
            system,
            "--model",
            str(model),
            "--answer",
            answer.name,
        ]
        began, spent = time.perf_counter(), _children_cpu()
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environ) as process:
            memory: list[float] = [0.0]
            watcher = threading.Thread(target=_watch, args=(process.pid, memory), daemon=True)
            watcher.start()
            process.communicate(json.dumps(files))
        assert process.returncode == 0, f"{system} failed"
        whole = time.perf_counter() - began
        cpu = _children_cpu() - spent
        return {"files": json.load(answer), "whole": whole, "memory": max(memory), "cpu": cpu}


def _children_cpu() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(pid: int, memory: list[float]) -> None:
    try:
        process = psutil.Process(pid)
        while process.is_running():
            tree = [process, *process.children(recursive=True)]
            memory.append(sum(one.memory_info().rss for one in tree) / 2**20)
            time.sleep(0.2)
    except psutil.Error:
        return


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
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    kept = [
        {**row, "name": row["path"], "path": str(folder / row["path"]), "text": _reference(folder, row)}
        for row in rows
        if row["path"].startswith(tuple(wanted)) and (tuning or row["path"] not in TUNED_ON)
    ]
    return [row for row in kept if row["text"] and row["language"] and float(row["duration_s"] or 0)]


def _reference(folder: Path, row: Row) -> str:
    beside = (folder / row["path"]).with_suffix(".txt")
    return beside.read_text(encoding="utf-8") if beside.is_file() else row["reference_text"] or ""


def table(systems: list[str], files: list[Row], rounds: dict[str, list[Result]]) -> None:
    name, normaliser = normalisers()
    languages = sorted(
        {file["language"] for file in files}, key=lambda language: (language != "en", language)
    )
    length = sum(float(file["duration_s"]) for file in files)
    print(f"{len(files)} recordings, {length:.0f} s; {os.cpu_count()} cores; normaliser: {name}")
    print("error rates in % (of characters in zh and ja); x real time warm and with its start; medians\n")
    print(
        f"{'':18} {'warm':>6} {'start':>6} {'ours/it':>7} {'cpu s':>6} {'first s':>7} {'MB':>6}  {'all':>5}",
        end=" ",
    )
    print(*(f"{language:>5}" for language in languages))
    for system in systems:
        done = rounds[system]
        warm = [length / sum(file["seconds"] for file in one["files"]) for one in done]
        own = [length / sum(file["seconds"] for file in one["files"]) for one in rounds[systems[0]]]
        ratio = statistics.median(a / b for a, b in zip(own, warm, strict=True))
        firsts = [file["first"] for one in done for file in one["files"] if file["first"]]
        counts = {
            language: [
                errors(file["text"], result["text"], normaliser(language))
                for file, result in zip(files, done[0]["files"], strict=True)
                if file["language"] == language
            ]
            for language in languages
        }
        rates = [_rate([pair for some in counts.values() for pair in some]), *map(_rate, counts.values())]
        print(
            f"{system:18} {statistics.median(warm):6.1f} "
            f"{statistics.median(length / one['whole'] for one in done):6.1f} {ratio:7.2f} "
            f"{statistics.median(one['cpu'] for one in done):6.1f} "
            f"{statistics.median(firsts) if firsts else float('nan'):7.2f} "
            f"{statistics.median(one['memory'] for one in done):6.0f} ",
            *(f"{rate:5.1f}" for rate in rates),
            flush=True,
        )


def _rate(pairs: list[tuple[int, int]]) -> float:
    return 100 * sum(edits for edits, _ in pairs) / max(1, sum(words for _, words in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, default=AUDIO)
    parser.add_argument("--recordings", nargs="+", default=["clips"])
    parser.add_argument("--systems", nargs="+", default=["ours", "fw-batched-greedy"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--service", action="store_true", help="ours through the whole service too")
    parser.add_argument("--tuning", action="store_true", help="recordings that settings were chosen on too")
    parser.add_argument("--model", type=Path, help="a folder with a CTranslate2 model; default: base")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        results = SYSTEMS[given.child](json.load(sys.stdin), given.model)
        given.answer.write_text(json.dumps(results), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        run(given, Path(folder))


def run(given: argparse.Namespace, folder: Path) -> None:
    from stt.settings import Settings
    from workers import models

    model = given.model or models.find("base", Settings(data_dir=folder))
    files = recordings(given.audio, given.recordings, tuning=given.tuning)
    assert files, f"no recordings in {given.audio} begin with {given.recordings}"
    systems = [name for name in SYSTEMS if name in given.systems or (name == "service" and given.service)]
    if given.systems == ["all"]:
        systems = [name for name in SYSTEMS if name != "service" or given.service]
    missing = [name for name in systems if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None]
    print("not installed:", *missing or ["-"])
    systems = [name for name in systems if name not in missing]
    rounds: dict[str, list[Result]] = {name: [] for name in systems}
    for number in range(given.rounds):
        for name in systems if number % 2 == 0 else systems[::-1]:
            rounds[name].append(measure(name, files, model))
    table(systems, files, rounds)


if __name__ == "__main__":
    main()
