"""How honest progress is: what a long job tells, and how wrong its time left was once a tenth was done.

``python bench/progress.py`` sends ../shared/audio/long/en_stories_32min.opus to a bare engine, without and
with ``diarize``: each first with no costs learned and then with those of the run before. ``--service`` sends
it to a service of its own instead, ``--runs`` more often, ``--events FILE`` keeps each event told as a row
of a table.

An error is that of the time left as it was told, beside the time that was really left, over that time. Events
before a tenth of the progress do not count, nor do the last seconds (``--last``, as nobody waits for those).
"even" is how far the progress was ever from the share of the time that had passed, from a tenth on.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peers

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT.parent / "shared" / "audio" / "long" / "en_stories_32min.opus"

# Seconds since the beginning, stage, progress, seconds left; the last one is the end.
Told = list[tuple[float, str, float, float | None]]
Run = Callable[[dict[str, Any]], Told]


@contextmanager
def bare(path: Path, folder: Path, model: str) -> Iterator[Run]:
    """A bare engine; its learned costs lie in `folder`."""
    from stt import logs
    from stt.settings import Settings
    from workers.engine.handle import EngineProcess

    logs.configure()

    async def ask(options: dict[str, Any]) -> Told:
        engine, told = EngineProcess(Settings(data_dir=folder)), Told()
        began = time.monotonic()
        request = {
            "type": "transcribe", "path": str(path), "model": model, "task": "transcribe",
            "language": "", "options": options, "resume": {},
        }  # fmt: skip
        async for event in engine.transcribe(request):
            assert event["type"] != "error", event
            if event["type"] == "stage":
                told.append((time.monotonic() - began, event["stage"], event["progress"], event["left"]))
        told.append((time.monotonic() - began, "end", 1.0, 0.0))
        await engine.close()
        return told

    yield lambda options: asyncio.run(ask(options))


@contextmanager
def service(path: Path, folder: Path, model: str) -> Iterator[Run]:
    """A service of its own, whose data folder is `folder`; asked through its events."""
    with peers.up(folder, Path(model)) as url:
        yield lambda options: _through(url, path, options)


def _through(url: str, path: Path, options: dict[str, Any]) -> Told:
    fields = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{str(value).lower()}\r\n'
        for name, value in options.items()
    )
    head = f'{fields}--b\r\nContent-Disposition: form-data; name="file"; filename="a{path.suffix}"\r\n\r\n'
    request = urllib.request.Request(
        f"{url}/api/jobs/upload", head.encode() + path.read_bytes() + b"\r\n--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    job, told, name = json.load(urllib.request.urlopen(request)), Told(), ""
    began = time.monotonic()
    with urllib.request.urlopen(f"{url}/api/jobs/{job['id']}/events") as events:
        for line in events:
            field, _, value = line.decode().rstrip("\r\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "progress":
                data = json.loads(value)
                told.append((time.monotonic() - began, data["stage"], data["progress"], data["eta_seconds"]))
            elif field == "data" and name in ("completed", "failed", "cancelled"):
                assert name == "completed", value
                break
    told.append((time.monotonic() - began, "end", 1.0, 0.0))
    return told


def judge(told: Told, last: float) -> dict[str, str]:
    """A row of the table."""
    end = told[-1][0]
    late = [one for one in told[:-1] if one[2] >= 0.1 and end - one[0] > last]
    errors = [abs(left - (end - at)) / (end - at) for at, _, _, left in late if left is not None]
    if not errors:
        return {"seconds": f"{end:.1f}", "note": "too short"}
    first, began = late[0][2], late[0][0]
    shares = [(p - first) / (1 - first) - (at - began) / (end - began) for at, _, p, _ in late]
    return {
        "seconds": f"{end:.1f}",
        "told": str(len(late)),
        "untold": str(len(late) - len(errors)),
        "median %": f"{100 * statistics.median(errors):.1f}",
        "largest %": f"{100 * max(errors):.1f}",
        "within 25 %": f"{100 * sum(error <= 0.25 for error in errors) / len(errors):.0f}",
        "even %": f"{100 * max(map(abs, shares)):.1f}",
        "back": str(sum(b[2] < a[2] for a, b in itertools.pairwise(told))),
    }


def measure(asked: argparse.Namespace) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    rows, events = [], []
    for diarize in (False, True):
        with tempfile.TemporaryDirectory() as name:
            place = service if asked.service else bare
            with place(asked.recording, Path(name), asked.model) as run:
                for number in range(asked.runs):
                    told = run({"diarize": True} if diarize else {})
                    run_of = {"diarize": "yes" if diarize else "no", "run": str(number + 1)}
                    rows.append(run_of | judge(told, asked.last))
                    print(*rows[-1].items(), file=sys.stderr, flush=True)
                    names = ("at", "stage", "progress", "left")
                    events += [run_of | dict(zip(names, one, strict=True)) for one in told]
    return rows, events


def show(rows: list[dict[str, str]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = [max(len(name), *(len(row.get(name, "")) for row in rows)) for name in names]
    for row in [dict(zip(names, names, strict=True)), *rows]:
        cells = (row.get(name, "").rjust(width) for name, width in zip(names, widths, strict=True))
        print("  ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recording", nargs="?", type=Path, default=RECORDING)
    parser.add_argument("--service", action="store_true", help="through a service instead of a bare engine")
    parser.add_argument("--model", default="base", help="a name, or a model's folder")
    parser.add_argument("--runs", type=int, default=2, help="the first one has nothing learned")
    parser.add_argument("--last", type=float, default=2.0, help="seconds at the end that do not count")
    parser.add_argument("--events", type=Path, help="a CSV file for every event told")
    asked = parser.parse_args()
    rows, events = measure(asked)
    print(f"{asked.recording.name}, {'service' if asked.service else 'bare engine'}, {asked.model}")
    show(rows)
    if asked.events:
        with asked.events.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(events[0]))
            table.writeheader()
            table.writerows(events)


if __name__ == "__main__":
    main()
