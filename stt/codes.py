"""The stages of a job, and the codes of its errors and warnings, each with its sentence for a person.

This module imports nothing of the program: the engine, the jobs and the pages use it alike. A row keeps the
code, the parameters and the English sentence. A translation can be made from the code and the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from string import Formatter
from typing import Any, NotRequired, TypedDict


class Stage(StrEnum):
    """What is done for a job at the moment. The values are part of the API."""

    DECODE = "decode"
    TRANSCRIBE = "transcribe"
    ALIGN = "align"
    SPEAKERS = "speakers"
    FINISH = "finish"


class ErrorCode(StrEnum):
    """Why an attempt failed. The values are part of the API."""

    # The recording cannot be transcribed.
    NOT_MEDIA = "not_media"
    NO_AUDIO_TRACK = "no_audio_track"
    EMPTY_AUDIO = "empty_audio"
    ENCRYPTED = "encrypted"
    UNSUPPORTED_CODEC = "unsupported_codec"
    TOO_LONG = "too_long"
    TOO_MUCH_MEMORY = "too_much_memory"
    TOO_SLOW = "too_slow"
    UNSUPPORTED_LANGUAGE = "unsupported_language"
    FILE_GONE = "file_gone"
    # Another attempt may succeed.
    MODEL_UNAVAILABLE = "model_unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    DECODER_DIED = "decoder_died"
    ENGINE_FAILED = "engine_failed"
    ENGINE_DIED = "engine_died"
    ENGINE_HUNG = "engine_hung"
    STORAGE_UNREACHABLE = "storage_unreachable"
    STORAGE_FAILED = "storage_failed"
    SPANS_MISSING = "spans_missing"
    WORKER_LOST = "worker_lost"
    INTERNAL = "internal"


class WarningCode(StrEnum):
    """What is not as it should be with a transcript. The values are part of the API."""

    DAMAGED_AUDIO = "damaged_audio"
    BREAKS_OFF = "breaks_off"
    TRACKS_LEFT_OUT = "tracks_left_out"
    TRACKS_UNREADABLE = "tracks_unreadable"
    UNCOVERED_SPEECH = "uncovered_speech"
    OTHER_LANGUAGE = "other_language"
    LESS_MEMORY = "less_memory"
    SMALLER_COMPUTE_TYPE = "smaller_compute_type"
    NO_ALIGNMENT_MODEL = "no_alignment_model"
    ALIGNMENT_FAILED = "alignment_failed"
    SPEAKERS_FAILED = "speakers_failed"
    SPEAKERS_BY_SENKO = "speakers_by_senko"
    FEWER_SPEAKERS = "fewer_speakers"
    RENDERING_FAILED = "rendering_failed"


Code = ErrorCode | WarningCode
# What a sentence is filled with: JSON values by name. `reason` chooses among the sentences of one code.
Parameters = dict[str, Any]


class JobWarning(TypedDict):
    """A warning as the row of a job keeps it."""

    code: str  # one of `WarningCode`
    message: str  # the English sentence
    parameters: NotRequired[Parameters]  # of the sentence, if it has any; not part of the API
    # Of a warning about passages of the recording: start and end of each in seconds. `language` is what is
    # spoken there, `instead` the language of the text.
    times: NotRequired[list[list[float]]]
    language: NotRequired[str]
    instead: NotRequired[str]


_CONVERT = "Please convert it to MP3, M4A, FLAC or WAV and send it again."
_EXPORT = "Please export it again as MP3, M4A, FLAC or WAV."
_RAW_SOUND = (
    "This seems to be raw telephone sound (.{ending}) without a header, so nothing in the file says how to "
    "read it. Please convert it to WAV, for example with:"
)
_DECODER_ENDED = "Reading the recording failed: the process that decodes it ended with"
_NOT_DOWNLOADED = "The model {model} ({repository}) could not be downloaded."

# A code has one sentence, or one for each `reason`; "" is that of no reason.
ERRORS: dict[ErrorCode, str | dict[str, str]] = {
    ErrorCode.NOT_MEDIA: {
        "": "This is not an audio or video file, or it is damaged beyond reading. "
        "Please check that it plays on your computer and send it again.",
        "no_index": "This is an MP4 file (or MOV, M4A, 3GP) without its index: recording or copying broke "
        "off before the index was written or copied, and without the index the sound cannot be found. Please "
        "copy the file again from the device that recorded it. If the index is missing there too, a repair "
        "tool such as untrunc can make a new one, with the help of another recording of the same device.",
        "fragment": "This is a piece of an MP4 stream without the stream's beginning, which is needed to "
        "read it. Please send the whole recording: the initialization segment and all pieces after it in one "
        "file.",
        "raw": f"{_RAW_SOUND} {{command}}, and send the WAV file.",
        "raw_guessed": f"{_RAW_SOUND} {{command}} (if it was recorded in another way, give that instead), "
        "and send the WAV file.",
        "probe_slow": "Looking into the file took too long.",
        "probe_failed": "Looking into the file failed: it is damaged or hostile.",
    },
    ErrorCode.NO_AUDIO_TRACK: "There is no sound in this file. Please export it again with its audio track.",
    ErrorCode.EMPTY_AUDIO: "The file has an audio track, but no sound can be read from it. "
    "Please check that it plays on your computer and send it again.",
    ErrorCode.ENCRYPTED: "The sound in this file is copy-protected (encrypted, DRM), so it cannot be read. "
    "Please send a copy without copy protection.",
    ErrorCode.UNSUPPORTED_CODEC: {
        "": f"The sound in this file is in a format that cannot be decoded. {_CONVERT}",
        "codec": f"The sound in this file is in a format that cannot be decoded ({{codec}}). {_CONVERT}",
        "atrac": f"This is a Sony OpenMG file (ATRAC), a format that cannot be decoded. {_CONVERT}",
        "rate": "By its header this file has {rate:,} samples a second, which no recording has: the file is "
        "damaged. Please export it again, with 8,000 to 192,000 samples a second.",
        "channels": "By its header this file has {channels:,} channels; no more than {most} can be read. "
        "Please export it again with fewer channels.",
        "no_format": "The sound in this file does not say how many samples a second or channels it has: the "
        f"file is damaged. {_EXPORT}",
        "blocks": "The sound in this file comes in blocks of {samples:,} samples, which is more than can be "
        f"read: the file is damaged. {_EXPORT}",
        "mixing": "The channels of sound in this file cannot be mixed into one. "
        "Please export it again as mono or stereo.",
        "mixing_channels": "The {channels} channels of sound in this file cannot be mixed into one. "
        "Please export it again as mono or stereo.",
    },
    ErrorCode.TOO_LONG: {
        "": "The recording is longer than this server takes: at most {longest:duration} are taken "
        "(STT_MAX_DURATION_SECONDS). Please send it in parts.",
        "length": "The recording is {seconds:duration} long; at most {longest:duration} are taken "
        "(STT_MAX_DURATION_SECONDS). Please send it in parts.",
    },
    ErrorCode.TOO_MUCH_MEMORY: "Reading the sound of this file takes far more memory than that of a "
    f"recording: it is damaged. {_CONVERT}",
    ErrorCode.TOO_SLOW: "Reading the sound of this file takes longer than playing it: it is damaged. "
    f"{_CONVERT}",
    ErrorCode.UNSUPPORTED_LANGUAGE: "This model does not know the language {language!r}. Please choose "
    "another model or language, or leave the language empty to detect it.",
    ErrorCode.FILE_GONE: "The recording is no longer in the storage: somebody removed it, or a disk lost it.",
    ErrorCode.MODEL_UNAVAILABLE: {
        "no_model_file": "The folder {folder} holds no {file}, or is not there. A model must be in "
        "CTranslate2's format: convert it with ct2-transformers-converter, or name a size such as base.",
        "not_written": "The model {model} could not be written to {folder}: {error}. "
        "Please free some disk space or check the permissions of the data folder (STT_DATA_DIR).",
        "disk_full": "The model {model} needs {total:.0f} MB in {folder} ({size:.0f} MB, and {spare:.0f} MB "
        "that stay free), where only {free:.0f} MB are free. Please free some disk space, or move "
        "STT_DATA_DIR to a larger disk.",
        "damaged": "The packages of the model {model} are damaged (sha256 {found}…, expected {expected}…). "
        "Please install them again: make setup.",
        "unknown": "There is no model {model}. Please name a Whisper size ({sizes:list}), a Hugging "
        "Face repository, or a folder with a CTranslate2 model.",
        "bad_name": "{model} is not the name of a model: {error}",
        "no_connection": f"{_NOT_DOWNLOADED} Please check this machine's connection to huggingface.co, or "
        "download the model elsewhere and set STT_MODEL to its folder.",
        "no_access": f"{_NOT_DOWNLOADED} It does not exist, or it needs a token: set STT_HF_TOKEN to one "
        "that may read it, and accept its conditions on the hub.",
        "not_stored": f"{_NOT_DOWNLOADED} {{error}}. Please free some disk space or check the data folder "
        "(STT_DATA_DIR).",
    },
    ErrorCode.OUT_OF_MEMORY: "The machine has too little memory for this model. Please choose a smaller one, "
    "or set STT_COMPUTE_TYPE=int8.",
    ErrorCode.DECODER_DIED: {
        "killed": "Reading the recording failed: the process that decodes it was killed, perhaps because the "
        "machine ran out of memory.",
        "exited": f"{_DECODER_ENDED} exit code {{number}}.",
        "signal": f"{_DECODER_ENDED} {{signal}}.",
    },
    ErrorCode.ENGINE_FAILED: "The engine failed. Its log says why.",
    ErrorCode.ENGINE_DIED: {
        "not_started": "The engine could not be started: {error}.",
        "stopped": "The engine was stopped.",
        "unknown": "The engine stopped answering.",
        "exited": "The engine ended with exit code {number}.",
        "killed": "The engine was killed, perhaps because the machine ran out of memory.",
        "signal": "The engine was ended by {signal}.",
    },
    ErrorCode.ENGINE_HUNG: "The engine got no further for {seconds:.0f} s and was stopped.",
    ErrorCode.STORAGE_UNREACHABLE: "The recording cannot be read: {error}.",
    ErrorCode.STORAGE_FAILED: "The storage failed: {error}.",
    ErrorCode.SPANS_MISSING: "Parts of the transcript are missing from the database.",
    ErrorCode.WORKER_LOST: {
        "": "The worker that had this recording stopped answering; another one goes on.",
        "given_up": "The worker stopped answering in each of {attempts} attempts, so this recording was "
        "given up. It is kept: retry it, perhaps with a smaller model.",
    },
    ErrorCode.INTERNAL: "The worker failed: {error}",
}
# Follows the sentence of an error when no attempt is left.
GIVEN_UP = " Given up after {attempts} attempts; the recording is kept."

WARNINGS: dict[WarningCode, str | dict[str, str]] = {
    WarningCode.DAMAGED_AUDIO: "{parts} damaged part(s) of the recording could not be read and are left out.",
    WarningCode.BREAKS_OFF: {
        "missing": "The file promises {seconds:.0f} s of sound more than it holds: perhaps it was copied or "
        "recorded only in part. What there is was transcribed.",
        "unreadable": "The file cannot be read beyond {seconds:.0f} s: it is damaged there, or was copied or "
        "recorded only in part. What comes before was transcribed.",
    },
    WarningCode.TRACKS_LEFT_OUT: "Left out: {left_out:and}, with speech at the same time as in {kept:and}, "
    "which was transcribed. To have all of it, export what was left out as a file of its own and send "
    "that too.",
    WarningCode.TRACKS_UNREADABLE: "Left out: {tracks:and}, in a format that cannot be decoded. If somebody "
    "speaks there, convert that track to MP3, M4A, FLAC or WAV and send it as a file of its own.",
    WarningCode.UNCOVERED_SPEECH: {
        "one": "Somebody probably speaks {places}, but no words were recognised there. Please listen to this "
        "passage and add what is missing.",
        "several": "Somebody probably speaks {places}, but no words were recognised there. Please listen to "
        "these passages and add what is missing.",
    },
    WarningCode.OTHER_LANGUAGE: "{name} is spoken {places}, where the text is written as {other}: it may be "
    "missing, wrong or translated there. To get it right, send that part by itself with the language {name}.",
    WarningCode.LESS_MEMORY: "The memory did not suffice: another try uses smaller numbers.",
    WarningCode.SMALLER_COMPUTE_TYPE: "For want of memory it was recognised with {used} instead of {wanted}: "
    "a little less exact.",
    WarningCode.NO_ALIGNMENT_MODEL: "Word times come from the recognition itself: no alignment model for "
    "{language} could be loaded.",
    WarningCode.ALIGNMENT_FAILED: "Some words were timed by the recognition itself, as aligning them failed; "
    "the log says why.",
    WarningCode.SPEAKERS_FAILED: "Speakers could not be told apart; the text is complete without them.",
    WarningCode.SPEAKERS_BY_SENKO: "Speakers were told apart by senko, as pyannote's model could not be "
    "used: the log says why.",
    WarningCode.FEWER_SPEAKERS: "Only {found} of at least {wanted} speakers could be told apart.",
    WarningCode.RENDERING_FAILED: "The result could not be brought into its form; its text is whole.",
}
_SENTENCES: dict[Code, str | dict[str, str]] = dict([*ERRORS.items(), *WARNINGS.items()])

# Warnings that describe the speakers of one attempt: the next attempt determines speakers anew.
ABOUT_SPEAKERS = (WarningCode.SPEAKERS_FAILED, WarningCode.SPEAKERS_BY_SENKO, WarningCode.FEWER_SPEAKERS)


def message(code: Code, /, **parameters: Any) -> str:
    """The English sentence of a code.

    Args:
        code: An error or a warning.
        parameters: The fields of the sentence by name, and `reason` where the code has several sentences.

    Raises:
        KeyError: The sentence has another field, or the code no such reason.
    """
    sentence = _SENTENCES[code]
    if isinstance(sentence, dict):
        sentence = sentence[parameters.get("reason", "")]
    return _formatter.vformat(sentence, (), parameters)


def warning(code: WarningCode, /, **parameters: Any) -> JobWarning:
    """A warning with the sentence of its code; parameters as in `message`."""
    made: JobWarning = {"code": code, "message": message(code, **parameters)}
    if parameters:
        made["parameters"] = parameters
    return made


def given_up(sentence: str, attempts: int) -> str:
    """The sentence of an error after which no attempt is left."""
    return sentence + GIVEN_UP.format(attempts=attempts)


class CodedError(Exception):
    """An error with a code of the job; its text is the sentence for a person."""

    def __init__(self, code: ErrorCode, /, **parameters: Any) -> None:
        super().__init__(message(code, **parameters))
        self.code, self.parameters = code, parameters


class _Formatter(Formatter):
    """Adds to the format specifications `duration` (of seconds), `and` and `list` (of texts)."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "duration":
            return _duration(value)
        if format_spec == "and":
            return _joined(value)
        if format_spec == "list":
            return ", ".join(value)
        return str(super().format_field(value, format_spec))


_formatter = _Formatter()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes = round(seconds / 60)
    parts = [f"{minutes // 60} h" if minutes >= 60 else "", f"{minutes % 60} min" if minutes % 60 else ""]
    return " ".join(part for part in parts if part)


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if names[1:] else "") + names[-1]
