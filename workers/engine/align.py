"""Word times by WhisperX's forced alignment with wav2vec2."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from workers.audio import vad
from workers.audio.sound import RATE, Samples
from workers.engine import words
from workers.engine.windows import Window

log = structlog.stdlib.get_logger(__name__)

HUB_SECONDS = 5.0  # timeout of a request to the model hub
AlignModel = tuple[Any, dict[str, Any]]  # the model and its metadata, as WhisperX returns them


class Aligner:
    """Loads alignment models by language, and aligns with them."""

    RETRY_SECONDS = 600.0  # after which a model that could not be loaded is tried again

    def __init__(self, device: str, folder: Path, threads: int) -> None:
        self._device, self._folder, self._threads = device, folder, threads
        self._latest: tuple[str, AlignModel] | None = None
        self._failed: dict[str, float] = {}

    def model_for(self, language: str) -> AlignModel | None:
        """The model for a language, loaded and tried once; None if there is none that works.

        The caller keeps the model for its span: the next span may be in another language.
        """
        if self._latest is not None and language == self._latest[0]:
            return self._latest[1]
        if time.monotonic() - self._failed.get(language, -self.RETRY_SECONDS) < self.RETRY_SECONDS:
            return None
        try:
            self._latest = None  # frees the memory, unless a span still waits to be timed by that model
            model = self._load(language)
            # The first use downloads a sentence splitter, which may fail too.
            self.align(model, "a", np.zeros(RATE, np.float32), Window(0, 1, [vad.Speech(0, 1)]), 0.0)
        except Exception as error:  # noqa: BLE001  on any error words are timed by attention
            log.warning("no wav2vec2 alignment", language=language, error=str(error))
            self._failed[language] = time.monotonic()
            return None
        self._latest = language, model
        return model

    def _load(self, language: str) -> AlignModel:
        # Imported here: this takes seconds and hundreds of megabytes.
        import torch  # noqa: PLC0415
        import whisperx.alignment  # noqa: PLC0415

        torch.set_num_threads(self._threads)
        name = whisperx.alignment.DEFAULT_ALIGN_MODELS_HF.get(language)
        if name and not _on_hub(name):
            # transformers would repeat its requests for minutes.
            return whisperx.alignment.load_align_model(  # type: ignore[no-any-return]
                language, self._device, model_dir=str(self._folder), model_cache_only=True
            )
        return whisperx.alignment.load_align_model(  # type: ignore[no-any-return]
            language, self._device, model_dir=str(self._folder)
        )

    def align(
        self, model: AlignModel, text: str, samples: Samples, window: Window, logprob: float
    ) -> list[words.Word] | None:
        """The words of a text with their times; None if WhisperX splits the text into other words.

        Args:
            model: What `model_for` returned.
            text: The text of the window.
            samples: The audio of the span, 16 kHz mono.
            window: The window. Its pauses are left out of the audio that is aligned.
            logprob: Mean log probability of the text, which each word gets.
        """
        import whisperx.alignment  # noqa: PLC0415

        audio = window.cut(samples)
        segment = {"start": 0.0, "end": len(audio) / RATE, "text": text}
        aligned = whisperx.alignment.align([segment], *model, audio, self._device, print_progress=False)
        found = [word for part in aligned["segments"] for word in part["words"]]
        pieces = words.spread(text, logprob, window.speech)
        if [piece.text.strip() for piece in pieces] != [word["word"].strip() for word in found]:
            return None
        return [
            replace(
                piece, start=words.at(word["start"], window.speech), end=words.at(word["end"], window.speech),
                score=word["score"],
            )
            if "start" in word else piece
            for piece, word in zip(pieces, found, strict=True)
        ]  # fmt: skip


def _on_hub(name: str) -> bool:
    """Whether the model hub answers and has this repository."""
    import huggingface_hub  # noqa: PLC0415

    try:
        huggingface_hub.model_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # noqa: BLE001  on any error the hub is not used
        log.info("the model hub does not give a model", model=name, error=str(error))
        return False
    return True
