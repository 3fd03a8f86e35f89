"""Recognises the windows of a span, and makes segments of the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from stt.codes import WarningCode
from stt.transcript import passages
from stt.transcript.schema import Segment
from workers.audio.sound import RATE, Samples
from workers.engine import coverage, gap_filling, words
from workers.engine.hypothesis import LOW_CONFIDENCE_LOGPROB, DecodingOptions, WindowResult
from workers.engine.protocol import Event
from workers.engine.runtime import Runtime, is_out_of_memory
from workers.engine.span_task import SpanTask
from workers.engine.windows import Window
from workers.engine.word_times import WordTimer, in_recording

log = structlog.stdlib.get_logger(__name__)


def recognise_batch(
    runtime: Runtime, decoding: DecodingOptions, task: SpanTask, indices: list[int]
) -> list[WindowResult]:
    """The results of some windows of a span, in halves if memory does not suffice for all at once.

    Args:
        runtime: Its batch size is lowered when memory does not suffice.
        decoding: The options of the request.
        task: The span.
        indices: Which windows of it, in the order of the results.

    Raises:
        RuntimeError, MemoryError: Memory does not suffice for one window either, or something else failed.
    """
    recogniser, samples = task.recogniser, task.span.samples
    batch = [task.windows[index] for index in indices]
    known = {place: task.encoded[index] for place, index in enumerate(indices) if index in task.encoded}
    tokenizer = recogniser.tokenizer_for(task.language, decoding.task)
    timed = not task.align_model  # also where segments get no word times: `coverage` needs them
    # The text of a translation is in one language, whatever is spoken.
    spoken = None if decoding.task == "translate" else task.language
    wide_beam = task.wants_wide_beam()  # outside of `try`: it raises the errors of another span
    try:
        encoded = recogniser.encode(samples, batch, known)
        results = recogniser.recognise(
            encoded, samples, batch, decoding, tokenizer, timed=timed, wide_beam=wide_beam, spoken=spoken,
            passages_below=0.0 if task.fills_gaps else LOW_CONFIDENCE_LOGPROB,
        )  # fmt: skip
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(batch) == 1:
            raise
        half = len(batch) // 2
        runtime.batch = min(runtime.batch, half)
        log.warning("out of memory: going on with smaller batches", batch=runtime.batch)
    else:
        return results
    # Outside of the handler: its error holds references to what filled the memory.
    return [
        result
        for part in (indices[:half], indices[half:])
        for result in recognise_batch(runtime, decoding, task, part)
    ]


class SegmentMaker:
    """Makes the segments of a job's spans from the results of their windows."""

    def __init__(
        self,
        runtime: Runtime,
        decoding: DecodingOptions,
        timer: WordTimer,
        send: Callable[[Event], None],
    ) -> None:
        """Prepare.

        Args:
            runtime: Its models recognise gaps.
            decoding: The options of the request.
            timer: Times the words.
            send: Takes events: the warnings that have times.
        """
        self._runtime, self._decoding = runtime, decoding
        self._timer, self._send = timer, send

    def segments(self, task: SpanTask) -> list[Segment]:
        """The segments of a span. Blocks until the decoder threads are done with it.

        Speech that was skipped is recognised in windows of its own. Warnings are sent for speech that stays
        without words, and for passages in another language.
        """
        results = task.results()
        self._timer.time(task, results)
        filled = gap_filling.fill(results, task.span.samples, partial(self._recognise_gaps, task))
        if filled.seconds:
            log.info("gaps were recognised again", audio_seconds=round(filled.seconds, 1))
        self._warn_of_passages(task, filled)
        placed = [
            word
            for result in filled.results
            if result.text.strip()
            for word in in_recording(result, task.span)
        ]
        return words.segments(placed, with_words=self._decoding.timed)

    def _recognise_gaps(self, task: SpanTask, samples: Samples, windows: list[Window]) -> list[WindowResult]:
        """The results of the windows of a span's gaps; `samples` are the span's audio with raised gaps."""
        # Not in the decoder threads: there it would wait for the windows of the next span.
        gaps = replace(
            task,
            span=replace(task.span, samples=samples),
            windows=windows,
            encoded={},
            fills_gaps=True,
            wants_wide_beam=lambda: True,
        )
        size = self._runtime.batch
        results = [
            result
            for first in range(0, len(windows), size)
            for result in recognise_batch(
                self._runtime, self._decoding, gaps, list(range(first, min(first + size, len(windows))))
            )
        ]
        self._timer.time(gaps, results)
        return results

    def _warn_of_passages(self, task: SpanTask, filled: gap_filling.Filled) -> None:
        offset = task.span.start / RATE
        timed = [word for result in filled.results for word in result.timed_words or []]
        uncovered = [
            (start + offset, end + offset)
            for start, end in coverage.probable_speech(filled.uncovered, task.span.speech, timed)
        ]
        others = [passage for result in filled.results for passage in result.passages]
        warnings = [passages.warning(WarningCode.UNCOVERED_SPEECH, uncovered)] if uncovered else []
        for language in sorted({one.language for one in others}):
            times = [(one.start + offset, one.end + offset) for one in others if one.language == language]
            warnings.append(passages.warning(WarningCode.OTHER_LANGUAGE, times, language, task.language))
        for warning in warnings:
            self._send({"type": "warning", **warning})
