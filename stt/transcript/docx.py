"""Writes a transcript as a Word document, with python-docx."""

from __future__ import annotations

import datetime as dt
import io
import unicodedata
from typing import Any

from docx import Document
from docx.oxml import OxmlElement
from docx.shared import Pt, RGBColor

from stt.transcript import scripts
from stt.transcript.labels import clock, language_name, speaker_name
from stt.transcript.schema import Paragraph, Transcript

GREY = RGBColor(0x66, 0x66, 0x66)


def write(transcript: Transcript, paragraphs: list[Paragraph], *, title: str) -> bytes:
    """Write the document: the title, language and length of the recording, and the paragraphs.

    Args:
        transcript: The transcript, for its language and length.
        paragraphs: Its paragraphs.
        title: The heading; empty: none.

    Returns:
        The bytes of the file.
    """
    made = Document()
    properties = made.core_properties
    properties.title, properties.author, properties.comments = _xml(title), "", ""
    properties.language = transcript["language"] or ""
    properties.created = properties.modified = dt.datetime.now(dt.UTC)
    if title:
        _set_direction(made.add_heading(_xml(title), 0))
    if facts := _facts(transcript):
        _grey(made.add_paragraph().add_run(facts))
    for part in paragraphs:
        _add(made, part)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def _facts(transcript: Transcript) -> str:
    language, duration = transcript["language"], transcript["duration"]
    known = [language_name(language)] if language else []
    return " · ".join([*known, clock(duration)] if duration is not None else known)


def _add(made: Any, part: Paragraph) -> None:
    """Add a paragraph. Speaker and time are a line above it, on the same page."""
    head = made.add_paragraph()
    head.paragraph_format.keep_with_next = True
    head.paragraph_format.space_after = Pt(0)
    if part["speaker"]:
        head.add_run(_xml(speaker_name(part["speaker"]))).bold = True
        head.add_run("  ")
    _grey(head.add_run(clock(part["start"])))
    _set_direction(made.add_paragraph(_xml(part["text"])))


def _grey(run: Any) -> None:
    run.font.size = Pt(9)
    run.font.color.rgb = GREY


def _set_direction(paragraph: Any) -> None:
    """Mark a paragraph as right-to-left if its text is. Word does not derive that from the letters."""
    if scripts.right_to_left(paragraph.text):
        paragraph._p.get_or_add_pPr().append(OxmlElement("w:bidi"))
        for run in paragraph.runs:
            run.font.rtl = True


def _xml(text: str) -> str:
    """The text in one line, without the control characters that XML cannot hold."""
    kept = (char for char in " ".join(text.split()) if unicodedata.category(char) not in ("Cc", "Cs", "Cn"))
    return "".join(kept)
