"""Groups the segments of a transcript into paragraphs for reading. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from stt.transcript import scripts
from stt.transcript.schema import Paragraph, Segment

# Seconds of silence after which a new paragraph begins.
PARAGRAPH_PAUSE = 2.0
# Characters after which a paragraph ends: with the sentence, and at the latest.
PARAGRAPH_CHARACTERS = 480
PARAGRAPH_CHARACTERS_AT_MOST = 960


def plain_text(segments: Iterable[Segment]) -> str:
    """The text of all segments in one line: the job's `transcription_text`."""
    return _joined(segment["text"] for segment in segments)


def _joined(texts: Iterable[str]) -> str:
    """Join texts. A space is added only between two words that have none.

    Whisper's texts begin with a space if their language has spaces. Those of older rows and of edits may not.
    """
    out = ""
    for text in texts:
        out += " " + text if out and text and scripts.needs_space(out[-1], text[0]) else text
    return out.strip()


def paragraphs(segments: Iterable[Segment]) -> list[Paragraph]:
    """Group segments for reading: a paragraph ends at a long pause, a change of speaker, or enough text."""
    grouped: list[Paragraph] = []
    for segment in segments:
        if not segment["text"].strip():
            continue
        if not grouped or _starts_paragraph(grouped[-1], segment):
            grouped.append(_begun(segment))
        _append(grouped[-1], segment)
    return grouped


def _begun(segment: Segment) -> Paragraph:
    """An empty paragraph that begins with a segment."""
    return {
        "id": segment.get("id"),
        "start": segment["start"],
        "speaker": segment.get("speaker"),
        "text": "",
        "segments": [],
    }


def _append(paragraph: Paragraph, segment: Segment) -> None:
    before = paragraph["text"]
    paragraph["text"] = _joined([before, segment["text"]])
    paragraph["segments"].append({**segment, "text": paragraph["text"][len(before) :]})


def _starts_paragraph(last: Paragraph, segment: Segment) -> bool:
    if segment.get("speaker") != last["speaker"]:
        return True
    if segment["start"] - last["segments"][-1]["end"] > PARAGRAPH_PAUSE:
        return True
    length = len(last["text"])
    ended = scripts.ends_sentence(last["text"])
    return length >= PARAGRAPH_CHARACTERS_AT_MOST or (length >= PARAGRAPH_CHARACTERS and ended)
