"""Questions to a real engine, and what it answered."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from tests.support.places import AUDIO
from workers.engine.handle import EngineProcess

JFK = AUDIO / "clips" / "jfk.flac"
LONG = AUDIO / "long" / "en_magozwe_6min.mp3"
WORDS = (
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
)


Event = dict[str, Any]


def request(path: Path, *, resume: Event | None = None, **given: Any) -> Event:
    return {
        "type": "transcribe", "path": str(path), "model": "base", "language": "",
        "task": "transcribe", "options": {}, "resume": resume or {}, **given,
    }  # fmt: skip


async def ask(engine: EngineProcess, path: Path, **given: Any) -> list[Event]:
    return [event async for event in engine.transcribe(request(path, **given))]


def segments(events: list[Event]) -> list[Event]:
    return [segment for event in events if event["type"] == "span" for segment in event["segments"]]


def text(events: list[Event]) -> str:
    return "".join(segment["text"] for segment in segments(events))


def plain(said: str) -> str:
    letters = unicodedata.normalize("NFC", said).lower()
    return " ".join(re.sub(r"[^\w\s']", " ", letters).split())


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == kind]
