"""The recognition of one span, from its windows to their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import ctranslate2

from workers.audio import spans
from workers.engine.align import AlignModel
from workers.engine.hypothesis import WindowResult
from workers.engine.recognise import Recogniser
from workers.engine.windows import Window


@dataclass(slots=True)
class SpanTask:
    """A span that is being recognised: its windows, and their batches, which decoder threads work on.

    A decoder thread runs Whisper (encoder and decoder). It has nothing to do with the decoder process, which
    decodes the file (`workers.audio`).
    """

    span: spans.Span
    windows: list[Window]
    recogniser: Recogniser
    # Encoder outputs that exist already, by the index of the window: language detection made them.
    encoded: dict[int, ctranslate2.StorageView] = field(default_factory=dict)
    # Each batch: the indices of its windows, and their results in the same order.
    batches: list[tuple[list[int], Future[list[WindowResult]]]] = field(default_factory=list)
    # Returns whether to decode with the wide beam at once, as most windows of an earlier span had low
    # confidence. The call may block until that span is recognised. It cannot deadlock, as the decoder threads
    # got that span first.
    wants_wide_beam: Callable[[], bool] = bool
    language: str = ""
    fills_gaps: bool = False  # whether the windows are gaps: speech that a first recognition skipped
    align_model: AlignModel | None = None  # wav2vec2 model for the word times; None: cross-attention

    def results(self) -> list[WindowResult]:
        """The results of all windows, in order. Blocks until all batches are done."""
        found = {
            index: result
            for indices, future in self.batches
            for index, result in zip(indices, future.result(), strict=True)
        }
        return [found[index] for index in range(len(self.windows))]

    def low_confidence_future(self) -> Callable[[], bool]:
        """Callable that blocks until the batches are done; True if most windows had low confidence.

        It holds no reference to the audio.
        """
        futures = [future for _, future in self.batches]
        return lambda: _most(result.low_confidence for future in futures for result in future.result())


def _most(flags: Iterable[bool]) -> bool:
    """Whether more than half of the flags are set."""
    values = list(flags)
    return 2 * sum(values) > len(values)
