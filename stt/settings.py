"""The only reader of the environment: a frozen, validated `Settings`.

Every field is an environment variable with the prefix ``STT_``. A ``.env`` file is read too, and any
setting may be given as ``STT_NAME_FILE`` holding a path, as container secrets are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stt.models import WHISPER_SIZES
from stt.paths import DataFolder

PREFIX = "STT_"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SettingsError(Exception):
    """A setting has a bad value; the text is one line that names it."""


class Settings(BaseModel):
    """The operator's settings. Sizes are in bytes, times in seconds.

    It has many lines, as each setting is a field with its description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address the web app listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the web app listens on.")
    data_dir: Path = Field(
        Path("data"), description="Uploads, results, the embedded servers' files, the model cache."
    )
    database_url: str = Field("", description="`postgresql://…`; empty: embedded PostgreSQL.", repr=False)
    redis_url: str = Field("", description="`redis://…` or `unix://…`; empty: embedded Valkey.", repr=False)
    storage_url: str = Field("", description="`file:///…`; empty: the data folder.", repr=False)
    model: str = Field(
        "base",
        min_length=1,
        description="Default model: a Whisper size, a Hugging Face repo id, or a folder with a "
        "CTranslate2 model.",
    )
    models: tuple[str, ...] = Field(
        WHISPER_SIZES,
        description="Which models a request may name, separated by commas. The default model may "
        "always be named.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="What the engine runs on: `cpu`, `cuda`; `auto`: a GPU where there is one."
    )
    compute_type: Literal[
        "auto", "int8", "int8_float16", "int8_float32", "int8_bfloat16", "int16", "float16",
        "bfloat16", "float32",
    ] = Field(
        "auto",
        description="CTranslate2 compute type of the weights: `int8`, `int8_float16`, `int8_float32`, "
        "`int8_bfloat16`, `int16`, `float16`, `bfloat16`, `float32`; `auto`: `int8` on a CPU, on a GPU "
        "`float16`, or `int8_float16` where less than 8 GiB of it are free.",
    )  # fmt: skip
    workers: int | Literal["auto"] = Field(
        "auto", description="Transcription worker processes; `auto`: one for each GPU, else one."
    )
    threads: int | Literal["auto"] = Field(
        "auto", description="CPU threads of each worker; `auto`: the cores, shared among workers."
    )
    replicas: int | Literal["auto"] = Field(
        "auto",
        description="Copies of the model that work side by side, the threads shared among them; a short "
        "recording has one with all of them.",
    )
    batch_size: int | Literal["auto"] = Field(
        "auto",
        description="Windows that each copy recognises at once; `auto`: what fits into the free memory of "
        "the GPU or the machine.",
    )
    beam_size: int = Field(
        1,
        ge=1,
        le=20,
        description="Beam of the decoder. If it is less than 5, a window whose text looks wrong or has low "
        "confidence is decoded again with 5; at once with 5 if most of the earlier minutes had low "
        "confidence.",
    )
    model_memory: int | Literal["auto"] = Field(
        "auto",
        description="Bytes that loaded models may take together; `auto`: half of what is free on the GPU or "
        "the machine.",
    )
    max_upload_bytes: int = Field(20 * 2**30, gt=0, description="A larger upload gets 413.")
    max_duration_seconds: float = Field(
        86400,
        ge=0,
        description="A longer recording is refused, or its job fails when the length is known; "
        "`0`: no limit.",
    )
    head_seconds: float = Field(
        20,
        ge=0,
        description="How long the first line and the headers of a request may take to arrive; `0`: no limit.",
    )
    stall_seconds: float = Field(
        60,
        gt=0,
        description="Over this time `STT_LEAST_BYTES_PER_SECOND` is measured: so long may a client pause in "
        "the middle of a body or of an answer.",
    )
    least_bytes_per_second: float = Field(
        500,
        ge=0,
        description="The connection of a client that sends a body, or reads an answer, more slowly is ended; "
        "`0`: no limit.",
    )
    shutdown_seconds: float = Field(
        25,
        ge=0,
        description="How long the web app, once told to end, lets running uploads and downloads go on; "
        "`stt up` waits 5 seconds at most.",
    )
    lease_seconds: float = Field(
        30, ge=2, description="How long a silent worker keeps its job before another may take it."
    )
    max_attempts: int = Field(3, ge=1, description="Tries before a job is failed.")
    span_seconds: float = Field(300, ge=10, description="Length of a span, about; the first is shorter.")
    vad: Literal["silero", "pyannote"] = Field(
        "silero",
        description="Voice activity detection; `pyannote` is WhisperX's default and takes far longer.",
    )
    align: Literal["auto", "wav2vec2", "attention", "off"] = Field(
        "auto",
        description="Where word times come from: `attention` of the recogniser, `wav2vec2` (a model of its "
        "own for each language), `off`: words get none; `auto`: `wav2vec2` on a GPU, else `attention`.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        LOOPBACK,
        description="`Host` values that are answered, without port, separated by commas; `*` for any.",
    )
    allow_open: bool = Field(False, description="Lets the app listen beyond loopback while `STT_AUTH=off`.")
    auth: Literal["off"] = Field("off", description="Who may use the service. Only `off` for now.")
    model_idle_seconds: float = Field(
        600, ge=0, description="An engine idle for so long is ended, with all of its memory."
    )
    hf_token: str = Field("", description="Token for models on the Hugging Face hub.", repr=False)
    server: str = Field(
        "",
        description="`http://…` of the service that `stt transcribe` uses; empty: the running `stt up` "
        "of the data folder, else one started for the run.",
        repr=False,
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="What is logged, to standard error: `DEBUG`, `INFO`, `WARNING`, `ERROR`."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="`console`: lines for people; `json`: one JSON object a line."
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of Prometheus' `/metrics`, and of the health of the role; empty: no metrics. "
        "Under `stt up` this is the port of the web app, the next one that of maintenance, then one for "
        "each worker.",
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address that `STT_METRICS_PORT` is on.")
    health_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="While `STT_METRICS_PORT` is empty: port of the health of each role, on loopback, "
        "counted as there; `0`: any free port.",
    )
    sentry_dsn: str = Field(
        "", description="`https://…` of the Sentry that gets errors; empty: none does.", repr=False
    )

    @field_validator("models", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("workers", "threads", "replicas", "batch_size", "model_memory", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if value == "auto":
            return value
        try:
            count = int(value)
        except (TypeError, ValueError):
            count = 0
        if count < 1:
            raise ValueError("must be 'auto' or a number from 1")
        return count

    @field_validator("metrics_port", mode="before")
    @classmethod
    def _no_port(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Children have working folders of their own: a relative path would name another folder there.
        return value.expanduser().absolute()

    @field_validator("database_url", "redis_url", "storage_url", "server", "sentry_dsn")
    @classmethod
    def _scheme(cls, value: str, info: Any) -> str:
        schemes = {
            "database_url": ("postgresql://", "postgres://"),
            "redis_url": ("redis://", "rediss://", "unix://"),
            "storage_url": ("file:///",),
            "server": ("http://", "https://"),
            "sentry_dsn": ("http://", "https://"),
        }[info.field_name]
        if value and not value.startswith(schemes):
            raise ValueError(f"must be empty or start with {' or '.join(schemes)}")
        return value

    @field_validator("sentry_dsn")
    @classmethod
    def _key_and_project(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and not (parts.username and parts.hostname and parts.path.rpartition("/")[2].isdecimal()):
            raise ValueError("must be https://KEY@HOST/PROJECT, as Sentry shows it for a project")
        return value

    @model_validator(mode="after")
    def _refuse_open_house(self) -> Self:
        if self.host not in LOOPBACK and self.auth == "off" and not self.allow_open:
            raise ValueError(
                "STT_HOST: anyone who reaches this address could read every recording while "
                "STT_AUTH=off; keep 127.0.0.1, or set STT_ALLOW_OPEN=1 if that is what you want"
            )
        return self

    @cached_property
    def data_folder(self) -> DataFolder:
        """Where things lie in `data_dir`."""
        return DataFolder(self.data_dir)

    @cached_property
    def storage_dir(self) -> Path:
        """The folder that storage keys are relative to."""
        return Path(self.storage_url.removeprefix("file://")) if self.storage_url else self.data_dir

    @property
    def allowed_models(self) -> tuple[str, ...]:
        """What a request may name as `model`, the default first."""
        return (self.model, *(name for name in self.models if name != self.model))


def load(environ: Mapping[str, str] | None = None, dotenv: Path = Path(".env")) -> Settings:
    """Read the settings from the environment, which takes precedence over ``.env``.

    Raises:
        SettingsError: A value is bad; the text is one line that names the setting.
    """
    environ = os.environ if environ is None else environ
    given = {**_dotenv(dotenv), **environ}
    values = {name: given[key] for name in Settings.model_fields if (key := _key(name)) in given}
    for name in Settings.model_fields:
        # Compose files give an empty value to what is not set: it does not hide the file.
        if (path := given.get(_key(name) + "_FILE")) and not values.get(name):
            values[name] = _secret(_key(name) + "_FILE", path)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def _key(name: str) -> str:
    return PREFIX + name.upper()


def _dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {key: value for key, value in dotenv_values(path).items() if value is not None}


def _secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{variable}: cannot read {path}: {error.strerror}") from None


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    # A field that `repr` leaves out may hold a password or a token.
    got = f" (got {first['input']!r})" if Settings.model_fields[name].repr else ""
    return f"{_key(name)}: {message}{got}"
