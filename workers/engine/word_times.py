"""Times the words of a span: by wav2vec2 where that is wanted and works, else by cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from stt.codes import WarningCode
from workers.audio import spans
from workers.audio.sound import RATE
from workers.engine import words
from workers.engine.align import AlignModel
from workers.engine.hypothesis import DecodingOptions, WindowResult
from workers.engine.job_warnings import WarningSender
from workers.engine.progress import ProgressEstimator
from workers.engine.runtime import Runtime
from workers.engine.span_task import SpanTask

log = structlog.stdlib.get_logger(__name__)


def wants_wav2vec2(runtime: Runtime, decoding: DecodingOptions) -> bool:
    """Whether wav2vec2 is to time the words of a job. With the setting `auto` it does on a GPU only."""
    setting = runtime.settings.align
    if setting == "attention" or (setting == "auto" and runtime.device != "cuda"):
        return False
    # The words of a translation are not the words in the audio.
    return decoding.timed and decoding.task != "translate"


class WordTimer:
    """Times the words of one job."""

    def __init__(
        self,
        runtime: Runtime,
        decoding: DecodingOptions,
        progress: ProgressEstimator,
        warn: WarningSender,
    ) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            runtime: Has the alignment models.
            decoding: The options of the request.
            progress: Gets the seconds of audio that were aligned.
            warn: Sends warnings.
        """
        self._runtime, self._decoding = runtime, decoding
        self._progress, self._warn = progress, warn

    def model_for(self, language: str) -> AlignModel | None:
        """The wav2vec2 model for the words of a span; None: cross-attention times them."""
        if not wants_wav2vec2(self._runtime, self._decoding):
            return None
        if model := self._runtime.aligner.model_for(language):
            return model
        self._warn(WarningCode.NO_ALIGNMENT_MODEL, language=language)
        return None

    def time(self, task: SpanTask, results: Sequence[WindowResult]) -> None:
        """Set the word times that the recognition did not: by wav2vec2, or by attention where that fails."""
        if task.align_model is None:
            return  # attention has timed the words during recognition
        texts = [result for result in results if result.text.strip()]
        for result in texts:
            self._progress.aligning()
            result.timed_words = self._aligned(task, task.align_model, result)
            self._progress.aligned(result.window.end - result.window.start)
        if untimed := [result for result in texts if result.timed_words is None]:
            self._time_by_attention(task, untimed)

    def _aligned(self, task: SpanTask, model: AlignModel, result: WindowResult) -> list[words.Word] | None:
        try:
            return self._runtime.aligner.align(
                model, result.text, task.span.samples, result.window, result.logprob
            )
        except Exception:  # the text is kept, whatever the error
            log.exception("the words of a window could not be aligned")
            self._warn(WarningCode.ALIGNMENT_FAILED)
            return None

    def _time_by_attention(self, task: SpanTask, results: Sequence[WindowResult]) -> None:
        try:
            tokenizer = task.recogniser.tokenizer_for(task.language, self._decoding.task)
            task.recogniser.time_words(task.span.samples, results, tokenizer)
        except Exception:  # the text is kept; its words are then spread over the speech
            log.exception("no word times by attention either")


def in_recording(result: WindowResult, span: spans.Span) -> list[words.Word]:
    """The words of a window, with times in seconds of the recording that lie in speech and in order."""
    window = result.window
    timed = result.timed_words or words.spread(result.text, result.logprob, window.speech)
    offset = span.start / RATE
    placed = words.place(timed, window.speech, window.start, window.end)
    return [replace(word, start=word.start + offset, end=word.end + offset) for word in placed]
