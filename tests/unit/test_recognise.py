"""How windows are cut, what counts as wrong, and what happens when memory does not suffice: no model."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ctranslate2
import numpy as np
import pytest

from stt.settings import Settings
from tests.unit.test_windows import loud
from workers.audio.spans import Span
from workers.audio.vad import Speech
from workers.engine import runtime, span_task, transcription, words
from workers.engine.align import Aligner
from workers.engine.hypothesis import Hypothesis, WindowResult
from workers.engine.job_warnings import WarningSender
from workers.engine.prefetch import prefetch
from workers.engine.rates import RateStore
from workers.engine.recognise import Recogniser
from workers.engine.span_recognition import recognise_batch
from workers.engine.window_model import frames_for
from workers.engine.windows import Window
from workers.engine.word_times import WordTimer

SILENCE = np.zeros(16_000 * 120, np.float32)


@pytest.mark.parametrize(
    ("text", "logprob", "wrong"),
    [
        (" And so my fellow Americans, ask not what your country can do for you.", -0.2, False),
        (" No, no, no, I said, I will never do it again.", -0.3, False),
        (" I am going to the house." * 12, -0.1, True),
        (" Thank you. Thank you. Thank you. Thank you. Thank you. Thank you. Thank you.", -0.1, True),
        (" Something unlikely that was said.", -1.4, True),
        (" Yes.", -0.2, True),
        (" It said far more than anybody could ever say in ten seconds." * 9, -0.2, True),
        # 16 letters a second of three bytes each: Hindi and Thai as people speak them.
        (
            " भारत की राजधानी में आज सुबह से तेज़ बारिश हो रही है और कई सड़कों पर पानी भर गया है, जिससे लोगों को"
            " आने जाने में बहुत परेशानी हो रही है और स्कूल बंद हैं।",
            -0.3,
            False,
        ),
        (
            " เมื่อเช้านี้ฝนตกหนักในกรุงเทพมหานครและถนนหลายสายมีน้ำท่วมขังทำให้การจราจรติดขัดเป็นอย่างมาก"
            "ประชาชนจึงต้องเดินทางด้วยรถไฟฟ้าแทนรถยนต์ส่วนตัว",
            -0.3,
            False,
        ),
        (
            "今天早上北京下了大雨,很多街道都积水了,人们出行很不方便,学校也停课了,大家都在家里等着雨停。",
            -0.3,
            False,
        ),
        (
            "今天早上北京下了大雨,很多街道都积水了,人们出行很不方便,学校也停课了,大家都在家里等着雨停。"
            "昨天晚上上海刮了台风,许多航班都取消了,旅客们只好留在机场,有人睡在地上,有人打电话回家,"
            "还有人去找工作人员问什么时候可以起飞,但是没有人知道答案,因为天气预报说明天还会有更大的风雨。"
            "火车站里也挤满了人,大家都想早一点回到自己的家乡。",
            -0.3,
            True,
        ),
    ],
)
def test_what_looks_wrong_is_found(text: str, logprob: float, wrong: bool) -> None:
    window = Window(0, 10, [Speech(0, 10)])
    assert Hypothesis([1], text, logprob, 0.0).needs_fallback(window) is wrong


def test_what_whisper_calls_silence_is_not_tried_again() -> None:
    one = Hypothesis([1], " Thank you.", -1.5, 0.9)
    assert one.silent
    assert not one.needs_fallback(Window(0, 10, [Speech(0, 10)]))


class Doubting(Recogniser):
    """A recogniser that says what it is told to, decoding by decoding."""

    def __init__(self, *says: Hypothesis, beam: int = 1, frames: int = 1500) -> None:
        self.options = SimpleNamespace(beam_size=beam)
        self.model = cast(Any, SimpleNamespace(model=SimpleNamespace(device="cpu")))
        self.says, self.how = list(says), list[dict[str, Any]]()
        self.heard, self.frames = frames, list[int]()

    def encode(self, *_: Any, frames: int = 0, **__: Any) -> Any:
        self.frames.append(frames)

    def _decode(
        self, _encoded: Any, count: int, _decoding: Any, _tokenizer: Any, **how: Any
    ) -> list[Hypothesis]:
        self.how.append(how)
        return [self.says.pop(0) for _ in range(count)]

    def ask(self, *, wide_beam: bool = False) -> list[WindowResult]:
        return self.recognise(
            ctranslate2.StorageView.from_array(np.zeros((1, self.heard // 2, 1), np.float32)), SILENCE,
            [Window(0, 10, [Speech(0, 10)])], cast(Any, None), cast(Any, None), timed=False,
            wide_beam=wide_beam,
        )  # fmt: skip

    def hear(self) -> str:
        [heard] = self.ask()
        return heard.text


GOOD = Hypothesis([1], " Ask not what your country can do for you.", -0.1, 0.0)
LOOP = Hypothesis([1], " And then and then and then." * 20, -0.1, 0.0)
UNLIKELY, LIKELIER = (
    Hypothesis([1], f" Something said at {logprob}.", logprob, 0.0) for logprob in (-2.0, -1.5)
)


def test_what_looks_right_is_decoded_once() -> None:
    recogniser = Doubting(GOOD)
    assert recogniser.hear() == GOOD.text
    assert len(recogniser.how) == 1


def test_what_looks_wrong_is_decoded_with_a_beam_and_then_with_rising_temperature_until_it_looks_right() -> (
    None
):
    recogniser = Doubting(LOOP, LOOP, UNLIKELY, GOOD)
    assert recogniser.hear() == GOOD.text
    assert [(how["beam_size"], how.get("sampling_temperature")) for how in recogniser.how] == [
        (1, None), (5, None), (1, 0.2), (1, 0.4),
    ]  # fmt: skip


def test_where_the_model_is_not_sure_the_likelier_of_two_beams_is_taken() -> None:
    unsure, surer = (
        Hypothesis([1], f" Something that was said at {logprob}.", logprob, 0.0) for logprob in (-0.5, -0.3)
    )
    for says in ((unsure, surer), (surer, unsure)):
        recogniser = Doubting(*says)
        assert recogniser.hear() == surer.text
        assert [how["beam_size"] for how in recogniser.how] == [1, 5]
    assert Doubting(unsure, beam=5).hear() == unsure.text


def test_on_a_gpu_both_beams_hear_the_same() -> None:
    unsure, surer = (Hypothesis([1], " Ask not what your country can do.", it, 0.0) for it in (-0.5, -0.3))
    recogniser = Doubting(unsure, surer, frames=1700)
    recogniser.model.model.device = "cuda"
    recogniser.hear()
    assert recogniser.frames == [1700]


def test_a_likelier_text_that_looks_wrong_does_not_replace_one_that_looks_right() -> None:
    unsure = Hypothesis([1], " Ask not what your country can do for you.", -0.5, 0.0)
    recogniser = Doubting(unsure, LOOP)
    assert recogniser.hear() == unsure.text
    assert recogniser.says == []


def test_a_wide_beam_at_once_is_the_only_one() -> None:
    unsure = Hypothesis([1], " Ask not what your country can do for you.", -0.5, 0.0)
    recogniser = Doubting(unsure)
    [heard] = recogniser.ask(wide_beam=True)
    assert (heard.text, heard.low_confidence) == (unsure.text, True)
    assert [how["beam_size"] for how in recogniser.how] == [5]
    looping = Doubting(LOOP, GOOD)
    assert looping.ask(wide_beam=True)[0].text == GOOD.text
    assert [how["beam_size"] for how in looping.how] == [5, 5]  # the second time it is heard in full


def test_what_looks_wrong_is_heard_again_in_full() -> None:
    recogniser = Doubting(LOOP, LOOP, GOOD)
    assert recogniser.hear() == GOOD.text
    assert recogniser.frames == [3000]
    for recogniser in (Doubting(GOOD), Doubting(LOOP, GOOD, frames=3000)):
        assert recogniser.hear() == GOOD.text
        assert recogniser.frames == []


def test_a_wide_beam_is_not_tried_twice() -> None:
    recogniser = Doubting(LOOP, GOOD, beam=5, frames=3000)
    assert recogniser.hear() == GOOD.text
    assert [how.get("sampling_temperature") for how in recogniser.how] == [None, 0.2]


def test_where_nothing_looks_right_the_likeliest_that_is_no_loop_is_kept() -> None:
    recogniser = Doubting(LOOP, UNLIKELY, LOOP, LIKELIER, LOOP, LOOP, LOOP)
    assert recogniser.hear() == LIKELIER.text
    assert recogniser.says == []


def test_what_turns_out_to_be_silence_says_nothing() -> None:
    assert Doubting(LOOP, Hypothesis([1], " Thank you.", -1.5, 0.9)).hear() == ""


class Crammed:
    """A recogniser that has memory for `fits` windows at once."""

    def __init__(self, fits: int) -> None:
        self.replicas = 1
        self.fits, self.sizes, self.known = fits, list[int](), set[float]()
        self.low_confidence, self.wide = False, list[bool]()
        self.spoken: list[str | None] = []

    def tokenizer_for(self, _language: str, _task: str) -> None:
        """None is needed."""

    def encode(self, _samples: Any, windows: list[Window], known: dict[int, Any]) -> int:
        assert {place: windows[place].start for place in known} == known
        self.sizes.append(len(windows))
        self.known |= set(known.values())
        if len(windows) > self.fits:
            raise RuntimeError("CUDA failed with error out of memory")
        return len(windows)

    def recognise(
        self,
        _encoded: Any,
        _samples: Any,
        windows: list[Window],
        *_: Any,
        wide_beam: bool,
        spoken: str | None,
        **__: Any,
    ) -> list[WindowResult]:
        self.wide.append(wide_beam)
        self.spoken.append(spoken)
        return [
            WindowResult(window, f" {window.start:.0f}", -0.1, low_confidence=self.low_confidence)
            for window in windows
        ]


def crammed(fits: int, **resume: Any) -> tuple[transcription.Transcription, runtime.Runtime, Crammed]:
    engine = SimpleNamespace(
        batch=8, settings=Settings(), device="cpu", decoder_pool=ThreadPoolExecutor(1), load_seconds=0.0,
        compute_type="int8",
        compute_type_for=lambda less_memory: "int8", threads=1,
        plan=SimpleNamespace(decoder_threads=1, replicas=1),
        rates=RateStore(Path("/nonexistent/costs.json")),
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    job = transcription.Transcription(
        cast(runtime.Runtime, engine), {"path": "x", "model": "base", "resume": resume}, events.append
    )
    return job, cast(runtime.Runtime, engine), Crammed(fits)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    job, engine, recogniser = crammed(2)
    windows = [Window(n, n + 1, [Speech(n, n + 1)]) for n in range(8)]
    work = span_task.SpanTask(Span(0, 0, SILENCE, []), windows, cast(Recogniser, recogniser))
    work.encoded = cast(Any, {5: 5.0, 0: 0.0})
    order = [7, 5, 0, 1, 2, 3, 4, 6]
    heard = recognise_batch(engine, job._decoding, work, order)
    assert [one.text for one in heard] == [f" {n}" for n in order]
    assert recogniser.known == {0, 5}  # what was encoded before went along to the right place
    assert engine.batch == 2
    assert recogniser.sizes[0] == 8
    assert max(recogniser.sizes[3:]) <= 4


@pytest.mark.parametrize(("task", "spoken"), [("transcribe", "de"), ("translate", None)])
def test_only_a_transcript_is_searched_for_passages_in_another_language(task: str, spoken: str) -> None:
    """A translation is in one language whatever is spoken."""
    job, engine, recogniser = crammed(8)
    decoding = replace(job._decoding, task=task)
    windows = [Window(0, 1, [Speech(0, 1)])]
    work = span_task.SpanTask(Span(0, 0, SILENCE, []), windows, cast(Recogniser, recogniser), language="de")
    recognise_batch(engine, decoding, work, [0])
    assert recogniser.spoken == [spoken]


def test_what_another_span_wanted_for_memory_does_not_halve_this_batch() -> None:
    job, engine, recogniser = crammed(8)
    work = span_task.SpanTask(
        Span(1, 0, SILENCE, []), [Window(0, 1, [Speech(0, 1)])] * 8, cast(Recogniser, recogniser)
    )
    failed = Future[bool]()
    failed.set_exception(RuntimeError("CUDA failed with error out of memory"))
    work.wants_wide_beam = failed.result
    with pytest.raises(RuntimeError, match="out of memory"):
        recognise_batch(engine, job._decoding, work, list(range(8)))
    assert (engine.batch, recogniser.sizes) == (8, [])


def test_out_of_memory_at_one_window_is_an_error() -> None:
    job, engine, recogniser = crammed(0)
    windows = [Window(0, 1, [Speech(0, 1)])]
    work = span_task.SpanTask(Span(0, 0, SILENCE, []), windows, cast(Recogniser, recogniser))
    with pytest.raises(RuntimeError, match="out of memory"):
        recognise_batch(engine, job._decoding, work, [0])


@pytest.mark.parametrize(("number", "last", "known"), [(0, True, 1), (0, False, None), (1, True, None)])
def test_only_a_whole_recording_is_taken_for_a_short_one(number: int, last: bool, known: int | None) -> None:
    job, engine, recogniser = crammed(8)
    asked = list[int | None]()

    def load(_model: str, *, less_memory: bool, windows: int | None) -> Any:
        asked.append(windows)
        return recogniser

    job._language = "en"
    engine.recogniser = cast(Any, load)  # type: ignore[method-assign]
    engine.vad = cast(Any, SimpleNamespace(windows=lambda *_: [Window(0, 1, [Speech(0, 1)])]))
    work = job._start_task(Span(number, 0, SILENCE, [Speech(0, 1)], last))
    assert [one.text for one in work.results()] == [" 0"]
    assert asked == [known]


def span_by_span(**resume: Any) -> tuple[transcription.Transcription, Crammed]:
    """A job that finds one window in each span."""
    job, engine, recogniser = crammed(8, **resume)
    job._language = "en"
    engine.recogniser = cast(Any, lambda *_, **__: recogniser)  # type: ignore[method-assign]
    engine.vad = cast(Any, SimpleNamespace(windows=lambda *_: [Window(0, 1, [Speech(0, 1)])]))
    return job, recogniser


def test_a_span_gets_a_wide_beam_at_once_where_one_before_it_was_unsure() -> None:
    """The second goes by the first; later ones by that before the last, which is done by then."""
    job, recogniser = span_by_span()
    said = (True, False, False, True, True)
    for number, unsure in enumerate(said):
        recogniser.low_confidence = unsure
        work = job._start_task(Span(number, 0, SILENCE, [Speech(0, 1)]))
        work.results()
        assert work.low_confidence_future()() == unsure
    assert recogniser.wide == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("known", "wide"), [([], False), ([True], True), ([False, True], False), ([True, False], True)]
)
def test_a_try_that_goes_on_searches_as_widely_as_one_that_was_not_stopped(
    known: list[bool], wide: bool
) -> None:
    job, recogniser = span_by_span(unsure=known)
    job._start_task(Span(len(known), 0, SILENCE, [Speech(0, 1)])).results()
    assert recogniser.wide == [wide]


def test_an_alignment_hears_no_pauses_and_its_times_are_those_of_the_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def align(parts: Any, *_: Any, **__: Any) -> Any:
        assert parts == [{"start": 0.0, "end": 20.0, "text": " yes no"}]
        said = [
            {"word": "yes", "start": 1.0, "end": 2.0, "score": 0.5},
            {"word": "no", "start": 15.0, "end": 16.0, "score": 0.5},
        ]
        return {"segments": [{"words": said}]}

    alignment = SimpleNamespace(align=align)
    monkeypatch.setitem(sys.modules, "whisperx.alignment", alignment)
    monkeypatch.setattr(sys.modules["whisperx"], "alignment", alignment, raising=False)
    window = Window(2, 80, [Speech(2, 12), Speech(70, 80)])
    timed = Aligner("cpu", Path(), 1).align((None, {}), " yes no", SILENCE, window, -0.1)
    assert timed is not None
    assert [(word.start, word.end) for word in timed] == [(3, 4), (75, 76)]


def test_a_window_that_cannot_be_aligned_is_timed_by_attention_with_a_warning() -> None:
    job, engine, _ = crammed(8)
    timed = [words.Word(" yes", 0, 1, 0.9)]

    def align(*_: Any) -> None:
        raise ValueError("a sound that no model has met")

    def time_words(_samples: Any, heard: list[WindowResult], _tokenizer: Any) -> None:
        heard[0].timed_words = timed

    events: list[dict[str, Any]] = []
    engine.aligner = cast(Any, SimpleNamespace(align=align))
    recogniser = cast(Recogniser, SimpleNamespace(time_words=time_words, tokenizer_for=lambda *_: None))
    heard = WindowResult(Window(0, 1, [Speech(0, 1)]), " yes", -0.1)
    work = span_task.SpanTask(Span(0, 0, SILENCE, []), [], recogniser, language="en", align_model=(None, {}))
    timer = WordTimer(engine, job._decoding, job._progress, WarningSender(events.append))
    timer.time(work, [heard])
    assert heard.timed_words == timed
    assert [event["code"] for event in events] == ["alignment_failed"]


@pytest.mark.parametrize(
    ("windows", "memory", "device", "shape"),
    [
        (None, 250, "cpu", (4, 1)), (3, 250, "cpu", (4, 1)), (2, 250, "cpu", (1, 6)), (1, 250, "cpu", (1, 6)),
        (1, 150, "cpu", (4, 1)), (1, 250, "cuda", (4, 1)),
    ],
)  # fmt: skip
def test_a_short_recording_is_heard_with_all_threads_where_memory_allows_a_second_copy_of_the_model(
    windows: int | None, memory: int, device: str, shape: tuple[int, int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "model.bin").write_bytes(bytes(100))
    monkeypatch.setattr(Recogniser, "load", lambda *_, replicas, threads, **__: (replicas, threads))
    monkeypatch.setattr(runtime, "_gpu_memory", lambda: 2**34)
    engine = runtime.Runtime(
        Settings(data_dir=tmp_path, device=device, threads=6, replicas=4, model_memory=memory)
    )
    engine.recogniser(str(tmp_path))
    assert cast(Any, engine.recogniser(str(tmp_path), windows=windows)) == shape


def test_a_window_that_told_the_language_is_not_encoded_again() -> None:
    encoded = list[tuple[float, int]]()

    class Counting(Doubting):
        encode = Recogniser.encode

        def _spectrogram(self, samples: Any, frames: int) -> Any:
            return np.full((1, frames), samples[0])

    recogniser = Counting(GOOD)

    def encode(heard: Any) -> ctranslate2.StorageView:
        encoded.append((float(heard[0, 0, 0]), heard.shape[2]))
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(heard[:, 0, ::2, None]))

    recogniser.model.encode = encode
    samples = np.repeat(np.arange(30, dtype=np.float32), 16_000) * loud(30)
    windows = [Window(n, n + 1, [Speech(n, n + 1)]) for n in range(3)]
    known = {1: recogniser.encode(samples, [windows[1]], frames=1800)}
    together = np.asarray(recogniser.encode(samples, windows, known))
    assert together.shape == (3, 900, 1)
    assert together[:, 0, 0].tolist() == [0, 1, 2]
    assert recogniser.encode(samples, [windows[1]], {0: known[1]}) is known[1]
    assert encoded == [(1, 1800), (0, 1800), (2, 1800)]
    recogniser.encode(samples, windows)
    assert encoded[3:] == [(n, 1500) for n in range(3)]


@pytest.mark.parametrize(
    ("seconds", "frames"), [([3.0], 1500), ([13.5, 2.0], 1550), ([9, 17.01], 1902), ([28.5], 3000)]
)
def test_a_short_window_is_heard_with_the_silence_it_needs_and_no_more(
    seconds: list[float], frames: int
) -> None:
    assert frames_for([Window(0, end, [Speech(0, end)]) for end in seconds]) == frames


def test_an_error_of_the_reader_is_raised_and_its_thread_ends() -> None:
    def spans() -> Any:
        yield "one"
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(prefetch(spans()))
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_who_stops_listening_stops_the_reader() -> None:
    pieces = prefetch(cast(Any, iter(range(1000))))
    assert next(pieces) == 0
    cast(Any, pieces).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
