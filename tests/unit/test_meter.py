"""Progress and time left, by a clock of the test's own: a machine is played, and what it tells is judged."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from workers.engine.progress import ENGINE_SHARE, ProgressEstimator
from workers.engine.rates import FIRST_GUESSES, MOST_LEARNED_AUDIO, RateStore, StageRate
from workers.engine.stage_progress import SPEAKERS_START

STEP = 0.04
GUESSED = {
    stage: StageRate(each) for stage, each in FIRST_GUESSES["cpu"].items() if stage in ("decode", "recognise")
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Machine:
    """Plays the engine: one decoder, lanes, an aligner, speakers. Costs are seconds of work a second."""

    length: float
    decode: float = 0.004
    lane: float = 0.06
    align: float = 0.0
    speakers: float = 0.0
    load: float = 2.0
    lanes: int = 2
    start: float = 0.0
    skip: float = 0.0  # seconds of decoding what an earlier try has done
    dense: Callable[[float], float] = lambda at: 1.0  # how much is said there
    speed: Callable[[float], float] = lambda since: 1.0  # of the machine, by the seconds since the beginning
    clock: Clock = field(default_factory=Clock)
    told: list[tuple[float, float, float | None]] = field(default_factory=list)

    def run(self, costs: dict[str, StageRate]) -> ProgressEstimator:
        meter = ProgressEstimator(
            lambda _, progress, __, left: self.told.append((self.clock.now, progress, left)),
            costs, start=self.start, decoder_threads=self.lanes, clock=self.clock,
        )  # fmt: skip
        meter.duration = self.length
        self._spans(meter)
        if self.speakers:
            self._tell_speakers(meter)
        meter.finish()
        return meter

    def learned(self) -> dict[str, StageRate]:
        """The costs that a second job of this kind begins with."""
        measured = Machine(**{**vars(self), "clock": Clock(), "told": []}).run(self.guesses()).measured()
        return {stage: GUESSED.get(stage, StageRate(0.05)).updated(*one) for stage, one in measured.items()}

    def guesses(self) -> dict[str, StageRate]:
        more = {"align": self.align, "speakers": self.speakers}
        return GUESSED | {stage: StageRate(FIRST_GUESSES["cpu"][stage]) for stage, on in more.items() if on}

    def _pass(self) -> float:
        self.clock.now += STEP
        return STEP * self.speed(self.clock.now - Clock.now)

    def _spans(self, meter: ProgressEstimator) -> None:
        ends = [*itertools.takewhile(lambda end: end < self.length, self._ends()), self.length]
        play = Play(self, meter, ends)
        while play.finished < len(ends):
            work = self._pass()
            play.decode(work)
            play.recognise(work)
            play.finish(work)

    def _ends(self) -> itertools.chain[float]:
        if self.start:
            return itertools.chain(itertools.count(self.start + 295, 295))
        return itertools.chain([40.0], itertools.count(335.0, 295.0))

    def _tell_speakers(self, meter: ProgressEstimator) -> None:
        """Heard in pieces of two minutes, then grouped."""
        total = self.length * self.speakers
        work, pieces = 0.0, max(1, round(self.length / 120))
        meter.speakers(0.0)
        while work < total + SPEAKERS_START:
            work += self._pass()
            heard = max(0.0, work - SPEAKERS_START) / (0.99 * total)
            meter.speakers(min(1.0, int(heard * pieces) / pieces))
        meter.speakers(1.0)

    def errors(self, first: float = 0.1) -> list[float]:
        """How wrong each told time was, beside the time that was left, once so much was done."""
        end = self.told[-1][0]
        # The last moments are left out: nobody waits for two seconds, and a batch in work is lumpy.
        late = [(end - at, left) for at, progress, left in self.told if progress >= first and end - at > 2]
        assert len(late) > 10
        assert all(left is not None for _, left in late)
        return [abs((left or 0.0) - really) / really for really, left in late]


class Play:
    """How far one run of a machine is."""

    def __init__(self, machine: Machine, meter: ProgressEstimator, ends: list[float]) -> None:
        self.machine, self.meter, self.ends = machine, meter, ends
        self.starts = [machine.start, *ends]
        self.position, self.skip, self.load = machine.start, machine.skip, machine.load
        self.span = self.finished = 0
        self.aligned = 0.0
        self.waiting: list[tuple[int, float, float]] = []  # span, seconds, work
        self.left: dict[int, int] = {}  # batches, by span
        self.lanes: list[tuple[int, int, float] | None] = [None] * machine.lanes
        meter.set_active("decode", True)

    def decode(self, work: float) -> None:
        if self.skip > 0:
            self.skip -= work
        elif self.span == len(self.ends) or self.span > self.finished + 2:
            pass  # all is read, or two spans are ahead
        elif self.position < (end := self.ends[self.span]):
            before, self.position = self.position, min(self.position + work / self.machine.decode, end)
            if self.position // 10 > before // 10 or self.position == end:
                self.meter.decoded(self.position)
        else:
            self.meter.set_active("decode", False)
            self.load -= work
            if self.load <= 0:
                self._hand_out()
                self.span += 1
                self.meter.set_active("decode", self.span < len(self.ends))

    def _hand_out(self) -> None:
        first, end = self.starts[self.span], self.ends[self.span]
        count = max(self.machine.lanes, round((end - first) / 75))
        each = (end - first) / count
        for number in range(count):
            dense = self.machine.dense(first + each * number)
            self.waiting.append((self.span, each, each * self.machine.lane * dense))
        self.left[self.span] = count

    def recognise(self, work: float) -> None:
        for number, lane in enumerate(self.lanes):
            if lane is None and self.waiting:
                of, seconds, cost = self.waiting.pop(0)
                self.lanes[number] = of, self.meter.begin(seconds), cost
            elif lane is not None and lane[2] > work:
                self.lanes[number] = lane[0], lane[1], lane[2] - work
            elif lane is not None:
                self.meter.end(lane[1])
                self.left[lane[0]] -= 1
                self.lanes[number] = None

    def finish(self, work: float) -> None:
        if self.left.get(self.finished) != 0:
            return
        length = self.ends[self.finished] - self.starts[self.finished]
        before, self.aligned = self.aligned, length
        if self.machine.align:
            self.aligned = before + work / self.machine.align
            if before == 0:
                self.meter.aligning()
            elif self.aligned // 25 > before // 25:
                self.meter.aligned(25)
                self.meter.aligning()
        if self.aligned >= length:
            self.meter.finished(self.ends[self.finished])
            self.finished, self.aligned = self.finished + 1, 0.0


HOUR = 3600.0
MACHINES = {
    "recognition": Machine(HOUR),
    "half an hour": Machine(1920.0),
    "a small model": Machine(HOUR, lane=0.02),
    "a large model": Machine(HOUR, lane=1.2, load=20.0),
    "four lanes": Machine(HOUR, lane=0.2, lanes=4),
    "decoding is slowest": Machine(HOUR, decode=0.02, lane=0.005),
    "alignment": Machine(HOUR, align=0.01),
    "alignment is slowest": Machine(HOUR, align=0.08),
    "speakers": Machine(HOUR, speakers=0.04),
    "all of it": Machine(HOUR, align=0.03, speakers=0.06),
    "a slow start": Machine(HOUR, load=30.0),
    "resumed": Machine(HOUR, start=1500.0, skip=4.0, speakers=0.06),
}


@pytest.mark.parametrize("name", MACHINES)
def test_progress_is_even_in_time_and_never_goes_back(name: str) -> None:
    machine = Machine(**{**vars(MACHINES[name]), "clock": Clock(), "told": []})
    machine.run(machine.learned())
    told = [progress for _, progress, _ in machine.told]
    assert told == sorted(told)
    assert told[-1] == ENGINE_SHARE
    begun = machine.start / machine.length if not machine.speakers else told[0]
    assert told[0] == pytest.approx(begun, abs=0.03)
    # What is still to come of the fraction is what is still to come of the time.
    first, end = (
        next(at for at, progress, _ in machine.told if progress >= told[0] + 0.1),
        machine.told[-1][0],
    )
    rest = ENGINE_SHARE - next(progress for at, progress, _ in machine.told if at == first)
    for at, progress, _ in machine.told:
        if at > first:
            assert (ENGINE_SHARE - progress) / rest == pytest.approx((end - at) / (end - first), abs=0.12)


@pytest.mark.parametrize("name", MACHINES)
def test_the_time_left_is_right_after_a_tenth_once_a_job_has_taught_the_costs(name: str) -> None:
    machine = Machine(**{**vars(MACHINES[name]), "clock": Clock(), "told": []})
    machine.run(machine.learned())
    assert max(machine.errors()) < 0.25


@pytest.mark.parametrize("name", ["recognition", "a large model", "alignment", "speakers", "a slow start"])
def test_the_time_left_is_right_after_a_tenth_of_the_first_job(name: str) -> None:
    machine = Machine(**{**vars(MACHINES[name]), "clock": Clock(), "told": []})
    machine.run(machine.guesses())
    assert max(machine.errors()) < 0.25
    assert machine.told[0][2] is None  # nothing to go by


def test_a_machine_that_is_slower_than_it_was_is_noticed_within_a_tenth() -> None:
    costs = Machine(HOUR, speakers=0.06).learned()
    machine = Machine(HOUR, speakers=0.06, speed=lambda _: 0.5)
    machine.run(costs)
    assert max(machine.errors()) < 0.25


def test_the_pace_is_that_of_late() -> None:
    """For its first half minute the machine was busy with something else."""
    machine = Machine(HOUR, speed=lambda since: 0.3 if since < 30 else 1.0)
    machine.run(machine.learned())
    assert max(machine.errors(first=0.4)) < 0.25


def test_uneven_speech_shakes_the_time_left_little() -> None:
    dense = [0.8, 1.3, 0.9, 1.1, 0.7, 1.2, 1.0]
    machine = Machine(HOUR, dense=lambda at: dense[int(at / 75) % len(dense)])
    machine.run(machine.learned())
    assert max(machine.errors()) < 0.25


def test_costs_are_what_was_waited_for() -> None:
    measured = Machine(HOUR, lane=0.06, align=0.01, speakers=0.06, load=20.0).run(GUESSED | {
        "align": StageRate(0.1), "speakers": StageRate(0.1),
    }).measured()  # fmt: skip
    each = {stage: wall / audio for stage, (wall, audio) in measured.items()}
    assert each["align"] == pytest.approx(0.01, rel=0.05)
    assert each["speakers"] == pytest.approx(0.06, rel=0.05)
    # Two lanes share it; a moment in which words are timed is the aligner's, the model's load is nobody's.
    assert each["recognise"] == pytest.approx(0.03 - 0.01, abs=0.003)
    assert each["decode"] < 0.001


def test_silence_is_no_measurement_of_recognition() -> None:
    clock = Clock()
    meter = ProgressEstimator(lambda *_: None, GUESSED, clock=clock)
    number = meter.begin(100.0)
    clock.now += 5
    meter.end(number)
    meter.silent(900.0)
    assert meter.measured()["recognise"] == (5.0, 100.0)


def test_speakers_that_were_not_told_apart_teach_nothing() -> None:
    clock = Clock()
    meter = ProgressEstimator(lambda *_: None, GUESSED | {"speakers": StageRate(0.1)}, clock=clock)
    meter.speakers(0.0)
    clock.now += 50
    meter.speakers(0.4)
    meter.finish()
    assert "speakers" not in meter.measured()


def test_a_batch_that_failed_is_not_done() -> None:
    told: list[float] = []
    meter = ProgressEstimator(lambda _, progress, *__: told.append(progress), GUESSED)
    meter.duration = 100.0

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        meter.recognising(50.0, fail)
    assert meter.measured()["recognise"][1] == 0
    assert told == [0.0]


# What is kept of it


def test_what_was_learned_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    assert RateStore(path).read("decode x", 0.5) == StageRate(0.5)
    RateStore(path).learn({"decode x": (20.0, 1000.0, 0.5)})
    known = RateStore(path).read("decode x", 0.5)
    assert known.factor == pytest.approx((0.5 * 60 + 20) / 1060)
    assert RateStore(path).read("decode y", 0.7) == StageRate(0.7)


def test_what_is_learned_is_a_moving_average_by_length(tmp_path: Path) -> None:
    book = RateStore(tmp_path / "costs.json")
    for _ in range(50):
        book.learn({"recognise": (100.0, 1000.0, 9.0)})
    assert book.read("recognise", 9.0).factor == pytest.approx(0.1, rel=0.01)
    book.learn({"recognise": (60.0, 60.0, 9.0)})
    assert book.read("recognise", 9.0).factor < 0.12
    for _ in range(10):
        book.learn({"recognise": (2 * MOST_LEARNED_AUDIO, MOST_LEARNED_AUDIO, 9.0)})
    assert book.read("recognise", 9.0).factor == pytest.approx(2.0, rel=0.01)


def test_a_short_clip_teaches_nothing(tmp_path: Path) -> None:
    RateStore(tmp_path / "costs.json").learn({"decode": (3.0, 11.0, 0.1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damaged",
    [
        "", "{", "[]", "null", "7", '{"version": 1}', '{"version": 1, "costs": [1]}', "\x00", "[" * 100_000,
        '{"version": 9, "costs": {"decode": {"each": 1, "audio": 60}}}',
        '{"version": 1, "costs": {"decode": {"each": -1, "audio": 60}}}',
        '{"version": 1, "costs": {"decode": {"each": NaN, "audio": 60}}}',
        '{"version": 1, "costs": {"decode": {"each": 1, "audio": Infinity}}}',
        '{"version": 1, "costs": {"decode": {"each": "much", "audio": 60}}}',
        '{"version": 1, "costs": {"decode": 1}}',
    ],
    ids=range(15),
)  # fmt: skip
def test_a_damaged_file_is_an_empty_one(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(damaged, encoding="utf-8")
    assert RateStore(path).read("decode", 0.5) == StageRate(0.5)
    RateStore(path).learn({"decode": (100.0, 1000.0, 0.1)})
    assert RateStore(path).read("decode", 0.5) == StageRate(0.1, 1060.0)


def test_of_a_damaged_entry_only_that_one_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    costs = {"decode": {"each": None}, "align": {"each": 0.2, "audio": 100}}
    path.write_text(json.dumps({"version": 1, "costs": costs}), encoding="utf-8")
    assert RateStore(path).read("decode", 0.5) == StageRate(0.5)
    assert RateStore(path).read("align", 0.5) == StageRate(0.2, 100.0)


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    RateStore(tmp_path / "gone" / "costs.json").learn({"decode": (100.0, 1000.0, 0.1)})


def _teach(path: Path, name: str) -> None:
    for _ in range(50):
        RateStore(path).learn({name: (100.0, 1000.0, 0.1), "all": (100.0, 1000.0, 0.1)})


def test_engines_that_learn_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    context = multiprocessing.get_context("spawn")
    engines = [context.Process(target=_teach, args=(path, str(number))) for number in range(4)]
    for engine in engines:
        engine.start()
    while any(engine.is_alive() for engine in engines):
        if path.exists():
            assert json.loads(path.read_text(encoding="utf-8"))["version"] == 1
    for engine in engines:
        engine.join()
    assert [engine.exitcode for engine in engines] == [0] * 4
    assert RateStore(path).read("all", 0.5).factor == pytest.approx(0.1)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["costs.json", "costs.lock"]
