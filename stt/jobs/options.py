"""The options of a job: the option fields of an upload, checked."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from stt import texts
from stt.jobs.errors import OptionError
from stt.settings import Settings
from stt.transcript.languages import LANGUAGES

# Kept in columns of their own; the rest is the job's `options`.
COLUMNS = {"model", "language", "task", "priority"}
# Options on which spans do not depend: diarization runs after the last span.
SPEAKERS = {"diarize", "min_speakers", "max_speakers"}
# An error message shows at most this many characters of the name of an unknown model.
_SHOWN_CHARACTERS = 100


class JobOptions(BaseModel):
    """The option fields of an upload, as interface.md names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    priority: Literal["low", "normal", "high"] = "normal"
    word_timestamps: bool = True
    initial_prompt: str | None = Field(None, max_length=2000)
    hotwords: str | None = Field(None, max_length=2000)
    suppress_numerals: bool = False
    multilingual: bool = False
    diarize: bool = False
    min_speakers: int | None = Field(None, ge=1, le=20)
    max_speakers: int | None = Field(None, ge=1, le=20)

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        if value is None:
            return None
        code = value.strip().lower()
        if code not in LANGUAGES:
            raise ValueError(
                "must be an ISO 639-1 code that Whisper knows, such as en, or empty to detect it"
            )
        return code

    @field_validator("min_speakers", "max_speakers")
    @classmethod
    def _of_speakers(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("diarize"):
            raise ValueError("needs diarize=true")
        fewest = info.data.get("min_speakers")
        if info.field_name == "max_speakers" and value is not None and fewest is not None and value < fewest:
            raise ValueError(f"must not be less than min_speakers, which is {fewest}")
        return value

    @model_validator(mode="after")
    def _english_model(self) -> JobOptions:
        if self.model.endswith(".en"):
            if self.task == "translate":
                raise ValueError(f"model {self.model} only transcribes English; take {self.model[:-3]}")
            if self.language not in (None, "en"):
                raise ValueError(
                    f"model {self.model} only knows English; take {self.model[:-3]}, or language en"
                )
        return self

    @property
    def extras(self) -> dict[str, Any]:
        """The options without a column of their own: the job's `options`."""
        return self.model_dump(exclude=COLUMNS, exclude_defaults=True, exclude_none=True)

    @property
    def hash(self) -> str:
        """Identifies the options of recognition: spans made for other options are not reused."""
        relevant = self.model_dump(exclude={"priority", *SPEAKERS})
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def parse(fields: dict[str, Any], settings: Settings) -> JobOptions:
    """Check option fields; an empty value means the default.

    Raises:
        OptionError: names the first unknown field or bad value.
    """
    given = {name: value for name, value in fields.items() if value not in ("", None)}
    _check_texts(given)
    given.setdefault("model", settings.model)
    _check_model(given["model"], settings)
    try:
        return JobOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(JobOptions.model_fields))
            raise OptionError(str(first["loc"][0]), f"is not an option; known are {known}") from None
        field = str(first["loc"][0]) if first["loc"] else "options"
        raise OptionError(field, first["msg"].removeprefix("Value error, ")) from None


def _check_texts(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if flaw := texts.flaw(name):
            raise OptionError(texts.displayable(name), f"the name of the option {flaw}")
        if isinstance(value, str) and (flaw := texts.flaw(value)):
            raise OptionError(name, flaw)


def _check_model(value: Any, settings: Settings) -> None:
    if not isinstance(value, str):
        raise OptionError("model", "must be text, the name of a model")
    if value not in settings.allowed_models:
        shown = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
        raise OptionError("model", f"{shown!r} is not one of {', '.join(settings.allowed_models)}")


def of_job(job: Any) -> dict[str, Any]:
    """The option fields that a job was made with, as `parse` takes them."""
    return {
        "model": job.model,
        "task": job.task,
        "language": job.requested_language,
        "priority": job.priority,
        **job.options,
    }
