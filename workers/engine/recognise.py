"""WhisperX's pipeline as the engine uses it: windows in, words out, and a second look at what looks wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import merge_punctuations

from workers.audio.sound import RATE, Samples
from workers.engine import coverage, words
from workers.engine.hypothesis import UNSURE, Asked, Attempt, Heard, UnsupportedLanguage
from workers.engine.language import Passage, passages, slices
from workers.engine.whisperx_asr import asr
from workers.engine.whisperx_vad import SileroVad, SpeechVad
from workers.engine.windows import Window

log = logging.getLogger(__name__)

HOP = 160  # samples of a frame of the spectrogram
# What the encoder hears at most, and at least, and so much silence after the speech: encoding is most of the
# work. In 12 s and less base does not always notice that words are over: it loses some, or goes on and on.
FRAMES = 3000
FEWEST_FRAMES = 1500
QUIET_FRAMES = 200
# Whisper's prompt may fill half of its context; a longer one would be refused.
PROMPT_TOKENS = 220

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
SAMPLES_EACH = 5
BEAM = 5
# How a window that looks wrong is decoded again.
LADDER: tuple[dict[str, Any], ...] = (
    {"beam_size": BEAM},
    *(
        {"beam_size": 1, "num_hypotheses": SAMPLES_EACH, "sampling_topk": 0, "sampling_temperature": each}
        for each in TEMPERATURES
    ),
)


def frames_for(windows: Sequence[Window]) -> int:
    """How much the encoder hears of each of them, in frames: an even number, as it halves them."""
    needed = int(max(one.spoken for one in windows) * RATE / HOP) + QUIET_FRAMES
    return min(max(needed + needed % 2, FEWEST_FRAMES), FRAMES)


def _cut(encoded: ctranslate2.StorageView, places: list[int]) -> ctranslate2.StorageView:
    """Some windows' part of the encoder's output, which must be in the CPU's memory."""
    return ctranslate2.StorageView.from_array(np.asarray(encoded)[places])


