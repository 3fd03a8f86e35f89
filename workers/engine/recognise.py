"""How windows are recognised: greedy decoding, a wider beam, temperature fallback, other languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ctranslate2
import numpy as np
import structlog
from faster_whisper.tokenizer import Tokenizer

from workers.audio.sound import RATE, Samples
from workers.engine import coverage, words
from workers.engine.hypothesis import LOW_CONFIDENCE_LOGPROB, DecodingOptions, Hypothesis, WindowResult
from workers.engine.language import Passage, passages, slices
from workers.engine.window_model import HOP, MOST_FRAMES, WindowModel
from workers.engine.windows import Window

log = structlog.stdlib.get_logger(__name__)

WIDE_BEAM = 5  # the beam of openai-whisper's command line and of faster-whisper
# Temperature fallback as in openai-whisper: each step is a way to decode a window whose text looks wrong.
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
SAMPLES_PER_TEMPERATURE = 5  # `best_of` of openai-whisper
FALLBACK_STEPS: tuple[dict[str, Any], ...] = (
    {"beam_size": WIDE_BEAM},
    *(
        {
            "beam_size": 1,
            "num_hypotheses": SAMPLES_PER_TEMPERATURE,
            "sampling_topk": 0,
            "sampling_temperature": temperature,
        }
        for temperature in TEMPERATURES
    ),
)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows of a span that are decoded together, and what decoding them takes."""

    encoded: ctranslate2.StorageView  # shape (windows, frames / 2, width)
    samples: Samples  # the audio of the span, 16 kHz mono
    windows: Sequence[Window]
    decoding: DecodingOptions
    tokenizer: Tokenizer


class Recogniser(WindowModel):
    """Recognises windows. What looks wrong, or has low confidence, is decoded in more than one way."""

    def recognise(
        self,
        encoded: ctranslate2.StorageView,
        samples: Samples,
        windows: Sequence[Window],
        decoding: DecodingOptions,
        tokenizer: Tokenizer,
        *,
        timed: bool,
        wide_beam: bool = False,
        spoken: str | None = None,
        passages_below: float = LOW_CONFIDENCE_LOGPROB,
    ) -> list[WindowResult]:
        """The text of each window, with the times of its words if `timed`.

        Args:
            encoded: The encoder output for the windows, shape (windows, frames / 2, width).
            samples: The audio of the span, 16 kHz mono.
            windows: Windows of the span.
            decoding: The options of the request.
            tokenizer: For the language and the task.
            timed: Whether the words get times by cross-attention.
            wide_beam: Decode with `WIDE_BEAM` at once, where most windows would need it anyway.
            spoken: The language of the text. If given, passages in another language are detected.
            passages_below: Passages are detected in windows of a lower mean log probability only.
        """
        batch = _Batch(encoded, samples, windows, decoding, tokenizer)
        beam = max(self.options.beam_size, WIDE_BEAM) if wide_beam else self.options.beam_size
        hypotheses = self._decode(encoded, len(windows), decoding, tokenizer, beam_size=beam)
        low = [place for place, one in enumerate(hypotheses) if one.low_confidence(windows[place])]
        if low and beam < WIDE_BEAM:
            self._search_wider(batch, low, hypotheses)
        for place, window in enumerate(windows):
            if hypotheses[place].needs_fallback(window):
                hypotheses[place] = self._fall_back(batch, place, hypotheses[place], beam)
        results = [one.result(window) for window, one in zip(windows, hypotheses, strict=True)]
        for place in low:
            results[place].low_confidence = True
        if timed:
            self._time(encoded, results, tokenizer)
        if spoken and self.multilingual:
            for place, result in enumerate(results):
                if result.logprob < passages_below:
                    result.passages = self._passages(encoded, place, result.window, samples, spoken)
        return results

    def _search_wider(self, batch: _Batch, low: Sequence[int], hypotheses: list[Hypothesis]) -> None:
        """Decode the windows at `low` with the wide beam; a more probable hypothesis replaces the first."""
        part = self._part(batch.encoded, low, batch.samples, batch.windows)
        wider = self._decode(part, len(low), batch.decoding, batch.tokenizer, beam_size=WIDE_BEAM)
        for place, one in zip(low, wider, strict=True):
            if one.logprob > hypotheses[place].logprob and not one.needs_fallback(batch.windows[place]):
                hypotheses[place] = one

    def _fall_back(self, batch: _Batch, place: int, first: Hypothesis, beam: int) -> Hypothesis:
        """Temperature fallback as in openai-whisper: the first hypothesis that needs no more fallback.

        If every hypothesis looks wrong, the most probable one that does not repeat itself is taken.

        Args:
            batch: The batch of the window.
            place: The window's place in it.
            first: The hypothesis that needs a fallback.
            beam: The beam that gave it.
        """
        window = batch.windows[place]
        full = 2 * batch.encoded.shape[1] == MOST_FRAMES
        # The input is 30 s, the length that Whisper was trained with: too little silence after the speech may
        # be the cause.
        encoded = (
            self._part(batch.encoded, [place], batch.samples, batch.windows) if full
            else self.encode(batch.samples, [window], frames=MOST_FRAMES)
        )  # fmt: skip
        # The wide beam is skipped if it gave the first hypothesis from the same input. A weak window gets
        # only the wide beam: most weak windows whose text looks wrong hold noise.
        steps = FALLBACK_STEPS[full and beam >= WIDE_BEAM : 1 if window.weak else None]
        tried = [first]
        for step in steps:
            tried += self._decode(encoded, 1, batch.decoding, batch.tokenizer, **step)
            if not tried[-1].needs_fallback(window):
                log.debug("a window was decoded again", step=step, tries=len(tried))
                return tried[-1]
        log.debug("no fallback gave a text that looks right", tries=len(tried))
        candidates = [one for one in tried if not one.repetitive] or tried
        return max(candidates, key=lambda one: one.logprob)

    def _passages(
        self, encoded: ctranslate2.StorageView, place: int, window: Window, samples: Samples, spoken: str
    ) -> list[Passage]:
        """The passages of a window in another language than `spoken`.

        On a CPU they are detected in the encoder output that exists already. On a GPU, where that cannot be
        cut, each slice is encoded again.

        Args:
            encoded: The encoder output of a batch, shape (windows, frames / 2, width).
            place: The row of the window in `encoded`.
            window: The window.
            samples: The audio of the span, 16 kHz mono.
            spoken: Code of the language of the window's text.
        """
        found = []
        for start, end in slices(window.speech):
            if self._on_gpu:
                times = words.at(start, window.speech), words.at(end, window.speech)
                piece = self.encode(samples, [Window(*times, coverage.within(window.speech, *times))])
            else:
                first, last = (int(second * RATE / HOP / 2) for second in (start, end))
                piece = ctranslate2.StorageView.from_array(
                    np.ascontiguousarray(np.asarray(encoded)[place : place + 1, first:last])
                )
            found.append(((start, end), self.languages(piece)[0]))
        return passages(found, spoken, window.speech)
