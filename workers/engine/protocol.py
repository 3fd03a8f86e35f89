"""The messages between a worker and its engine: one JSON object a line, over a socket. No torch in here.

The worker sends a `TranscribeRequest`. The engine answers with events in this order:

1. `SpanEvent` for each span, by number; the first number is `resume.spans` of the request.
2. `SpeakersEvent` once, if the request's options ask for speakers and somebody speaks.
3. `DoneEvent`. Nothing follows it. If the request fails, `ErrorEvent` comes instead, at any time.

Before the last event these may come at any time:

- `StageEvent`, four times a second at most.
- `LanguageEvent` when a language was detected: for the first span with speech, or with the option
  `multilingual` for each. None comes if the request or `resume` names the language (`resume` does not count
  with `multilingual`), or if the model knows only English. It may come before events of earlier spans.
- `WarningEvent`.
- `ModelEvent` when the model was loaded for the request.
- `AliveEvent`, every `BEAT_SECONDS`. If none comes for long, the worker takes the engine for hung.

Only one request is served at a time. Positions are seconds from the beginning of the recording.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from stt.codes import JobWarning, Parameters
from stt.transcript.schema import Segment, Turn

BEAT_SECONDS = 2.0  # from one `AliveEvent` to the next


class Resume(TypedDict, total=False):
    """What earlier attempts have saved; by default nothing."""

    spans: int  # how many are saved: the number of the first span to recognise
    end: float  # where the last one ends
    segments: int  # how many the saved spans have together
    language: str | None  # as detected; None if it is not known
    complete: bool  # whether the saved spans reach the end of the recording
    unsure: list[bool]  # of the last two spans with speech: whether most windows had low confidence


class TranscribeRequest(TypedDict):
    """Transcribe one recording."""

    type: Literal["transcribe"]
    path: str  # of the recording, on this machine
    model: str  # a folder, a Whisper size, or a Hugging Face repository
    language: NotRequired[str]  # a code such as "en"; empty or absent: detect it
    task: NotRequired[str]  # "transcribe", or "translate" into English
    options: NotRequired[dict[str, Any]]  # the further options of the job (`stt.jobs.options`)
    less_memory: NotRequired[bool]  # whether an earlier attempt ran out of memory
    resume: NotRequired[Resume]
    log: NotRequired[dict[str, Any]]  # keys of every line of the log about it


class StageEvent(TypedDict):
    """How far the job is."""

    type: Literal["stage"]
    stage: str  # one of `stt.codes.Stage`
    progress: float  # 0 to 1; never less than before
    duration: float | None  # seconds of the recording; may be an estimate; None if unknown
    left: float | None  # seconds until the engine is done; None if unknown


class LanguageEvent(TypedDict):
    """The language was detected."""

    type: Literal["language"]
    language: str
    probability: float  # 0 to 1


class SpanEvent(TypedDict):
    """A span is finished; its segments are final, except for speakers."""

    type: Literal["span"]
    number: int
    start: float
    end: float
    segments: list[Segment]
    last: bool  # the recording ends with it
    peaks: str  # base64 of one byte for each tenth of a second
    unsure: bool | None  # most windows had low confidence; None if nobody speaks


class SpeakersEvent(TypedDict):
    """Who speaks when, for the whole recording."""

    type: Literal["speakers"]
    turns: list[Turn]


class WarningEvent(JobWarning):
    """Something is not as it should be; the job goes on."""

    type: Literal["warning"]


class ModelEvent(TypedDict):
    """The model of the request was loaded."""

    type: Literal["model"]
    seconds: float  # that it took


class DoneEvent(TypedDict):
    """The request is done."""

    type: Literal["done"]
    language: str | None  # None if nobody speaks
    duration: float
    # Seconds that the request waited for each of `stt.codes.Stage`; side by side, for the last of them.
    seconds: NotRequired[dict[str, float]]


class ErrorEvent(TypedDict):
    """The request failed."""

    type: Literal["error"]
    kind: Literal["permanent", "transient"]  # whether another attempt would fail too, or may succeed
    code: str  # one of `stt.codes.ErrorCode`
    message: str  # the English sentence
    parameters: Parameters
    less_memory: NotRequired[bool]  # another attempt should use less memory


class AliveEvent(TypedDict):
    """The process of the engine is alive; it says nothing about the progress of the request."""

    type: Literal["alive"]


Event = (
    StageEvent | LanguageEvent | SpanEvent | SpeakersEvent
    | WarningEvent | ModelEvent | DoneEvent | ErrorEvent | AliveEvent
)  # fmt: skip
