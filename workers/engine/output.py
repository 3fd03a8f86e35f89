"""What the engine's process writes to its standard error, as the worker logs it and shows it.

The engine and its children log JSON objects, one a line. Libraries may write anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

ROLE = "engine"
# Keys of a line that a person does not read, or reads elsewhere.
_OWN = (
    "timestamp", "level", "event", "logger", "role", "exception", "request_id", "job_id", "owner", "attempt",
)  # fmt: skip
_QUIET = ("debug", "info")


def parse(line: str) -> dict[str, Any] | None:
    """The keys of a line of the engine's log; None if it is anything else."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    whole = all(isinstance(found.get(name), str) for name in ("timestamp", "level", "event", "logger"))
    return found if whole else None


def relay(line: str, context: Mapping[str, Any]) -> None:
    """Log a line: one of the engine's log with its own level, logger and keys, any other as it is.

    Args:
        line: What the engine's process wrote.
        context: The keys of the job that it works on; a line of its log has them already.
    """
    keys = parse(line)
    if keys is None:
        if line.strip():
            log = structlog.stdlib.get_logger(__name__)
            log.info("engine output", **{**context, "role": ROLE, "text": line})
        return
    level = logging.getLevelNamesMapping().get(keys.pop("level").upper(), logging.INFO)
    event, name = keys.pop("event"), keys.pop("logger")
    structlog.stdlib.get_logger(name).log(level, event, **{"role": ROLE, **keys})


def readable(lines: Iterable[str]) -> str:
    """The lines as a person reads them."""
    return "\n".join(_readable(line) for line in lines)


def _readable(line: str) -> str:
    keys = parse(line)
    if keys is None:
        return line
    others = [f"{name}={value}" for name, value in keys.items() if name not in _OWN]
    first = [keys["timestamp"], keys["level"].upper(), keys["logger"], keys["event"], *others]
    return "\n".join([" ".join(first), *([keys["exception"]] if "exception" in keys else [])])


def last_error(lines: Iterable[str]) -> str:
    """The last line of text that is no line of the log with level INFO or below, or an empty text."""
    for line in reversed(list(lines)):
        keys = parse(line)
        if line.strip() and (keys is None or keys["level"] not in _QUIET):
            return _readable(line).splitlines()[-1]
    return ""
