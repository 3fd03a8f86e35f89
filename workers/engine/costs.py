"""What the stages of a job cost on this machine, learned from job to job.

A cost is the time that was waited for a stage, for each second of audio: not its processor time, as stages go
on side by side. It is kept by name in a small file, and a name says all that it depends on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# A first guess counts like so many seconds of audio, all that was learned like so many at most: then what
# was measured long ago fades.
GUESSED_FROM, LEARNED_FROM = 60.0, 3600.0
# Of a shorter recording the costs are mostly those of beginning and ending.
SHORTEST = 30.0
_DEAREST = 1000.0  # what is dearer was no measurement
_VERSION = 1

# First guesses: the model `base` on two cores, and on a GPU.
GUESSES = {
    "cpu": {"decode": 0.004, "recognise": 0.03, "align": 0.08, "speakers": 0.035, "beside": 0.003},
    "cuda": {"decode": 0.003, "recognise": 0.004, "align": 0.003, "speakers": 0.02, "beside": 0.002},
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds for each second of audio, and how many seconds of audio that was learned from; 0: a guess."""

    each: float
    audio: float = 0.0

    def after(self, seconds: float, audio: float) -> Cost:
        """The moving average when a stage took `seconds` for so much audio."""
        held = min(self.audio or GUESSED_FROM, LEARNED_FROM)
        return Cost((self.each * held + seconds) / (held + audio), min(held + audio, LEARNED_FROM))


class Book:
    """The file. A damaged or missing one is an empty one, and one that cannot be written costs nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, guess: float) -> Cost:
        """What is known of a stage."""
        return self._known().get(name, Cost(guess))

    def learn(self, measured: Mapping[str, tuple[float, float, float]]) -> None:
        """Add what a job measured: by name the seconds waited, the seconds of audio, the first guess."""
        kept = {name: one for name, one in measured.items() if one[1] >= SHORTEST}
        if not kept:
            return
        try:
            self._add(kept)
        except OSError as error:
            log.warning("what stages cost is not kept: %s", error)

    def _add(self, measured: Mapping[str, tuple[float, float, float]]) -> None:
        with self._path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another engine learns just now. To wait for one that is stopped would be worse
            known = self._known()
            for name, (seconds, audio, guess) in measured.items():
                known[name] = known.get(name, Cost(guess)).after(seconds, audio)
            self._write(known)

    def _write(self, known: Mapping[str, Cost]) -> None:
        content = {
            name: {"each": round(one.each, 7), "audio": round(one.audio)} for name, one in known.items()
        }
        new = self._path.with_suffix(".new")  # only who has the lock writes it
        new.write_text(json.dumps({"version": _VERSION, "costs": content}, indent=1), encoding="utf-8")
        new.replace(self._path)

    def _known(self) -> dict[str, Cost]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            costs = content["costs"].items() if content["version"] == _VERSION else ()
            return {name: cost for name, one in costs if (cost := _cost(one)) is not None}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.warning("what stages cost is learned anew: %s cannot be read: %s", self._path.name, error)
            return {}


def _cost(one: Any) -> Cost | None:
    with suppress(TypeError, ValueError, LookupError, OverflowError):
        each, audio = float(one["each"]), float(one["audio"])
        if 0 <= each <= _DEAREST and math.isfinite(audio) and audio > 0:
            return Cost(each, audio)
    return None
