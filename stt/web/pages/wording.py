"""Numbers, times and stages as words for a person: the filters of the templates. Pure."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from stt.transcript.labels import clock, language_name, speaker_name
from stt.transcript.paragraphs import paragraphs

STAGES = {
    "decode": "Reading the recording",
    "transcribe": "Transcribing",
    "align": "Timing the words",
    "speakers": "Identifying speakers",
    "finish": "Saving the text",
}
STATUSES = {
    "pending": "Waiting",
    "processing": "Starting",
    "completed": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


def size(count: int) -> str:
    """Bytes, in the decimal units of file managers: ``4.2 MB``."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 9.95 else f"{value:.1f} {units[0]}"


def iso_duration(seconds: float) -> str:
    """Seconds as HTML's ``<time>`` wants them: ``PT42S``."""
    return f"PT{int(seconds)}S"


def left(seconds: float) -> str:
    """An estimate in seconds, rounded: ``about 2 min left``."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {round(seconds / 5) * 5} s left"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60} min left"


def percent(fraction: float) -> int:
    """Whole per cent; 100 only when all is done."""
    return int(max(0.0, min(1.0, fraction)) * 100)


def moment(value: str | dt.datetime) -> dt.datetime:
    """A time of the job, which in `Job.public()` is RFC 3339."""
    return value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)


def when(value: str | dt.datetime) -> str:
    """A time in full, in UTC; static/live.js shows it in the reader's zone."""
    return moment(value).astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def ago(value: str | dt.datetime, now: dt.datetime | None = None) -> str:
    """How long ago: ``3 minutes ago``; static/live.js updates it on an open page."""
    seconds = ((now or dt.datetime.now(dt.UTC)) - moment(value)).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def until(value: str | dt.datetime, now: dt.datetime | None = None) -> str:
    """How long until then: ``in 40 s``; static/live.js counts down on an open page."""
    seconds = math.ceil((moment(value) - (now or dt.datetime.now(dt.UTC))).total_seconds())
    if seconds < 1:
        return "when a worker is free"
    return f"in {seconds} s" if seconds < 100 else f"in {round(seconds / 60)} min"


def model_name(model: str) -> str:
    """A model's name without the folders or the account before it."""
    return PurePath(model).name or model


def doing(job: dict[str, Any]) -> str:
    """The stage or the status of a job, in words."""
    if job["status"] == "processing" and job["stage"]:
        return STAGES.get(job["stage"], STATUSES["processing"])
    return STATUSES[job["status"]]


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "clock": clock,
    "doing": doing,
    "iso_duration": iso_duration,
    "language_name": language_name,
    "left": left,
    "model_name": model_name,
    "paragraphs": paragraphs,
    "percent": percent,
    "size": size,
    "speaker_name": speaker_name,
    "until": until,
    "when": when,
}
