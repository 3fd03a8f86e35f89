"""The messages between a worker and its engine: one JSON object a line, over a socket. No torch in here.

The worker sends a `TranscribeRequest`. The engine answers with events in this order:

1. `StageEvent` several times a second at most, until the last event. `WarningEvent` at any time.
2. `LanguageEvent` when the language has been detected; none if the request names the language.
3. `SpanEvent` for each span, by number; the first number is `resume.spans` of the request.
4. `SpeakersEvent` once, if the request's options ask for speakers and somebody speaks.
5. `DoneEvent`, or at any time instead `ErrorEvent`. Nothing follows it.

Between these, `AliveEvent` comes every two seconds: without it the engine hangs. Only one request
is served at a time. All times are seconds from the beginning of the recording.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from stt.codes import JobWarning, Parameters
from stt.transcript.schema import Segment, Turn

BEAT_SECONDS = 2.0  # between two `AliveEvent`


class Resume(TypedDict, total=False):
    """What earlier attempts have saved; by default nothing."""

    spans: int  # how many; recognition goes on with this number
    end: float  # where the last one ends
    segments: int  # of all saved spans together
    language: str | None  # as detected; None if it is not known
    complete: bool  # the saved spans reach the end of the recording
    unsure: list[bool]  # of the last two spans with speech: whether most windows had low confidence


class TranscribeRequest(TypedDict):
    """Transcribe one recording."""

    type: Literal["transcribe"]
    job: str  # for the log
    path: str
    model: str
    language: NotRequired[str]  # a code such as "en"; empty or absent: detect it
    task: NotRequired[str]  # "transcribe", or "translate" into English
    options: NotRequired[dict[str, Any]]  # the further options of the job (`stt.jobs.options`)
    less_memory: NotRequired[bool]  # an earlier attempt ran out of memory
    resume: NotRequired[Resume]


class StageEvent(TypedDict):
    """How far the job is."""

    type: Literal["stage"]
    stage: str  # one of `stt.codes.Stage`
    progress: float  # 0 to 1; never less than before
    duration: float | None  # of the recording, as far as it is known
    left: float | None  # seconds until the engine is done; None if unknown


class LanguageEvent(TypedDict):
    """The language was detected."""

    type: Literal["language"]
    language: str
    probability: float


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


class DoneEvent(TypedDict):
    """The request is done."""

    type: Literal["done"]
    language: str | None  # None if nobody speaks
    duration: float


class ErrorEvent(TypedDict):
    """The request failed."""

    type: Literal["error"]
    kind: Literal["permanent", "transient"]  # whether another attempt would fail too, or may succeed
    code: str  # one of `stt.codes.ErrorCode`
    message: str  # the English sentence
    parameters: Parameters
    less_memory: NotRequired[bool]  # another attempt should use less memory


class AliveEvent(TypedDict):
    """The engine works."""

    type: Literal["alive"]


Event = (
    StageEvent | LanguageEvent | SpanEvent | SpeakersEvent
    | WarningEvent | DoneEvent | ErrorEvent | AliveEvent
)  # fmt: skip
