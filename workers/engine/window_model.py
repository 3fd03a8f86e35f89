"""A Whisper model, window by window: encoder, decoder, language detection and word times by attention."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import ctranslate2
import numpy as np
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import merge_punctuations

from workers.audio.sound import RATE, Samples
from workers.engine import words
from workers.engine.hypothesis import DecodingOptions, Hypothesis, UnsupportedLanguage, WindowResult
from workers.engine.prompt import control_token_names, text_tokens
from workers.engine.whisperx_asr import asr
from workers.engine.whisperx_vad import SileroVad, SpeechVad
from workers.engine.windows import Window

HOP = 160  # samples of a frame of the spectrogram (10 ms)
# Frames of an encoder input, of 10 ms each: at most (30 s), at least (15 s), and those of silence after the
# speech. Encoding is most of the work. With inputs of 12 s and less, the model base loses words at the end or
# repeats itself without end (docs/benchmarks.md, "Decoding").
MOST_FRAMES = 3000
FEWEST_FRAMES = 1500
SILENCE_FRAMES = 200
# Tokens of prompt and hotwords together. Whisper refuses a prompt of more than half of its context (224).
PROMPT_TOKENS = 220


def frames_for(windows: Sequence[Window]) -> int:
    """Frames of the encoder input for these windows. The number is even, as the encoder halves it."""
    needed = int(max(window.spoken for window in windows) * RATE / HOP) + SILENCE_FRAMES
    return min(max(needed + needed % 2, FEWEST_FRAMES), MOST_FRAMES)


def _cut(encoded: ctranslate2.StorageView, places: Sequence[int]) -> ctranslate2.StorageView:
    """The rows `places` of an encoder output, shape (windows, frames / 2, width), in the CPU's memory."""
    return ctranslate2.StorageView.from_array(np.asarray(encoded)[list(places)])


