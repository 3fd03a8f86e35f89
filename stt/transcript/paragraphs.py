"""Groups the segments of a transcript into paragraphs for reading. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from stt.transcript import scripts
from stt.transcript.schema import Paragraph, Segment

# A longer silence begins a new paragraph, in seconds.
PARAGRAPH_PAUSE = 2.0
# So much text ends a paragraph, after a sentence and at the latest.
PARAGRAPH_CHARACTERS = 480
PARAGRAPH_CHARACTERS_AT_MOST = 960


def plain_text(segments: Iterable[Segment]) -> str:
    """All that was said, in one line: the job's `transcription_text`."""
    return _joined(segment["text"] for segment in segments)


def _joined(texts: Iterable[str]) -> str:
    """Whisper begins a word with a space where its language has spaces: nothing is put between.

    Stripped texts of older rows or edits would run together, so a space is put where both sides are words.
    """
    out = ""
    for text in texts:
        out += " " + text if out and text and scripts.needs_space(out[-1], text[0]) else text
    return out.strip()


def paragraphs(segments: Iterable[Segment]) -> list[Paragraph]:
    """Segments grouped for reading: at a long pause, another speaker, or after enough text.

    Returns:
        For each paragraph the ``id`` of its first segment (if it has one), ``start`` (seconds),
        ``speaker`` (or None), ``text``, and its ``segments``, whose texts put together are the paragraph's.
    """
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
