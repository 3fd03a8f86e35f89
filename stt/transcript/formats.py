"""A transcript in, the bytes of a txt, srt, vtt, tsv, json or docx file out. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from stt.transcript import scripts, subtitles
from stt.transcript.paragraphs import paragraphs, plain_text
from stt.transcript.schema import Paragraph, Segment, Transcript
from stt.transcript.subtitles import Cue

RIGHT_TO_LEFT_MARK = "\u200f"


def document(segments: list[Segment], *, language: str | None, duration: float | None) -> Transcript:
    """The transcript in WhisperX's own shape, so that its users' tools go on working."""
    return {
        "text": plain_text(segments),
        "language": language,
        "duration": duration,
        "segments": [_shown(segment, number) for number, segment in enumerate(segments)],
    }


def _shown(segment: Segment, number: int) -> Segment:
    return {"id": number, **segment, "text": segment["text"].strip()}


def to_json(transcript: Transcript) -> str:
    return json.dumps(transcript, ensure_ascii=False, indent=1) + "\n"


def to_txt(transcript: Transcript) -> str:
    """Paragraphs with an empty line between, each with its speaker where speakers are known."""
    return "\n".join(f"{_spoken(part)}\n" for part in paragraphs(transcript["segments"]))


def _spoken(part: Paragraph) -> str:
    text = " ".join(part["text"].split())
    return f"{part['speaker']}: {text}" if part["speaker"] else text


def to_srt(transcript: Transcript) -> str:
    """SubRip; a speaker stands before the text, as WhisperX writes it."""
    longest = max((len(_mark(segment.get("speaker"))) for segment in transcript["segments"]), default=0)
    found = subtitles.cues(transcript["segments"], label=longest)
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_labelled(cue)}\n\n"
        for number, cue in enumerate(found, 1)
    )


def _mark(speaker: str | None) -> str:
    return f"[{speaker}]: " if speaker else ""


def _labelled(cue: Cue) -> str:
    text = re.sub("--+>", "->", "\n".join(cue.texts))  # an arrow looks like a time line
    mark = _mark(cue.speaker)
    # Without the mark before it, the Latin label would turn an Arabic or Hebrew line around.
    return (RIGHT_TO_LEFT_MARK if mark and scripts.right_to_left(text) else "") + mark + text


def to_vtt(transcript: Transcript, *, highlight: bool = False) -> str:
    """WebVTT with speakers as voices; with `highlight`, the time of each word for players that show it."""
    found = subtitles.cues(transcript["segments"])
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_voiced(cue, highlight)}\n\n" for cue in found
    )


def _voiced(cue: Cue, highlight: bool) -> str:
    voice = f"<v {_escaped(cue.speaker)}>" if cue.speaker else ""
    if not highlight:
        return voice + "\n".join(map(_escaped, cue.texts))
    return voice + "\n".join(
        "".join(
            _escaped(text) if time is None else f"<{_time(time, '.')}>{_escaped(text)}" for time, text in line
        )
        for line in subtitles.stamped(cue)
    )


def _escaped(text: str) -> str:
    """`&`, `<` and `>` escaped, as WebVTT's grammar asks."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_tsv(transcript: Transcript) -> str:
    """Start and end in milliseconds and the text, as Whisper's command line writes it.

    A fourth column holds the speaker, where speakers are known at all.
    """
    segments = [segment for segment in transcript["segments"] if segment["text"].strip()]
    named = any(segment.get("speaker") for segment in segments)
    lines = ["start\tend\ttext\tspeaker" if named else "start\tend\ttext"]
    for segment in segments:
        columns = [str(round(segment["start"] * 1000)), str(round(segment["end"] * 1000))]
        columns.append(" ".join(segment["text"].split()))
        lines.append("\t".join([*columns, segment.get("speaker") or ""] if named else columns))
    return "\n".join(lines) + "\n"


def _time(milliseconds: int, mark: str) -> str:
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{rest:03d}"


def to_docx(transcript: Transcript, *, title: str = "") -> bytes:
    """A Word document: title, then paragraphs with their time and speaker."""
    from stt.transcript import docx  # noqa: PLC0415  its library takes a while to load and few need it

    return docx.write(transcript, paragraphs(transcript["segments"]), title=title)


Writer = Callable[[Transcript], str | bytes]
# By the name a download asks for: how it is written, and its media type.
FORMATS: dict[str, tuple[Writer, str]] = {
    "txt": (to_txt, "text/plain"),
    "srt": (to_srt, "application/x-subrip"),
    "vtt": (to_vtt, "text/vtt"),
    "tsv": (to_tsv, "text/tab-separated-values"),
    "json": (to_json, "application/json"),
    "docx": (to_docx, "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
}
