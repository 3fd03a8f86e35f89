"""The systems that bench/engine.py compares: recordings with their languages in, texts and times out.

Each runs in a process of its own, which is this file: ``peers.py SYSTEM MODEL ANSWER``, the recordings on its
standard input. The first recording is for warming up.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

Row = dict[str, str]
Result = dict[str, Any]
CORES = os.cpu_count() or 1
BATCH = 8  # faster-whisper's and WhisperX's own


def ours(files: list[Row], model: Path, **settings: Any) -> list[Result]:
    """Our engine's process as a worker drives it, without service around it."""

    async def run() -> list[Result]:
        engine = await start(model, **settings)
        results = [await ask(engine, file, model) for file in files]
        await engine.close()
        return results

    return asyncio.run(run())


async def start(model: Path, **settings: Any) -> Any:
    """Our engine, started."""
    from stt import logs
    from stt.settings import Settings
    from workers.engine.handle import EngineProcess

    logs.configure()

    engine = EngineProcess(Settings(data_dir=Path(tempfile.gettempdir()) / "stt-bench", **settings))
    await engine.start()
    return engine


async def ask(
    engine: Any,
    file: Row,
    model: Path,
    on_event: Callable[[Result], None] = lambda event: None,
    **options: Any,
) -> Result:
    """One recording through our engine; `on_event` is told each event."""
    began, first, text = time.perf_counter(), None, ""
    request = {
        "type": "transcribe", "path": file["path"], "model": str(model), "task": "transcribe",
        "language": file["language"], "options": options, "resume": {},
    }  # fmt: skip
    async for event in engine.transcribe(request):
        on_event(event)
        if event["type"] == "span":
            text += "".join(segment["text"] for segment in event["segments"])
            first = first or (time.perf_counter() - began if text else None)
        assert event["type"] != "error", event
    return {"seconds": time.perf_counter() - began, "first": first, "text": text}


def service(files: list[Row], model: Path) -> list[Result]:
    """The whole service, from the upload to the last event."""
    with tempfile.TemporaryDirectory() as folder, up(Path(folder), model) as url:
        return [through(url, file) for file in files]


@contextmanager
def up(folder: Path, model: Path) -> Iterator[str]:
    """`stt up` with its data in a folder, which is made, and with nothing else set: its address."""
    folder.mkdir(exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STT_")} | {
        "STT_DATA_DIR": str(folder), "STT_PORT": "0", "STT_LOG_LEVEL": "WARNING",
        "STT_MODEL": str(model),
    }  # fmt: skip
    command = [sys.executable, "-m", "stt", "up"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        lines = (re.search(r"ready: (\S+)", line) for line in process.stdout)
        found = next((line for line in lines if line), None)
        try:
            assert found, "the service did not come up"
            yield found[1]
        finally:
            process.terminate()
            process.wait()


def through(url: str, file: Row) -> Result:
    """One recording through the service, and deleted afterwards."""
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
    urllib.request.urlopen(urllib.request.Request(f"{url}/api/jobs/{job['id']}", method="DELETE")).close()
    return {"seconds": seconds, "first": first, "text": job["transcription_text"] or ""}


def faster_whisper(
    files: list[Row], model: Path, *, beam: int, batch: int = 0, words: bool = False
) -> list[Result]:
    """faster-whisper in int8 with all cores, recording after recording; `words`: with their times, too."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    loaded = WhisperModel(str(model), device="cpu", compute_type="int8", cpu_threads=CORES)
    options: dict[str, Any] = {"beam_size": beam, "word_timestamps": words}
    options |= {"batch_size": batch} if batch else {}
    pipeline = BatchedInferencePipeline(loaded) if batch else loaded

    def run(file: Row) -> Result:
        began, first, text = time.perf_counter(), None, ""
        segments, _ = pipeline.transcribe(file["path"], language=file["language"], **options)
        for segment in segments:
            first = first or time.perf_counter() - began
            text += " " + segment.text
        return {"seconds": time.perf_counter() - began, "first": first, "text": text}

    return [run(file) for file in files]


class Printed(io.StringIO):
    """A standard output that knows when it first had a mark in it."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark
        self.at: float | None = None

    def write(self, text: str) -> int:
        if self.at is None and self._mark in text:
            self.at = time.perf_counter()
        return super().write(text)

    def since(self, began: float) -> float | None:
        """Seconds from `began` to the mark."""
        return None if self.at is None else self.at - began


def whisperx(files: list[Row], model: Path) -> list[Result]:
    """WhisperX's command line with its defaults: float32, beam 5, batch 8, pyannote's voice activity.

    Kinder to it than the shell: it has all files of a language in one call and is imported once, neither that
    nor the loading of its models counts as time of a recording, and it has a thread for each core instead of
    four. No alignment, whose models need the hub.
    """
    results: dict[int, Result] = {}
    languages = sorted({file["language"] for file in files[1:]})
    groups = [[0]] + [
        [number for number in range(1, len(files)) if files[number]["language"] == language]
        for language in languages
    ]
    for numbers in groups:
        found = _command_line([files[number] for number in numbers], model)
        results.update(zip(numbers, found, strict=True))
    return [results[number] for number in range(len(files))]


def _command_line(files: list[Row], model: Path) -> list[Result]:
    import whisperx.transcribe as command
    from whisperx.__main__ import cli

    began: list[float] = []
    printed: list[Printed] = []

    def taken_up(path: str) -> Any:
        began.append(time.perf_counter())
        printed.append(Printed("Transcript:"))
        sys.stdout = printed[-1]
        return load_audio(path)

    load_audio = command.load_audio
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n}{Path(file['path']).suffix}" for n, file in enumerate(files)]
        for path, file in zip(paths, files, strict=True):
            path.symlink_to(file["path"])
        arguments = [
            "whisperx", *map(str, paths), "--model", str(model), "--language", files[0]["language"],
            "--device", "cpu", "--threads", str(CORES), "--no_align",
            "--output_format", "txt", "--output_dir", folder,
        ]  # fmt: skip
        with (
            redirect_stdout(Printed("")),
            patch.object(command, "load_audio", taken_up),
            patch.object(sys, "argv", arguments),
        ):
            cli()
        ended = [*began[1:], time.perf_counter()]
        return [
            {
                "seconds": end - start, "first": shown.since(start),
                "text": path.with_suffix(".txt").read_text(encoding="utf-8"),
            }
            for path, start, end, shown in zip(paths, began, ended, printed, strict=True)
        ]  # fmt: skip