class Recogniser(asr.FasterWhisperPipeline):  # type: ignore[misc,name-defined]
    """WhisperX's pipeline, window by window: the encoder's output serves language, text and word times.

    Several threads may use one: as many work side by side as it has replicas of the model.
    """

    replicas = 1

    @classmethod
    def load(
        cls, folder: Path, device: str, compute_type: str, *,
        threads: int, replicas: int, beam: int, vad_model: SpeechVad | None = None,
    ) -> Recogniser:  # fmt: skip
        """Load a model's folder through WhisperX."""
        model = asr.WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=threads, num_workers=replicas
        )
        made = asr.load_model(
            str(folder), device, compute_type=compute_type, model=model, vad_model=vad_model or SileroVad(),
            asr_options={"beam_size": beam},
        )  # fmt: skip
        found = cls(model, made.vad_model, made._vad_params, made.options, device=device)
        found.replicas = replicas
        return found

    @property
    def multilingual(self) -> bool:
        """Whether the model knows more than English."""
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
        """The encoder's output for some windows, shape (windows, frames / 2, width).

        `known`: by place in `windows`, what was encoded before, all of one shape; a batch on a GPU is encoded
        whole all the same, as it cannot be put together there. `frames`: how much is heard of each window; by
        default as much as of those known, else what `frames_for` says. On a CPU one after the other: that is
        no slower, and a window's attention alone takes up to 72 MB.
        """
        known = known or {}
        if len(windows) == 1 and 0 in known:
            return known[0]
        frames = frames or next((2 * one.shape[1] for one in known.values()), frames_for(windows))
        if self._on_gpu or len(windows) == 1:
            heard = [self._spectrogram(one.cut(samples), frames) for one in windows]
            return self.model.encode(np.stack(heard))
        encoded = [
            known[place] if place in known else self.encode(samples, [window], frames=frames)
            for place, window in enumerate(windows)
        ]
        return ctranslate2.StorageView.from_array(np.concatenate(encoded))

    def languages(self, encoded: ctranslate2.StorageView) -> list[dict[str, float]]:
        """For each window, the probability of each language."""
        return [
            {token[2:-2]: probability for token, probability in window}
            for window in self.model.model.detect_language(encoded)
        ]

    def recognise(
        self,
        encoded: ctranslate2.StorageView,
        samples: Samples,
        windows: Sequence[Window],
        asked: Asked,
        tokenizer: Tokenizer,
        *,
        timed: bool,
        wide: bool = False,
        spoken: str | None = None,
        floor: float = UNSURE,
    ) -> list[Heard]:
        """Text of each window that was encoded, with the times of its words if `timed`.

        Args:
            encoded: The encoder's output, (windows, places, width).
            samples: Of the span, 16 kHz mono.
            windows: Windows of the span.
            asked: The options of the job.
            tokenizer: For the language and the task.
            timed: Whether the words get times by cross-attention.
            wide: Decode with a wider beam at once, where most windows would get one anyway.
            spoken: The language that is decoded. Passages in another language are detected if it is given.
            floor: They are detected only in windows of a lower log probability.
        """
        beam = max(self.options.beam_size, BEAM) if wide else self.options.beam_size
        attempts = self._decode(encoded, len(windows), asked, tokenizer, beam_size=beam)
        unsure = [place for place, one in enumerate(attempts) if one.unsure(windows[place])]
        if unsure and beam < BEAM:
            part = self._part(encoded, unsure, samples, windows)
            wider = self._decode(part, len(unsure), asked, tokenizer, beam_size=BEAM)
            for place, one in zip(unsure, wider, strict=True):
                if one.logprob > attempts[place].logprob and not one.doubtful(windows[place]):
                    attempts[place] = one
        for place, window in enumerate(windows):
            if attempts[place].doubtful(window):
                full = 2 * encoded.shape[1] == FRAMES
                # In 30 s, as Whisper was taught: it may look wrong for want of silence.
                part = (
                    self._part(encoded, [place], samples, windows) if full
                    else self.encode(samples, [window], frames=FRAMES)
                )  # fmt: skip
                # If the first attempt had the wider beam, another with it would give the same text. Most
                # weak windows that look wrong hold noise, for which more attempts are not worth the time.
                rungs = LADDER[full and beam >= BEAM : 1 if window.weak else None]
                attempts[place] = self._again(attempts[place], rungs, part, window, asked, tokenizer)
        heard = [one.hypothesis(window) for window, one in zip(windows, attempts, strict=True)]
        for place in unsure:
            heard[place].unsure = True
        if timed:
            self._time(encoded, heard, tokenizer)
        if spoken and self.multilingual:
            for place, hypothesis in enumerate(heard):
                if hypothesis.logprob < floor:
                    window = hypothesis.window
                    hypothesis.passages = self._passages(encoded, place, window, samples, spoken)
        return heard

    def _passages(
        self, encoded: ctranslate2.StorageView, place: int, window: Window, samples: Samples, spoken: str
    ) -> list[Passage]:
        """The passages of a window in another language than `spoken`.

        On a GPU each slice is encoded again, as the encoder's output cannot be cut there.
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

    def time_words(self, samples: Samples, heard: Sequence[Heard], tokenizer: Tokenizer) -> None:
        """Word times by attention for what was recognised without them."""
        for one in heard:
            self._time(self.encode(samples, [one.window]), [one], tokenizer)

    def tokenizer_for(self, language: str, task: str) -> Tokenizer:
        """A tokenizer that prompts for this language and task.

        Raises:
            UnsupportedLanguage: the model has no token for it.
        """
        if self.multilingual and self.model.hf_tokenizer.token_to_id(f"<|{language}|>") is None:
            raise UnsupportedLanguage(language)
        made = Tokenizer(self.model.hf_tokenizer, self.multilingual, task=task, language=language)
        if task == "translate":
            made.language_code = "en"  # what comes out is English, and is split into words as English is
        return made

    def _spectrogram(self, samples: Samples, frames: int) -> Samples:
        samples = samples[: frames * HOP]
        padded = np.pad(samples, (0, frames * HOP - len(samples)))
        found: Samples = self.model.feature_extractor(padded, padding=HOP)[:, :frames].astype(np.float32)
        return found

    def _decode(
        self, encoded: ctranslate2.StorageView, count: int, asked: Asked, tokenizer: Tokenizer, **how: Any
    ) -> list[Attempt]:
        results = self.model.model.generate(
            encoded,
            [self._prompt(asked, tokenizer)] * count,
            patience=self.options.patience,
            length_penalty=self.options.length_penalty,
            max_length=self.model.max_length,
            suppress_blank=self.options.suppress_blank,
            suppress_tokens=self._suppressed(asked),
            return_scores=True,
            return_no_speech_prob=True,
            **how,
        )
        return [self._attempt(result, tokenizer) for result in results]

    def _attempt(self, result: Any, tokenizer: Tokenizer) -> Attempt:
        said = result.sequences_ids[0]
        logprob = result.scores[0] * len(said) ** self.options.length_penalty / (len(said) + 1)
        tokens = [token for token in said if token < tokenizer.eot]
        return Attempt(tokens, tokenizer.decode(tokens), float(logprob), float(result.no_speech_prob))

    def _part(
        self, encoded: ctranslate2.StorageView, places: list[int], samples: Samples, windows: Sequence[Window]
    ) -> ctranslate2.StorageView:
        """The encoder's output for some of the windows; what lies on a GPU is soon made again."""
        if self._on_gpu:
            part = [windows[place] for place in places]
            return self.encode(samples, part, frames=2 * encoded.shape[1])
        return _cut(encoded, places)

    def _again(
        self, first: Attempt, rungs: Sequence[dict[str, Any]], encoded: ctranslate2.StorageView,
        window: Window, asked: Asked, tokenizer: Tokenizer,
    ) -> Attempt:  # fmt: skip
        """What looked wrong once more: with a wider beam, then with more and more chance, as in Whisper.

        The first that looks right is taken. If none does, the likeliest that does not repeat itself.
        """
        tried = [first]
        for how in rungs:
            tried += self._decode(encoded, 1, asked, tokenizer, **how)
            if not tried[-1].doubtful(window):
                log.debug("a window was decoded again (%s): %r became %r", how, first.text, tried[-1].text)
                return tried[-1]
        log.debug("a window stays doubtful: %r", first.text)
        sound = [one for one in tried if not one.repetitive] or tried
        return max(sound, key=lambda one: one.logprob)

    def _prompt(self, asked: Asked, tokenizer: Tokenizer) -> list[int]:
        said = [text for text in (asked.hotwords, asked.prompt) if text and text.strip()]
        before = [token for text in said for token in self._encode_text(" " + text.strip(), tokenizer)]
        prompt: list[int] = self.model.get_prompt(tokenizer, before[-PROMPT_TOKENS:], without_timestamps=True)
        return prompt

    def _encode_text(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """The tokens of a text of the job's options; the name of a control token in it is encoded as text."""
        ends = [match.start() + 1 for match in self._control.finditer(text)]
        parts = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
        return [token for part in parts for token in tokenizer.encode(part) if token < tokenizer.eot]

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Matches, empty, where the name of a control token begins, such as `<|endoftext|>`.

        If a text is cut after the first character of each name, no part contains such a name. The tokenizer's
        own switch (`encode_special_tokens`) is not enough: it does not count time stamps as special tokens.
        """
        added = self.model.hf_tokenizer.get_added_tokens_decoder().values()
        names = "|".join(re.escape(token.content) for token in added)
        return re.compile(f"(?={names})" if names else "(?!)")

    def _suppressed(self, asked: Asked) -> list[int]:
        return [-1, *self._numerals] if asked.suppress_numerals else [-1]

    @cached_property
    def _numerals(self) -> list[int]:
        """Tokens with a digit or a symbol in them."""
        found: list[int] = asr.find_numeral_symbol_tokens(self.tokenizer_for("en", "transcribe"))
        return found

    def _time(self, encoded: ctranslate2.StorageView, heard: Sequence[Heard], tokenizer: Tokenizer) -> None:
        """Word times by the model's own cross-attention.

        On a CPU window by window: it works out how likely each of its 52,000 tokens was after each of those
        that were said, some 250 MB for a batch; and one window after the other takes no longer.
        """
        if self._on_gpu:
            self._time_batch(encoded, heard, tokenizer)
            return
        for place, one in enumerate(heard):
            self._time_batch(_cut(encoded, [place]), [one], tokenizer)

    def _time_batch(
        self, encoded: ctranslate2.StorageView, heard: Sequence[Heard], tokenizer: Tokenizer
    ) -> None:
        if not any(one.tokens for one in heard):
            return
        frames = [int(one.window.spoken * RATE / HOP) for one in heard]
        found = self.model.find_alignment(tokenizer, [one.tokens for one in heard], encoded, frames)
        for one, alignment in zip(heard, found, strict=True):
            merge_punctuations(alignment, self.options.prepend_punctuations, self.options.append_punctuations)
            speech = one.window.speech
            timed = [
                words.Word(
                    part["word"],
                    words.at(float(part["start"]), speech),
                    words.at(float(part["end"]), speech),
                    float(part["probability"]),
                    one.logprob,
                )
                for part in alignment
            ]
            # A text that ends in half a character does not come back whole: then the text counts.
            if "".join(word.text for word in timed) == one.text:
                one.timed = words.whole(timed)
