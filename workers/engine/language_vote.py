"""Detects the spoken language of a span by the vote of its windows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future

import ctranslate2

from workers.engine.span_task import SpanTask
from workers.engine.window_model import frames_for
from workers.engine.windows import Window

VOTES = 3  # windows that vote


class LanguageVote:
    """The votes of some windows of a span. The encoder runs in the decoder threads."""

    def __init__(self, task: SpanTask, threads: Executor) -> None:
        self._task = task
        self._chosen = voters(task.windows)
        # Each window is encoded by itself, so that the vote does not depend on the batch size. All have one
        # length, as they may be decoded in one batch.
        frames = frames_for([task.windows[index] for index in self._chosen])
        self.futures: list[Future[ctranslate2.StorageView]] = [
            threads.submit(task.recogniser.encode, task.span.samples, [task.windows[index]], frames=frames)
            for index in self._chosen
        ]

    def result(self) -> tuple[str, float]:
        """The language with the highest mean probability, and that probability.

        Keeps the encoder outputs in the task: the text of the windows is decoded from them.
        """
        votes: dict[str, float] = {}
        for index, future in zip(self._chosen, self.futures, strict=True):
            self._task.encoded[index] = future.result()
            [probabilities] = self._task.recogniser.languages(self._task.encoded[index])
            for language, probability in probabilities.items():
                votes[language] = votes.get(language, 0.0) + probability / len(self._chosen)
        language = max(votes, key=lambda language: votes[language])
        return language, votes[language]


def voters(windows: Sequence[Window]) -> list[int]:
    """Indices of the windows that vote: those with most speech, and a weak window only if all are weak."""
    order = sorted(range(len(windows)), key=lambda index: (windows[index].weak, -windows[index].spoken))
    return [index for index in order if not windows[index].weak or index == order[0]][:VOTES]
