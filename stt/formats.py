"""A transcript in, the bytes of a txt, srt, vtt, tsv or json file out. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

Segment = dict[str, Any]

# A longer silence begins a new paragraph, in seconds.
PARAGRAPH_PAUSE = 2.0


def plain_text(segments: Iterable[Segment]) -> str:
    """All that was said, in one line: the job's `transcription_text`."""
    return _joined(segment["text"] for segment in segments)


def _joined(texts: Iterable[str]) -> str:
    """Whisper begins a word with a space where its language has spaces: nothing is put between.

    Stripped texts of older rows or edits would run together, so a space is put where both sides are words.
    """
    out = ""
    for text in texts:
        glue = " " if out and text and _needs_space(out[-1], text[0]) else ""
        out += glue + text
    return out.strip()


def _needs_space(left: str, right: str) -> bool:
    if left.isspace() or right.isspace():
        return False
    return not (_unspaced(left) or _unspaced(right))


def _unspaced(char: str) -> bool:
    """Is it of a script that is written without spaces (CJK, Thai, Lao, Khmer, Burmese)?"""
    code = ord(char)
    return (
        0x0E00 <= code <= 0x0EFF
        or 0x1000 <= code <= 0x109F
        or 0x1780 <= code <= 0x17FF
        or 0x2E80 <= code <= 0x9FFF
        or 0xAC00 > code >= 0xA000
        or 0xF900 <= code <= 0xFAFF
        or 0xFF00 <= code <= 0xFF65
        or 0x20000 <= code <= 0x3FFFF
    )


def document(segments: list[Segment], *, language: str | None, duration: float | None) -> dict[str, Any]:
    """The transcript in WhisperX's own shape, so that its users' tools go on working."""
    return {
        "text": plain_text(segments),
        "language": language,
        "duration": duration,
        "segments": [{"id": number, **_shown(segment)} for number, segment in enumerate(segments)],
    }


def _shown(segment: Segment) -> Segment:
    return {**segment, "text": segment["text"].strip()}


def to_json(transcript: dict[str, Any]) -> str:
    return json.dumps(transcript, ensure_ascii=False, indent=1) + "\n"


def to_txt(transcript: dict[str, Any]) -> str:
    """Paragraphs, parted where nobody speaks for a while."""
    return "".join(_joined(part) + "\n\n" for part in _paragraphs(transcript["segments"]))[:-1]


def _paragraphs(segments: list[Segment]) -> list[list[str]]:
    parts: list[list[str]] = []
    end = float("-inf")
    for segment in segments:
        if segment["start"] - end > PARAGRAPH_PAUSE or not parts:
            parts.append([])
        parts[-1].append(segment["text"])
        end = segment["end"]
    return parts


def to_srt(transcript: dict[str, Any]) -> str:
    return "".join(
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_cues(transcript), 1)
    )


def to_vtt(transcript: dict[str, Any]) -> str:
    """WebVTT; its text has `&`, `<` and `>` escaped, as its grammar asks."""
    cues = (
        f"{_time(start, '.')} --> {_time(end, '.')}\n{_escaped(text)}\n\n"
        for start, end, text in _cues(transcript)
    )
    return "WEBVTT\n\n" + "".join(cues)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_tsv(transcript: dict[str, Any]) -> str:
    """Start and end in milliseconds and the text, as Whisper's command line writes it."""
    rows = (f"{round(start * 1000)}\t{round(end * 1000)}\t{text}\n" for start, end, text in _cues(transcript))
    return "start\tend\ttext\n" + "".join(rows)


def _cues(transcript: dict[str, Any]) -> Iterable[tuple[float, float, str]]:
    for segment in transcript["segments"]:
        # A line break or an arrow within a text would end the cue early.
        text = " ".join(segment["text"].split()).replace("-->", "->")
        if text:
            yield segment["start"], segment["end"], text


def _time(seconds: float, mark: str) -> str:
    total = round(max(seconds, 0) * 1000)
    hours, rest = divmod(total, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, milliseconds = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{milliseconds:03d}"


Writer = Callable[[dict[str, Any]], str]
# By the name a download asks for: how it is written, and its media type.
FORMATS: dict[str, tuple[Writer, str]] = {
    "txt": (to_txt, "text/plain"),
    "srt": (to_srt, "application/x-subrip"),
    "vtt": (to_vtt, "text/vtt"),
    "tsv": (to_tsv, "text/tab-separated-values"),
    "json": (to_json, "application/json"),
}
