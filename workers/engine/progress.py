"""An honest fraction of a job, from 0 to 1, that never goes back, and the time that is left.

What is left is reckoned in time: the seconds of audio that each stage still has before it, by what a second
of them costs. A cost is what earlier jobs taught (`workers.engine.costs`), and the more this one has done,
the more its own pace. The fraction grows by the share of what was left that is done since: so it is even in
time, and a cost that proves wrong makes it slower or faster, but never jump.

Stages go on at once. A moment belongs to the last one at work, as that is the one that is waited for: the
others are ahead of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from stt import codes
from workers.engine.costs import Cost

T = TypeVar("T")

# The rest is for storing the result, which is not the engine's to report.
ENGINE_SHARE = 0.99
INTERVAL = 0.25  # seconds between reports
_NO_LENGTH = 600.0  # seconds taken to be left where nothing tells a recording's length
# A cost that was guessed, or learned, counts like so many seconds of audio of this recording.
_GUESSED, _LEARNED = 5.0, 60.0
# The pace is that of the last so many seconds of audio: what else the machine does comes and goes.
_RECENT = 600.0
# Of a batch in work so much is taken to be done at most, however long it has taken.
_NEARLY = 0.95
# What telling speakers apart takes before it hears anything, and the part of it that hears: then it groups.
SPEAKERS_START, _HEARS = 5.0, 0.99
_DOUBT = 5.0  # seconds for which that is believed more than what it takes
_FASTER, _SLOWER = 0.25, 4.0  # than it was: what is believed of a machine

Tell = Callable[[codes.Stage, float, float | None, float | None], None]


@dataclass(slots=True)
class Stage:
    """One stage: how far it is, what it took, and what it is expected to take. Seconds."""

    before: Cost
    done: float  # of the recording, from its beginning
    wall: float = 0.0  # waited for it lately, for
    audio: float = 0.0  # so much audio
    all_wall: float = 0.0
    all_audio: float = 0.0  # that tells its cost: silence is not recognised

    @property
    def learned(self) -> bool:
        """Whether earlier jobs told its cost."""
        return self.before.audio > 0

    def cost(self, working: float = 0.0) -> float:
        """For each second of audio, `working` seconds of which are done beside those that are told."""
        weight = min(_LEARNED, self.before.audio) if self.learned else _GUESSED
        return (self.before.each * weight + self.wall) / (weight + self.audio + working)

    def advance(self, seconds: float, *, tells: bool = True) -> None:
        """So much more is done."""
        self.done += seconds
        self.audio += seconds
        self.all_audio += seconds if tells else 0.0
        if self.audio > _RECENT:
            self.wall *= _RECENT / self.audio
            self.audio = _RECENT

    def waited(self, seconds: float) -> None:
        """It was waited for."""
        self.wall += seconds
        self.all_wall += seconds


@dataclass(slots=True)
class Lanes:
    """The batches in work: how much of them is done, by what those before them took."""

    count: int
    guess: float  # seconds of a lane for each second of audio
    batches: dict[int, tuple[float, float]] = field(default_factory=dict)  # begun at, seconds of audio
    wall: float = 0.0
    audio: float = 0.0

    def end(self, number: int, now: float, *, well: bool) -> float:
        """A batch is done; its seconds of audio if it went `well`."""
        begun, seconds = self.batches.pop(number)
        if not well:
            return 0.0
        keep = min(1.0, _RECENT / (self.audio + seconds))
        self.wall, self.audio = (self.wall + now - begun) * keep, (self.audio + seconds) * keep
        return seconds

    def working(self, now: float) -> float:
        """Seconds of audio that are done in batches that are not."""
        rate = self.wall / self.audio if self.wall else self.guess
        return sum(
            min(_NEARLY * seconds, (now - begun) / rate if rate else 0.0)
            for begun, seconds in self.batches.values()
        )


class Meter:
    """Turns "so much is decoded, recognised, aligned" into progress and time left, told four times a second.

    All are seconds of the recording; `start` is where an interrupted job goes on. `costs` are those of
    "decode" and "recognise", and of "align" and "speakers" where the job has them.
    """

    def __init__(
        self,
        tell: Tell,
        costs: Mapping[str, Cost],
        *,
        start: float = 0.0,
        lanes: int = 1,
        beside: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`beside` says how far speakers are told apart where that goes on beside recognition."""
        self._tell, self._clock, self._beside = tell, clock, beside
        self._lock = threading.RLock()
        self._told_at = -INTERVAL
        self._start = start
        self._stages = {name: Stage(cost, start) for name, cost in costs.items() if name != "speakers"}
        self._speakers = Voices(costs["speakers"]) if "speakers" in costs else None
        self._lanes = Lanes(lanes, costs["recognise"].each * lanes)
        self._batch = 0
        self._at_work = {"decode": False, "align": False}
        self._skips = True  # what an earlier try has done; and libraries load
        self._begun = self._since = clock()
        self._rest = 1.0  # the fraction that is left
        # As far as it has told; what an earlier try has done is told at first.
        self._shown = dict.fromkeys(self._stages, 0.0)
        self.duration: float | None = None

    # What happens

    def decoding(self, spans: Iterator[T]) -> Iterator[T]:
        """The same spans; while the next one is waited for, it is decoded."""
        while True:
            self.at_work("decode", True)
            try:
                span = next(spans)
            except StopIteration:
                return
            finally:
                self.at_work("decode", False)
            yield span

    def at_work(self, stage: str, yes: bool) -> None:
        """Whether somebody decodes, or aligns."""
        with self._lock:
            self._account()
            self._at_work[stage] = yes

    def decoded(self, until: float) -> None:
        """The recording is decoded up to here."""
        with self._lock:
            self._account()
            self._skips = False
            stage = self._stages["decode"]
            stage.advance(max(0.0, until - stage.done))
            recognised = self._stages["recognise"].done > self._start
            self._report(codes.Stage.TRANSCRIBE if recognised else codes.Stage.DECODE)

    def recognising(self, seconds: float, do: Callable[..., T], *args: object) -> T:
        """What `do` returns, while a lane is at work on so many seconds."""
        number = self.begin(seconds)
        well = False
        try:
            done = do(*args)
            well = True
        finally:
            self.end(number, well=well)
        return done

    def begin(self, seconds: float) -> int:
        """A lane begins to recognise so many seconds; the number of its batch."""
        with self._lock:
            self._account()
            self._batch += 1
            self._lanes.batches[self._batch] = self._clock(), seconds
            return self._batch

    def end(self, number: int, *, well: bool = True) -> None:
        """A batch is done, or has failed."""
        with self._lock:
            self._account()
            self._stages["recognise"].advance(self._lanes.end(number, self._clock(), well=well))
            self._report(codes.Stage.TRANSCRIBE)

    def silent(self, seconds: float) -> None:
        """So much more of it needs no recognition."""
        with self._lock:
            self._account()
            self._stages["recognise"].advance(seconds, tells=False)
            self._report(codes.Stage.TRANSCRIBE)

    def aligning(self) -> None:
        """A window's words are being timed by a model of their own."""
        with self._lock:
            self.at_work("align", True)
            self._report(codes.Stage.ALIGN)

    def aligned(self, seconds: float) -> None:
        """They are: of so many seconds."""
        with self._lock:
            self.at_work("align", False)
            if "align" in self._stages:
                self._stages["align"].advance(seconds)
            self._report(codes.Stage.ALIGN)

    def finished(self, until: float) -> None:
        """All that lies before is recognised and its words are timed."""
        with self._lock:
            self.at_work("align", False)
            if "align" in self._stages:
                stage = self._stages["align"]
                stage.advance(until - stage.done, tells=stage.all_wall > 0)

    def speakers(self, share: float) -> None:
        """All spans are done, and `share` of telling the speakers apart."""
        with self._lock:
            self._account()
            if self._speakers is not None:
                self._speakers.hear(share, self._clock(), self._speakers_cost(), beside=bool(self._beside))
            self._report(codes.Stage.SPEAKERS)

    def finish(self) -> None:
        """The engine is done."""
        with self._lock:
            self._account()
            self._rest = 0.0
            self._send(codes.Stage.FINISH, 0.0)

    # What is learned

    def measured(self) -> dict[str, tuple[float, float]]:
        """For each stage of the job the seconds that were waited for it, and of how many seconds of audio."""
        with self._lock:
            found = {name: (stage.all_wall, stage.all_audio) for name, stage in self._stages.items()}
            if self._speakers is not None and self._speakers.begun is not None and self._speakers.share == 1:
                took = self._since - self._speakers.begun - (0.0 if self._beside else SPEAKERS_START)
                found["speakers"] = max(0.0, took), self._length()
            return found

    # The arithmetic; the lock is held

    def _account(self) -> None:
        """The time since the last event belongs to a stage, or to none: a model was loaded."""
        now = self._clock()
        passed, self._since = now - self._since, now
        if self._at_work["align"] and "align" in self._stages:
            self._stages["align"].waited(passed)
        elif self._lanes.batches:
            self._stages["recognise"].waited(passed)
        elif self._at_work["decode"] and not self._skips:
            self._stages["decode"].waited(passed)

    def _length(self) -> float:
        decoded = self._stages["decode"].done
        return max(self.duration or decoded + _NO_LENGTH, decoded, 1e-3)

    def _positions(self) -> dict[str, float]:
        return {name: stage.done for name, stage in self._stages.items()}

    def _costs(self) -> dict[str, float]:
        """What a second of audio costs now, by stage."""
        working = self._lanes.working(self._clock())
        return {
            name: stage.cost(working if name == "recognise" else 0.0) for name, stage in self._stages.items()
        }

    def _slower(self) -> float:
        """How many times slower the machine is than it was for earlier jobs."""
        learned = [name for name, stage in self._stages.items() if stage.learned]
        before = sum(self._stages[name].before.each for name in learned)
        if not before:
            return 1.0
        costs = self._costs()
        return min(_SLOWER, max(_FASTER, sum(costs[name] for name in learned) / before))

    def _speakers_cost(self) -> float:
        if self._speakers is None:
            return 0.0
        start = 0.0 if self._beside else SPEAKERS_START
        return self._speakers.before.each * self._length() * self._slower() + start

    def _left_of_spans(self, costs: Mapping[str, float], done: Mapping[str, float]) -> float:
        length = self._length()
        return sum(cost * max(0.0, length - done[name]) for name, cost in costs.items())

    def _report(self, stage: codes.Stage) -> None:
        costs, speakers = self._costs(), self._speakers_cost()
        told, now = (self._speakers.told, self._speakers.share) if self._speakers else (0.0, 0.0)
        done = self._positions()
        before = self._left_of_spans(costs, self._shown) + speakers * (1 - told)
        after = self._left_of_spans(costs, done) + speakers * (1 - now)
        self._rest *= min(1.0, after / before) if before > 0 else 1.0
        self._shown = done
        if self._speakers:
            self._speakers.told = now
        self._send(stage, self._eta(costs, speakers))

    def _eta(self, costs: Mapping[str, float], speakers: float) -> float | None:
        """Seconds that the engine still takes; None while there is nothing to go by."""
        recognise = self._stages["recognise"]
        if not recognise.learned and recognise.done <= self._start < self._length():
            return None
        done = self._positions()
        done["recognise"] += self._lanes.working(self._clock())
        spans = self._left_of_spans(costs, done)
        if self._speakers is None:
            return spans
        return spans + self._speakers_left(spans, speakers)

    def _speakers_left(self, spans: float, expected: float) -> float:
        """What telling speakers apart takes once all spans are done."""
        assert self._speakers is not None
        share = self._beside() if self._beside else 0.0
        if share > 0.05:  # it goes on beside, and its pace is known
            took = self._clock() - self._begun
            return max(0.0, took * (1 - share) / share - spans)
        return self._speakers.left(self._clock(), expected)

    def _send(self, stage: codes.Stage, eta: float | None) -> None:
        now = self._clock()
        if stage != codes.Stage.FINISH and now - self._told_at < INTERVAL:
            return
        self._told_at = now
        fraction = ENGINE_SHARE * (1 - self._rest)
        self._tell(stage, round(fraction, 4), self.duration, None if eta is None else round(eta, 1))


class Voices:
    """Telling speakers apart, once all spans are done."""

    def __init__(self, before: Cost) -> None:
        self.before = before
        self.begun: float | None = None
        self.share = self.told = 0.0  # of what was left of it when the spans were done
        self._first = self._last = 0.0
        self._left: tuple[float, float] | None = None  # seconds, and when

    def hear(self, share: float, now: float, expected: float, *, beside: bool) -> None:
        """So much of it is done; of all of it `expected` seconds were to come at first."""
        if self.begun is None:
            self.begun = now
            self._first = min(share, 0.99) if beside else 0.0
            self._left = expected, now
        share = min(1.0, share)
        if share <= self._last:
            return
        self._last = share
        self.share = max(self.share, (share - self._first) / (1 - self._first))
        start = 0.0 if beside else SPEAKERS_START
        should = start + _HEARS * self.share * (expected - start)
        pace = (_DOUBT + now - self.begun) / (_DOUBT + should)
        self._left = (expected - should) * pace, now

    def left(self, now: float, expected: float) -> float:
        """Seconds until the turns are known."""
        if self._left is None:
            return expected
        seconds, since = self._left
        return max(0.0, seconds - (now - since))
