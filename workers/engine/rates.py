"""The speed of each stage of a job on this machine, learned from job to job.

The speed is kept as a real-time factor: the seconds that a job waited for a stage, per second of audio. It is
not processor time, as stages run at the same time. A small file (`costs.json`) keeps the factors by name; a
name holds all that the factor depends on.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.stdlib.get_logger(__name__)

# Weights in the moving average, in seconds of audio: of a first guess, and of all that was learned at most.
# So old measurements fade.
GUESS_WEIGHT, MOST_LEARNED_AUDIO = 60.0, 3600.0
# Seconds of audio of the shortest job that teaches: a shorter one mostly measures starting and ending.
SHORTEST_AUDIO = 30.0
_HIGHEST_FACTOR = 1000.0  # a real-time factor above this is an error of the file
_VERSION = 1

# Real-time factors before anything was learned, measured with the model `base` on two cores, and on a GPU.
# "speakers" is diarization after recognition, "beside" what it adds while both run.
FIRST_GUESSES = {
    "cpu": {"decode": 0.004, "recognise": 0.03, "align": 0.08, "speakers": 0.035, "beside": 0.003},
    "cuda": {"decode": 0.003, "recognise": 0.004, "align": 0.003, "speakers": 0.02, "beside": 0.002},
}


@dataclass(frozen=True, slots=True)
class StageRate:
    """The real-time factor of a stage, and the seconds of audio it was learned from (0: it is a guess)."""

    factor: float
    audio: float = 0.0

    def updated(self, seconds: float, audio: float) -> StageRate:
        """The moving average after a job waited `seconds` for the stage, for so many seconds of audio."""
        weight = min(self.audio or GUESS_WEIGHT, MOST_LEARNED_AUDIO)
        factor = (self.factor * weight + seconds) / (weight + audio)
        return StageRate(factor, min(weight + audio, MOST_LEARNED_AUDIO))


class RateStore:
    """The file of learned factors.

    A missing or damaged file counts as an empty one. If the file cannot be written, a log line says so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, guess: float) -> StageRate:
        """The factor with this name, or the guess."""
        return self._known().get(name, StageRate(guess))

    def learn(self, measured: Mapping[str, tuple[float, float, float]]) -> None:
        """Add what a job measured: by name, the seconds waited, the seconds of audio, and the first guess."""
        kept = {name: one for name, one in measured.items() if one[1] >= SHORTEST_AUDIO}
        if not kept:
            return
        try:
            self._add(kept)
        except OSError as error:
            log.warning("the speed of the stages is not kept", error=str(error))

    def _add(self, measured: Mapping[str, tuple[float, float, float]]) -> None:
        with self._path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another engine writes just now; waiting for one that is stopped would be worse
            known = self._known()
            for name, (seconds, audio, guess) in measured.items():
                known[name] = known.get(name, StageRate(guess)).updated(seconds, audio)
            self._write(known)

    def _write(self, known: Mapping[str, StageRate]) -> None:
        # The keys "costs" and "each" are those of files that earlier versions wrote.
        content = {
            name: {"each": round(rate.factor, 7), "audio": round(rate.audio)} for name, rate in known.items()
        }
        new = self._path.with_suffix(".new")  # only the holder of the lock writes it
        new.write_text(json.dumps({"version": _VERSION, "costs": content}, indent=1), encoding="utf-8")
        new.replace(self._path)

    def _known(self) -> dict[str, StageRate]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            entries = content["costs"].items() if content["version"] == _VERSION else ()
            return {name: rate for name, one in entries if (rate := _rate(one)) is not None}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.warning(
                "the speed of the stages is learned anew: its file cannot be read",
                file=self._path.name, error=str(error),
            )  # fmt: skip
            return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """All that the factors of a job depend on. The wait for a stage depends on what runs at the same time."""

    device: str  # "cpu" or "cuda"
    compute_type: str  # as CTranslate2 names it
    model: str  # the name of the Whisper model
    beam: int  # of the first decoding
    vad: str  # the voice activity detector, "silero" or "pyannote"
    threads: int  # CPU threads of the engine
    timed: bool  # words get times
    aligns: bool  # wav2vec2 times the words
    diarization: str | None  # whose models tell speakers apart; None: the job has no such stage
    beside: bool  # diarization runs at the same time as recognition

    def names(self) -> dict[str, tuple[str, float]]:
        """For each stage the name under which its factor is kept, and a first guess."""
        guesses = FIRST_GUESSES[self.device]
        spans = (
            f"{self.device} {self.compute_type} {self.model} beam={self.beam} vad={self.vad}"
            f" threads={self.threads} timed={self.timed} wav2vec2={self.aligns} beside={self.beside}"
        )
        names = {stage: (f"{stage} {spans}", guesses[stage]) for stage in ("decode", "recognise")}
        if self.aligns:
            names["align"] = f"align {spans}", guesses["align"]
        if self.diarization is not None:
            speakers = f"{self.device} {self.diarization} threads={self.threads}"
            names["speakers"] = (
                (f"beside {spans} {speakers}", guesses["beside"]) if self.beside
                else (f"speakers {speakers}", guesses["speakers"])
            )  # fmt: skip
        return names


class JobRates:
    """The factors of one job, by stage: what is known of them, and what the job teaches."""

    def __init__(self, store: RateStore, kind: JobKind) -> None:
        self._store, self._names = store, kind.names()

    def known(self) -> dict[str, StageRate]:
        """By stage, the learned factor or the first guess."""
        return {stage: self._store.read(name, guess) for stage, (name, guess) in self._names.items()}

    def learn(self, measured: Mapping[str, tuple[float, float]]) -> None:
        """Keep what the job measured: by stage, the seconds waited and the seconds of audio."""
        self._store.learn(
            {
                name: (*measured[stage], guess)
                for stage, (name, guess) in self._names.items()
                if stage in measured
            }
        )


def _rate(entry: Any) -> StageRate | None:
    with suppress(TypeError, ValueError, LookupError, OverflowError):
        factor, audio = float(entry["each"]), float(entry["audio"])
        if 0 <= factor <= _HIGHEST_FACTOR and math.isfinite(audio) and audio > 0:
            return StageRate(factor, audio)
    return None
