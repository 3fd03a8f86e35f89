"""Makes the warnings about passages of a recording, with their times; a job has one of each kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stt.transcript.labels import clock, language_name

# Somebody probably speaks there, but no words were recognised.
UNCOVERED = "uncovered_speech"
# Another language is spoken there than the language of the text.
OTHER_LANGUAGE = "other_language"
# The sentence names so many passages; `times` has all of them.
NAMED = 8
# Passages that are closer than this, in seconds, are one.
NEAR = 1.0

JobWarning = dict[str, Any]
Times = tuple[float, float] | list[float]  # start and end, in seconds


def warning(code: str, times: Iterable[Times], language: str = "", instead: str = "") -> JobWarning:
    """A warning with the times of its passages and a sentence for a person.

    Args:
        code: UNCOVERED or OTHER_LANGUAGE.
        times: Start and end of each passage in seconds of the recording, in any order.
        language: The language that is spoken there, for OTHER_LANGUAGE.
        instead: The language in which the text is written, for OTHER_LANGUAGE.
    """
    joined = _joined(times)
    places = _places(joined)
    if code == UNCOVERED:
        message = (
            f"Somebody probably speaks {places}, but no words were recognised there. Please listen to "
            f"{'this passage' if len(joined) == 1 else 'these passages'} and add what is missing."
        )
        return {"code": code, "message": message, "times": joined}
    name, other = language_name(language).capitalize(), language_name(instead).capitalize()
    message = (
        f"{name} is spoken {places}, where the text is written as {other}: it may be missing, wrong or "
        f"translated there. To get it right, send that part by itself with the language {name}."
    )
    return {"code": code, "message": message, "times": joined, "language": language, "instead": instead}


def add(warnings: Iterable[JobWarning], new: JobWarning) -> list[JobWarning]:
    """The warnings with a new one, which takes the passages of a warning of the same kind and languages."""
    kept, times = [], list(new["times"])
    for old in warnings:
        if _kind(old) == _kind(new):
            times += old["times"]
        else:
            kept.append(old)
    return [*kept, warning(new["code"], times, new.get("language", ""), new.get("instead", ""))]


def _kind(warning: JobWarning) -> tuple[str, ...]:
    return warning["code"], warning.get("language", ""), warning.get("instead", "")


def _joined(times: Iterable[Times]) -> list[list[float]]:
    """The passages in order, those that overlap or nearly touch as one; times in hundredths of a second."""
    joined: list[list[float]] = []
    for start, end in sorted(times):
        if joined and start - joined[-1][1] <= NEAR:
            joined[-1][1] = max(joined[-1][1], round(end, 2))
        else:
            joined.append([round(start, 2), round(end, 2)])
    return joined


def _places(times: Sequence[Times]) -> str:
    """The passages as a part of a sentence: `from 0:42 to 0:50 and from 1:02 to 1:10`."""
    named = [f"from {clock(start)} to {clock(end + 0.999)}" for start, end in times[:NAMED]]
    if more := len(times) - len(named):
        return f"{', '.join(named)} and in {more} more place{'' if more == 1 else 's'}"
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
