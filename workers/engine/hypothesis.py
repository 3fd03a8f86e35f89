"""The options of decoding, one hypothesis with the checks for a fallback, and the result of a window."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from stt.codes import CodedError, ErrorCode
from workers.engine import words
from workers.engine.language import Passage
from workers.engine.windows import Window

# Thresholds of openai-whisper (`transcribe`). A window is silent if its probability of no speech is above the
# first and its mean log probability below the second.
NO_SPEECH_THRESHOLD = 0.6
LOGPROB_THRESHOLD = -1.0
# Bytes of a text over bytes of the text compressed by zlib; a text above this repeats itself.
COMPRESSION_RATIO_THRESHOLD = 2.4
# Mean log probability below which a hypothesis has low confidence: there beam search finds better words. Few
# windows of clear English are below it (docs/benchmarks.md, "Decoding").
LOW_CONFIDENCE_LOGPROB = -0.2
# Mean log probability below which the text of a weak window, which may hold no speech, is dropped
# (docs/benchmarks.md, "Speech that was skipped").
WEAK_LOGPROB = -0.8
# Bounds of a plausible speaking rate, in letters per second (see `words.letters`). The lower bound holds for
# windows with more than so many seconds of speech.
MOST_LETTERS_PER_SECOND = 40.0
FEWEST_LETTERS_PER_SECOND, FEWEST_LETTERS_FROM_SECONDS = 2.5, 6.0
# The same 2 to 60 characters six times in a row. Verses and "no, no, no" repeat less often.
_LOOP = re.compile(r"(\b.{2,60}?)(?:[\s,.!?-]*\1){5,}", re.DOTALL | re.IGNORECASE)


@dataclass(slots=True)
class WindowResult:
    """What was recognised in a window. Times are in seconds from the start of the span."""

    window: Window
    text: str
    logprob: float  # mean log probability of the tokens
    tokens: list[int] = field(default_factory=list)
    timed_words: list[words.Word] | None = None  # None if no word times were measured
    low_confidence: bool = False  # see `Hypothesis.low_confidence`
    passages: list[Passage] = field(default_factory=list)  # passages in another language than the text


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """The options of a request that concern recognition."""

    language: str | None  # code of the spoken language; None: detect it
    task: str  # "transcribe" or "translate"
    prompt: str | None  # text that is given to the decoder as previous text
    hotwords: str | None  # words that are given to the decoder before the prompt
    suppress_numerals: bool  # never write digits
    multilingual: bool  # detect the language of each span, not only of the first
    timed: bool  # segments carry word times


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The text that one decoding of one window gave."""

    tokens: list[int]
    text: str
    logprob: float  # mean log probability of the tokens
    no_speech: float  # probability that the window holds no speech

    @property
    def silent(self) -> bool:
        """Whether the window holds no speech, by the rule of openai-whisper."""
        return self.no_speech > NO_SPEECH_THRESHOLD and self.logprob < LOGPROB_THRESHOLD

    @property
    def repetitive(self) -> bool:
        """Whether the text repeats itself: a decoder in a loop does that."""
        raw = self.text.strip().encode()
        if len(raw) > 40 and len(raw) / len(zlib.compress(raw)) > COMPRESSION_RATIO_THRESHOLD:
            return True
        return _LOOP.search(self.text) is not None

    def needs_fallback(self, window: Window) -> bool:
        """Whether the text looks wrong for this window, which must then be decoded in another way.

        The log probability and the compression ratio are the criteria of openai-whisper's temperature
        fallback. A text that is too short or too long for the speech of the window is one more.
        """
        if self.silent:
            return False
        count = words.letters(self.text)
        too_fast = count / max(window.spoken, 0.5) > MOST_LETTERS_PER_SECOND
        long = window.voiced > FEWEST_LETTERS_FROM_SECONDS
        too_short = long and count < FEWEST_LETTERS_PER_SECOND * window.voiced
        return self.logprob < LOGPROB_THRESHOLD or self.repetitive or too_short or too_fast

    def low_confidence(self, window: Window) -> bool:
        """Whether the text looks right but has a low probability: a wider beam may find a better one."""
        return self.logprob < LOW_CONFIDENCE_LOGPROB and not self.silent and not self.needs_fallback(window)

    def result(self, window: Window) -> WindowResult:
        """The result of the window: without text if it is silent, or weak and its text unlikely."""
        unlikely = self.logprob < WEAK_LOGPROB or self.needs_fallback(window)
        if self.silent or (window.weak and unlikely):
            return WindowResult(window, "", self.logprob)
        return WindowResult(window, self.text, self.logprob, self.tokens)


class UnsupportedLanguage(CodedError):
    """The model does not know the language of the request."""

    def __init__(self, language: str) -> None:
        super().__init__(ErrorCode.UNSUPPORTED_LANGUAGE, language=language)
