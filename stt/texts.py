"""Text from outside: what can be stored and shown of it."""

from __future__ import annotations


def flaw(text: str) -> str | None:
    """What PostgreSQL and UTF-8 would refuse in a text; None where they take it."""
    if "\0" in text:
        return "holds a NUL character, which cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds bytes that are no UTF-8 text"
    return None


def shown(text: str) -> str:
    """The same text, fit for any answer: what is no character becomes a question mark."""
    return text.encode(errors="replace").decode().replace("\0", "?")