class WindowModel(asr.FasterWhisperPipeline):  # type: ignore[misc,name-defined]
    """WhisperX's pipeline, used window by window. One encoder output serves language, text and word times.

    Threads may share an instance: as many run at the same time as the model has replicas. All methods
    work on the same model, so the class has more than 200 lines.
    """

    replicas = 1

    @classmethod
    def load(
        cls, folder: Path, device: str, compute_type: str, *,
        threads: int, replicas: int, beam: int, vad_model: SpeechVad | None = None,
    ) -> Self:  # fmt: skip
        """Load a model through WhisperX.

        Args:
            folder: A CTranslate2 model.
            device: "cpu" or "cuda".
            compute_type: As CTranslate2 names it, such as "int8".
            threads: CPU threads of each replica.
            replicas: Batches that the model works on at the same time.
            beam: The beam of the first decoding; 1 is greedy.
            vad_model: The voice activity detector; Silero by default.
        """
        model = asr.WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=threads, num_workers=replicas
        )
        pipeline = asr.load_model(
            str(folder), device, compute_type=compute_type, model=model, vad_model=vad_model or SileroVad(),
            asr_options={"beam_size": beam},
        )  # fmt: skip
        made = cls(model, pipeline.vad_model, pipeline._vad_params, pipeline.options, device=device)
        made.replicas = replicas
        return made

    @property
    def multilingual(self) -> bool:
        """Whether the model knows other languages than English."""
        return bool(self.model.model.is_multilingual)

    @property
    def _on_gpu(self) -> bool:
        return bool(self.model.model.device == "cuda")

    def encode(
        self,
        samples: Samples,
        windows: Sequence[Window],
        known: Mapping[int, ctranslate2.StorageView] | None = None,
        *,
        frames: int = 0,
    ) -> ctranslate2.StorageView:
        """The encoder output for some windows, shape (windows, frames / 2, width).

        A CPU encodes one window after the other: that is no slower than a batch, and the attention of one
        window takes up to 72 MB (docs/benchmarks.md, "Memory").

        Args:
            samples: The audio of the span, 16 kHz mono.
            windows: Windows of the span.
            known: Encoder outputs that exist already, by place in `windows`, all of one shape. On a GPU,
                where they cannot be joined, they are used only if there is one window.
            frames: Length of the encoder input. By default that of `known`, else what `frames_for` gives.
        """
        known = known or {}
        if len(windows) == 1 and 0 in known:
            return known[0]
        frames = frames or next((2 * output.shape[1] for output in known.values()), frames_for(windows))
        if self._on_gpu or len(windows) == 1:
            inputs = [self._spectrogram(window.cut(samples), frames) for window in windows]
            return self.model.encode(np.stack(inputs))
        encoded = [
            known[place] if place in known else self.encode(samples, [window], frames=frames)
            for place, window in enumerate(windows)
        ]
        return ctranslate2.StorageView.from_array(np.concatenate(encoded))

    def languages(self, encoded: ctranslate2.StorageView) -> list[dict[str, float]]:
        """For each window of an encoder output, the probability of each language by its code."""
        return [
            {token[2:-2]: probability for token, probability in window}
            for window in self.model.model.detect_language(encoded)
        ]

    def time_words(self, samples: Samples, results: Sequence[WindowResult], tokenizer: Tokenizer) -> None:
        """Set the word times of results by cross-attention.

        Args:
            samples: The audio of the span, 16 kHz mono.
            results: Results of windows of the span; their `timed_words` are set.
            tokenizer: For the language and the task.
        """
        for result in results:
            self._time(self.encode(samples, [result.window]), [result], tokenizer)

    def tokenizer_for(self, language: str, task: str) -> Tokenizer:
        """A tokenizer whose prompt asks for this language and task.

        Raises:
            UnsupportedLanguage: The model has no token for the language.
        """
        if self.multilingual and self.model.hf_tokenizer.token_to_id(f"<|{language}|>") is None:
            raise UnsupportedLanguage(language)
        made = Tokenizer(self.model.hf_tokenizer, self.multilingual, task=task, language=language)
        if task == "translate":
            made.language_code = "en"  # a translation is English text, and is split into words as such
        return made

    def _spectrogram(self, samples: Samples, frames: int) -> Samples:
        samples = samples[: frames * HOP]
        padded = np.pad(samples, (0, frames * HOP - len(samples)))
        made: Samples = self.model.feature_extractor(padded, padding=HOP)[:, :frames].astype(np.float32)
        return made  # shape (mel bands, frames)

    def _decode(
        self, encoded: ctranslate2.StorageView, count: int, decoding: DecodingOptions, tokenizer: Tokenizer,
        **search: Any,
    ) -> list[Hypothesis]:  # fmt: skip
        """One hypothesis for each of the `count` windows; `search` are beam and sampling of CTranslate2."""
        generated = self.model.model.generate(
            encoded,
            [self._prompt(decoding, tokenizer)] * count,
            patience=self.options.patience,
            length_penalty=self.options.length_penalty,
            max_length=self.model.max_length,
            suppress_blank=self.options.suppress_blank,
            suppress_tokens=self._suppressed(decoding),
            return_scores=True,
            return_no_speech_prob=True,
            **search,
        )
        return [self._hypothesis(result, tokenizer) for result in generated]

    def _hypothesis(self, generated: Any, tokenizer: Tokenizer) -> Hypothesis:
        sequence = generated.sequences_ids[0]
        # As in faster-whisper: the score without its length penalty, over the tokens and the end token.
        logprob = generated.scores[0] * len(sequence) ** self.options.length_penalty / (len(sequence) + 1)
        tokens = [token for token in sequence if token < tokenizer.eot]
        return Hypothesis(tokens, tokenizer.decode(tokens), float(logprob), float(generated.no_speech_prob))

    def _part(
        self,
        encoded: ctranslate2.StorageView,
        places: Sequence[int],
        samples: Samples,
        windows: Sequence[Window],
    ) -> ctranslate2.StorageView:
        """The encoder output for the windows at `places`; a GPU encodes them again, which is fast."""
        if self._on_gpu:
            part = [windows[place] for place in places]
            return self.encode(samples, part, frames=2 * encoded.shape[1])
        return _cut(encoded, places)

    def _prompt(self, decoding: DecodingOptions, tokenizer: Tokenizer) -> list[int]:
        texts = [text for text in (decoding.hotwords, decoding.prompt) if text and text.strip()]
        before = [
            token for text in texts for token in text_tokens(" " + text.strip(), tokenizer, self._control)
        ]
        prompt: list[int] = self.model.get_prompt(tokenizer, before[-PROMPT_TOKENS:], without_timestamps=True)
        return prompt

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return control_token_names(self.model.hf_tokenizer)

    def _suppressed(self, decoding: DecodingOptions) -> list[int]:
        # -1 stands for the tokens that the model's own configuration suppresses.
        return [-1, *self._numerals] if decoding.suppress_numerals else [-1]

    @cached_property
    def _numerals(self) -> list[int]:
        """Tokens that contain a digit or a symbol."""
        found: list[int] = asr.find_numeral_symbol_tokens(self.tokenizer_for("en", "transcribe"))
        return found

    def _time(
        self, encoded: ctranslate2.StorageView, results: Sequence[WindowResult], tokenizer: Tokenizer
    ) -> None:
        """Set word times by the model's own cross-attention.

        A CPU does so window by window. The model computes the probability of each of its 52,000 tokens after
        each token of the text, which takes 250 MB for a batch; one window after the other is no slower.
        """
        if self._on_gpu:
            self._time_batch(encoded, results, tokenizer)
            return
        for place, result in enumerate(results):
            self._time_batch(_cut(encoded, [place]), [result], tokenizer)

    def _time_batch(
        self, encoded: ctranslate2.StorageView, results: Sequence[WindowResult], tokenizer: Tokenizer
    ) -> None:
        if not any(result.tokens for result in results):
            return
        frames = [int(result.window.spoken * RATE / HOP) for result in results]
        found = self.model.find_alignment(tokenizer, [result.tokens for result in results], encoded, frames)
        for result, alignment in zip(results, found, strict=True):
            merge_punctuations(alignment, self.options.prepend_punctuations, self.options.append_punctuations)
            speech = result.window.speech
            timed = [
                words.Word(
                    part["word"],
                    words.at(float(part["start"]), speech),
                    words.at(float(part["end"]), speech),
                    float(part["probability"]),
                    result.logprob,
                )
                for part in alignment
            ]
            # A text that ends inside a character (of several tokens) differs from its joined words. Then it
            # stays without word times.
            if "".join(word.text for word in timed) == result.text:
                result.timed_words = words.whole(timed)
