"""Checks whether text from clients can be stored, and replaces what cannot be shown."""

from __future__ import annotations


def flaw(text: str) -> str | None:
    """Why PostgreSQL or UTF-8 refuses a text, as the end of a sentence; None: they accept it."""
    if "\0" in text:
        return "holds a NUL character, which cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds bytes that are no UTF-8 text"
    return None


def displayable(text: str) -> str:
    """The text with a question mark for each NUL and each lone surrogate."""
    return text.encode(errors="replace").decode().replace("\0", "?")
