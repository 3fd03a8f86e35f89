"""What the recogniser is asked and what it found: options, hypotheses, and the checks of a hypothesis."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from stt.codes import CodedError, ErrorCode
from workers.engine import words
from workers.engine.language import Passage
from workers.engine.windows import Window

# Whisper's own rules. "Nobody speaks here" needs both of the first two.
NO_SPEECH = 0.6
LOGPROB_FLOOR = -1.0
REPETITIVE = 2.4  # length of a text over its compressed length
# Below this a wider beam finds better words. Hardly any clear English lies below it (docs/benchmarks.md).
UNSURE = -0.2
# A hypothesis for a weak window, in which perhaps nobody speaks, is dropped below this log probability.
WEAK_LOGPROB = -0.8
# More letters a second than anybody says; fewer than anybody who speaks for so many seconds.
FASTEST = 40.0
SLOWEST, SLOWEST_SECONDS = 2.5, 6.0
# The same few words again and again. Verses and "no, no, no" repeat too, but not so often.
_LOOP = re.compile(r"(\b.{2,60}?)(?:[\s,.!?-]*\1){5,}", re.DOTALL | re.IGNORECASE)


@dataclass(slots=True)
class Heard:
    """What was recognised in a window; `timed` is None where words were not timed."""

    window: Window
    text: str
    logprob: float
    tokens: list[int] = field(default_factory=list)
    timed: list[words.Word] | None = None
    unsure: bool = False  # it looked right, but the model had others nearly as likely to choose from
    passages: list[Passage] = field(default_factory=list)  # those in another language


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says about recognition."""

    language: str | None
    task: str
    prompt: str | None
    hotwords: str | None
    suppress_numerals: bool
    multilingual: bool
    timed: bool  # whether words get times


@dataclass(frozen=True, slots=True)
class Attempt:
    """One decoding of one window."""

    tokens: list[int]
    text: str
    logprob: float
    no_speech: float

    @property
    def silent(self) -> bool:
        """Nobody speaks, by Whisper's own rule."""
        return self.no_speech > NO_SPEECH and self.logprob < LOGPROB_FLOOR

    @property
    def repetitive(self) -> bool:
        """Whether it says the same again and again, as the model does when it has lost its way."""
        raw = self.text.strip().encode()
        if len(raw) > 40 and len(raw) / len(zlib.compress(raw)) > REPETITIVE:
            return True
        return _LOOP.search(self.text) is not None

    def doubtful(self, window: Window) -> bool:
        """Whether it looks wrong for this window, so that it is worth another look."""
        if self.silent:
            return False
        rate = words.letters(self.text) / max(window.spoken, 0.5)
        missing = window.voiced > SLOWEST_SECONDS and words.letters(self.text) < SLOWEST * window.voiced
        return self.logprob < LOGPROB_FLOOR or self.repetitive or missing or rate > FASTEST

    def unsure(self, window: Window) -> bool:
        """Whether it looks right, but the model had others nearly as likely to choose from."""
        return self.logprob < UNSURE and not self.silent and not self.doubtful(window)

    def hypothesis(self, window: Window) -> Heard:
        """The hypothesis; without text if nobody speaks, or if the text of a weak window is unlikely."""
        unlikely = self.logprob < WEAK_LOGPROB or self.doubtful(window)
        if self.silent or (window.weak and unlikely):
            return Heard(window, "", self.logprob)
        return Heard(window, self.text, self.logprob, self.tokens)


class UnsupportedLanguage(CodedError):
    """The model does not know the requested language."""

    def __init__(self, language: str) -> None:
        super().__init__(ErrorCode.UNSUPPORTED_LANGUAGE, language=language)