def openai_whisper(files: list[Row], model: Path, *, beam: int) -> list[Result]:
    """openai-whisper in float32. Greedy is what its function does by default, beam 5 its command line."""
    import whisper

    loaded = whisper.load_model(str(model / "base.pt"), device="cpu")
    options = {"beam_size": beam, "best_of": 5} if beam > 1 else {}

    def run(file: Row) -> Result:
        began = time.perf_counter()
        with redirect_stdout(Printed("-->")) as printed:
            found = loaded.transcribe(
                file["path"], language=file["language"], fp16=False, verbose=True, **options
            )
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "first": printed.since(began), "text": found["text"]}

    return [run(file) for file in files]


def whisper_cpp(files: list[Row], model: Path, *, beam: int, weights: str) -> list[Result]:
    """whisper.cpp through pywhispercpp, recordings decoded by ffmpeg as its command line does."""
    from pywhispercpp.model import Model

    how: dict[str, Any] = {"beam_search": {"beam_size": beam, "patience": -1.0}} if beam > 1 else {}
    loaded = Model(
        str(model / f"ggml-{weights}.bin"), params_sampling_strategy=int(beam > 1), n_threads=CORES,
        print_progress=False, **how,
    )  # fmt: skip

    def run(file: Row) -> Result:
        began, firsts = time.perf_counter(), []
        parts = loaded.transcribe(
            _decoded(file["path"]), language=file["language"],
            new_segment_callback=lambda _: firsts.append(time.perf_counter() - began),
        )  # fmt: skip
        text = " ".join(part.text for part in parts)
        return {"seconds": time.perf_counter() - began, "first": min(firsts, default=None), "text": text}

    return [run(file) for file in files]


def _decoded(path: str) -> np.ndarray:
    command = ["ffmpeg", "-nostdin", "-i", path, "-f", "s16le", "-ac", "1", "-ar", "16000", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.int16).astype(np.float32) / 32768


@dataclass(frozen=True)
class System:
    """How a system is run, and what it is."""

    run: Callable[[list[Row], Path], list[Result]]
    beam: int  # width of its search
    peer: bool = True
    module: str = ""  # what must be installed for it beyond the project's own
    ffmpeg: bool = False
    converted: bool = False  # it needs the weights in another form


SYSTEMS: dict[str, System] = {
    "ours": System(ours, 1, peer=False),
    "ours-beam5": System(lambda files, model: ours(files, model, beam_size=5), 5, peer=False),
    "service": System(service, 1, peer=False),
    "whisperx-cli": System(whisperx, 5, ffmpeg=True),
    "fw-beam5": System(lambda files, model: faster_whisper(files, model, beam=5), 5),
    "fw-greedy": System(lambda files, model: faster_whisper(files, model, beam=1), 1),
    "fw-batched-beam5": System(lambda files, model: faster_whisper(files, model, beam=5, batch=BATCH), 5),
    "fw-batched-greedy": System(lambda files, model: faster_whisper(files, model, beam=1, batch=BATCH), 1),
    "fw-batched-words": System(
        lambda files, model: faster_whisper(files, model, beam=1, batch=BATCH, words=True), 1
    ),
} | {
    f"openai-{name}": System(
        lambda files, model, beam=beam: openai_whisper(files, model, beam=beam), beam,
        module="whisper", ffmpeg=True, converted=True,
    )
    for name, beam in (("beam5", 5), ("greedy", 1))
} | {
    f"cpp-{weights}-{name}": System(
        lambda files, model, beam=beam, kind=weights: whisper_cpp(files, model, beam=beam, weights=kind),
        beam, module="pywhispercpp", ffmpeg=True, converted=True,
    )
    for weights in ("f16", "q8_0")
    for name, beam in (("beam5", 5), ("greedy", 1))
}  # fmt: skip


if __name__ == "__main__":
    system, model, answer = sys.argv[1:]
    results = SYSTEMS[system].run(json.load(sys.stdin), Path(model))
    Path(answer).write_text(json.dumps(results), encoding="utf-8")
