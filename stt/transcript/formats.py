"""Writes a transcript as a txt, srt, vtt, tsv, json or docx file. Pure."""

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
    """Make the transcript in the shape of WhisperX's JSON, so that tools for that can read it.

    Args:
        segments: All segments of the recording, in order.
        language: The code of the language; None if nobody speaks.
        duration: The length of the recording in seconds; None if unknown.
    """
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
    """Write paragraphs with an empty line between them, each with its speaker, if known."""
    return "\n".join(f"{_spoken(part)}\n" for part in paragraphs(transcript["segments"]))


def _spoken(part: Paragraph) -> str:
    text = " ".join(part["text"].split())
    return f"{part['speaker']}: {text}" if part["speaker"] else text


def to_srt(transcript: Transcript) -> str:
    """Write SubRip subtitles. The speaker is put before the text, as WhisperX does."""
    longest = max((len(_label(segment.get("speaker"))) for segment in transcript["segments"]), default=0)
    found = subtitles.cues(transcript["segments"], label=longest)
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_labelled(cue)}\n\n"
        for number, cue in enumerate(found, 1)
    )


def _label(speaker: str | None) -> str:
    return f"[{speaker}]: " if speaker else ""


def _labelled(cue: Cue) -> str:
    text = re.sub("--+>", "->", "\n".join(cue.texts))  # players take a line with an arrow for times
    label = _label(cue.speaker)
    # Without this mark, the Latin label would make players show an Arabic or Hebrew line from left to right.
    return (RIGHT_TO_LEFT_MARK if label and scripts.right_to_left(text) else "") + label + text


def to_vtt(transcript: Transcript, *, highlight: bool = False) -> str:
    """Write WebVTT subtitles, with speakers as voice spans; `highlight`: with the time of each word."""
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
        for line in subtitles.word_times(cue)
    )


def _escaped(text: str) -> str:
    """The text with `&`, `<` and `>` escaped, as WebVTT's syntax requires."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_tsv(transcript: Transcript) -> str:
    """Write start and end in milliseconds and the text, in columns, as Whisper's command line does.

    If any speaker is known, a fourth column holds the speaker.
    """
    segments = [segment for segment in transcript["segments"] if segment["text"].strip()]
    named = any(segment.get("speaker") for segment in segments)
    lines = ["start\tend\ttext\tspeaker" if named else "start\tend\ttext"]
    for segment in segments:
        columns = [str(round(segment["start"] * 1000)), str(round(segment["end"] * 1000))]
        columns.append(" ".join(segment["text"].split()))
        lines.append("\t".join([*columns, segment.get("speaker") or ""] if named else columns))
    return "\n".join(lines) + "\n"


def _time(milliseconds: int, separator: str) -> str:
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{separator}{rest:03d}"


def to_docx(transcript: Transcript, *, title: str = "") -> bytes:
    """Write a Word document: the title, then paragraphs with their time and speaker."""
    from stt.transcript import docx  # noqa: PLC0415  python-docx takes long to import

    return docx.write(transcript, paragraphs(transcript["segments"]), title=title)


Writer = Callable[[Transcript], str | bytes]
# For each name of a format: the function that writes it, and its media type.
FORMATS: dict[str, tuple[Writer, str]] = {
    "txt": (to_txt, "text/plain"),
    "srt": (to_srt, "application/x-subrip"),
    "vtt": (to_vtt, "text/vtt"),
    "tsv": (to_tsv, "text/tab-separated-values"),
    "json": (to_json, "application/json"),
    "docx": (to_docx, "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
}
