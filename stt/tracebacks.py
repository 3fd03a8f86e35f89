"""The text of an exception for logs and reports: where it was raised, without the values that it quotes.

Errors of values and of look-ups, and those of asyncpg, quote what they refuse: a file name, a part of a
transcript, a whole row. Of these only the type is written; the lines of code show what was refused.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

_QUOTING = (ValueError, LookupError)
_QUOTING_MODULES = ("asyncpg",)
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def text(error: BaseException) -> str:
    """The traceback of an exception and of those before it, as Python prints it, without what it quotes."""
    return "".join(_parts(error, set())).rstrip("\n")


def summary(error: BaseException) -> str:
    """The type of an exception and its message, without what it quotes."""
    name, message = type(error).__qualname__, said(error)
    return f"{name}: {message}" if message else name


def said(error: BaseException) -> str:
    """The message of an exception; empty where its type may quote data."""
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)  # without the path
    quoting = isinstance(error, _QUOTING) or type(error).__module__.split(".")[0] in _QUOTING_MODULES
    return "" if quoting else str(error)


def _parts(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _parts(before, seen)
        yield _CAUSE if error.__cause__ else _CONTEXT
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield summary(error) + "\n"
    for one in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _parts(one, seen)
