"""Checks whether text from clients can be stored, and makes it displayable."""

from __future__ import annotations


def flaw(text: str) -> str | None:
    """Why PostgreSQL or UTF-8 would refuse a text, as the end of a sentence; None if they take it."""
    if "\0" in text:
        return "holds a NUL character, which cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds bytes that are no UTF-8 text"
    return None


def shown(text: str) -> str:
    """The text with a question mark for each NUL and each lone surrogate."""
    return text.encode(errors="replace").decode().replace("\0", "?")
