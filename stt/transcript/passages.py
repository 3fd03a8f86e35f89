"""Makes the warnings about passages of a recording, with their times; a job has one of each kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stt.codes import JobWarning, WarningCode, message
from stt.transcript.labels import clock, language_name

# Most passages that the sentence names; `times` has all of them.
NAMED = 8
# Passages with a smaller distance, in seconds, are joined.
NEAR = 1.0

Times = tuple[float, float] | list[float]  # start and end, in seconds


def warning(code: WarningCode, times: Iterable[Times], language: str = "", instead: str = "") -> JobWarning:
    """A warning with the times of its passages and a sentence for a person.

    Args:
        code: UNCOVERED_SPEECH or OTHER_LANGUAGE.
        times: Start and end of each passage in seconds of the recording, in any order.
        language: The language that is spoken there, for OTHER_LANGUAGE.
        instead: The language in which the text is written, for OTHER_LANGUAGE.
    """
    joined = _joined(times)
    places = _places(joined)
    if code == WarningCode.UNCOVERED_SPEECH:
        sentence = message(code, reason="one" if len(joined) == 1 else "several", places=places)
        return {"code": code, "message": sentence, "times": joined}
    name, other = language_name(language).capitalize(), language_name(instead).capitalize()
    sentence = message(code, name=name, places=places, other=other)
    return {"code": code, "message": sentence, "times": joined, "language": language, "instead": instead}


def add(warnings: Iterable[JobWarning], new: JobWarning) -> list[JobWarning]:
    """Add a warning to a list. It is joined with a warning of the same code and languages."""
    kept, times = [], list(new["times"])
    for old in warnings:
        if _kind(old) == _kind(new):
            times += old["times"]
        else:
            kept.append(old)
    return [*kept, warning(WarningCode(new["code"]), times, new.get("language", ""), new.get("instead", ""))]


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
