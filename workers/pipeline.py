"""Inside the engine's process, and the only importer of torch and WhisperX: recording in, segments out.

``python -m workers.pipeline FD`` reads requests from the socket FD and writes events to it, one JSON object
a line. The parent kills it whenever it likes, so nothing here has to be undone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ctranslate2
import huggingface_hub
import numpy as np
import torch
import whisperx.alignment
import whisperx.asr
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import merge_punctuations
from setproctitle import setproctitle
from whisperx.asr import FasterWhisperPipeline, WhisperModel, find_numeral_symbol_tokens
from whisperx.diarize import Segment as SegmentX
from whisperx.vads import Vad

from stt import logs, settings
from stt.media import MediaError
from stt.settings import Settings
from workers import models, spans, vad, words
from workers.audio import RATE, Recording, Samples
from workers.meter import Meter
from workers.models import ModelUnavailable
from workers.speakers import Speakers, SpeakersFailed

log = logging.getLogger("workers.pipeline")  # it runs as __main__

WINDOW_SECONDS = 30  # what Whisper hears at once
BATCH = {"cpu": 8, "cuda": 16}
BEAM = 5
# What a try that follows one without enough memory computes with, where it may be less exact.
SMALLER = {
    "float32": "int8", "float16": "int8_float16", "bfloat16": "int8_bfloat16", "int16": "int8",
    "default": "int8",
}  # fmt: skip
# Whisper's own rule for "nobody speaks here": both must hold.
NO_SPEECH = 0.6
LOGPROB_FLOOR = -1.0
# Whisper's prompt may fill half of its context; a longer one would be refused.
PROMPT_TOKENS = 220
BEAT_SECONDS = 2.0
HUB_SECONDS = 5.0  # for an answer of the model hub

Event = dict[str, Any]
Send = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Window:
    """What is recognised at once: a stretch of at most 30 s of a span, in seconds from the span's start."""

    start: float
    end: float
    speech: list[vad.Speech]

    def cut(self, samples: Samples) -> Samples:
        """The window's own samples."""
        return samples[int(self.start * RATE) : int(self.end * RATE)]


@dataclass(slots=True)
class Heard:
    """What was recognised in a window; `timed` is None where words were not timed."""

    window: Window
    text: str
    logprob: float
    timed: list[words.Word] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says about recognition."""

    language: str | None
    task: str
    prompt: str | None
    hotwords: str | None
    suppress_numerals: bool
    multilingual: bool
    timed: bool
    with_words: bool


class SileroVad(Vad):  # type: ignore[misc]
    """WhisperX's interface to voice activity, with the Silero model that needs no download."""

    def __init__(self) -> None:
        super().__init__(vad.Params().onset)

    def __call__(self, audio: dict[str, Any], **_: Any) -> list[SegmentX]:
        samples = np.asarray(audio["waveform"], np.float32)
        return self.segments(vad.speech(vad.probabilities(samples), len(samples) / RATE))

    @staticmethod
    def segments(speech: Sequence[vad.Speech]) -> list[SegmentX]:
        """Speech in WhisperX's type."""
        return [SegmentX(part.start, part.end, "UNKNOWN") for part in speech]

    @staticmethod
    def preprocess_audio(audio: Samples) -> Samples:
        """Samples are taken as they are."""
        return audio

    @staticmethod
    def merge_chunks(
        segments: list[SegmentX], chunk_size: float, onset: float = 0.5, offset: float | None = None
    ) -> list[dict[str, Any]]:
        """WhisperX's packing of speech into windows; none for none."""
        chunks: list[dict[str, Any]] = (
            Vad.merge_chunks(segments, chunk_size, onset, offset) if segments else []
        )
        return chunks

    def windows(self, speech: Sequence[vad.Speech]) -> list[Window]:
        """Windows over the speech of a span."""
        chunks = self.merge_chunks(self.segments(speech), WINDOW_SECONDS)
        return [
            Window(chunk["start"], chunk["end"], [vad.Speech(*part) for part in chunk["segments"]])
            for chunk in chunks
        ]


class Recogniser(FasterWhisperPipeline):  # type: ignore[misc]
    """WhisperX's pipeline, window by window: it keeps the encoder's output, for language and word times."""

    @classmethod
    def load(cls, folder: Path, device: str, compute_type: str, threads: int) -> Recogniser:
        """Load a model's folder through WhisperX."""
        model = WhisperModel(str(folder), device=device, compute_type=compute_type, cpu_threads=threads)
        made = whisperx.asr.load_model(
            str(folder), device, compute_type=compute_type, model=model, vad_model=SileroVad(),
            asr_options={"beam_size": BEAM},
        )  # fmt: skip
        return cls(model, made.vad_model, made._vad_params, made.options, device=device)

    @property
    def multilingual(self) -> bool:
        """Whether the model knows more than English."""
        return bool(self.model.model.is_multilingual)

    def encode(self, samples: Samples, windows: Sequence[Window]) -> ctranslate2.StorageView:
        """The encoder's output for some windows."""
        mels = [self.preprocess({"inputs": window.cut(samples)})["inputs"] for window in windows]
        return self.model.encode(torch.stack(mels))

    def languages(self, encoded: ctranslate2.StorageView) -> list[dict[str, float]]:
        """For each window, the probability of each language."""
        return [
            {token[2:-2]: probability for token, probability in window}
            for window in self.model.model.detect_language(encoded)
        ]

    def recognise(
        self,
        encoded: ctranslate2.StorageView,
        windows: Sequence[Window],
        asked: Asked,
        tokenizer: Tokenizer,
        *,
        timed: bool,
    ) -> list[Heard]:
        """Text of each window that was encoded, with the times of its words if `timed`."""
        results = self.model.model.generate(
            encoded,
            [self._prompt(asked, tokenizer)] * len(windows),
            beam_size=self.options.beam_size,
            patience=self.options.patience,
            length_penalty=self.options.length_penalty,
            max_length=self.model.max_length,
            suppress_blank=self.options.suppress_blank,
            suppress_tokens=self._suppressed(asked),
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = [self._kept(result, tokenizer) for result in results]
        heard = [
            Heard(window, tokenizer.decode(said), self._logprob(result))
            for window, said, result in zip(windows, tokens, results, strict=True)
        ]
        if timed and any(tokens):
            self._time(encoded, tokens, heard, tokenizer)
        return heard

    def tokenizer_for(self, language: str, task: str) -> Tokenizer:
        """A tokenizer that prompts for this language and task.

        Raises:
            UnsupportedLanguage: the model has no token for it.
        """
        if self.multilingual and self.model.hf_tokenizer.token_to_id(f"<|{language}|>") is None:
            raise UnsupportedLanguage(
                f"This model does not know the language {language!r}. Please choose another model or "
                "language, or leave the language empty to detect it."
            )
        made = Tokenizer(self.model.hf_tokenizer, self.multilingual, task=task, language=language)
        if task == "translate":
            made.language_code = "en"  # what comes out is English, and is split into words as English is
        return made

    def _kept(self, result: Any, tokenizer: Tokenizer) -> list[int]:
        """The text's tokens; none where Whisper's own rule says that nobody speaks."""
        if result.no_speech_prob > NO_SPEECH and self._logprob(result) < LOGPROB_FLOOR:
            return []
        return [token for token in result.sequences_ids[0] if token < tokenizer.eot]

    def _logprob(self, result: Any) -> float:
        length = len(result.sequences_ids[0])
        return float(result.scores[0] * length**self.options.length_penalty / (length + 1))

    def _prompt(self, asked: Asked, tokenizer: Tokenizer) -> list[int]:
        said = [text for text in (asked.hotwords, asked.prompt) if text and text.strip()]
        before = [token for text in said for token in tokenizer.encode(" " + text.strip())]
        prompt: list[int] = self.model.get_prompt(tokenizer, before[-PROMPT_TOKENS:], without_timestamps=True)
        return prompt

    def _suppressed(self, asked: Asked) -> list[int]:
        return [-1, *self._numerals] if asked.suppress_numerals else [-1]

    @cached_property
    def _numerals(self) -> list[int]:
        """Tokens with a digit or a symbol in them."""
        found: list[int] = find_numeral_symbol_tokens(self.tokenizer_for("en", "transcribe"))
        return found

    def _time(
        self,
        encoded: ctranslate2.StorageView,
        tokens: list[list[int]],
        heard: list[Heard],
        tokenizer: Tokenizer,
    ) -> None:
        """Word times by the model's own cross-attention."""
        frames = [int((one.window.end - one.window.start) * 100) for one in heard]
        found = self.model.find_alignment(tokenizer, tokens, encoded, frames)
        for one, alignment in zip(heard, found, strict=True):
            merge_punctuations(alignment, self.options.prepend_punctuations, self.options.append_punctuations)
            timed = [
                words.Word(
                    part["word"], one.window.start + float(part["start"]),
                    one.window.start + float(part["end"]), float(part["probability"]), one.logprob,
                )
                for part in alignment
            ]  # fmt: skip
            # A text that ends in half a character does not come back whole: then the text counts.
            if "".join(word.text for word in timed) == one.text:
                one.timed = words.whole(timed)


class Aligner:
    """WhisperX's wav2vec2 alignment, by language; what could not be loaded is tried again after a while."""

    RETRY_SECONDS = 600.0

    def __init__(self, device: str, folder: Path) -> None:
        self._device, self._folder = device, folder
        self._language = ""
        self._model: tuple[Any, dict[str, Any]] | None = None
        self._failed: dict[str, float] = {}

    def ready(self, language: str) -> bool:
        """Whether words of this language can be aligned; loads the model, and tries it."""
        if self._model is not None and language == self._language:
            return True
        if time.monotonic() - self._failed.get(language, -self.RETRY_SECONDS) < self.RETRY_SECONDS:
            return False
        try:
            self._model = self._load(language)
            self._language = language
            # It needs a sentence splitter too, which is fetched at first use.
            self.align("a", np.zeros(RATE, np.float32), Window(0, 1, [vad.Speech(0, 1)]), 0.0)
        except Exception as error:  # noqa: BLE001  whatever it is, words are timed in another way
            log.warning("no wav2vec2 alignment for %s: %s", language, error)
            self._failed[language] = time.monotonic()
            self._model = None
        return self._model is not None

    def _load(self, language: str) -> tuple[Any, dict[str, Any]]:
        name = whisperx.alignment.DEFAULT_ALIGN_MODELS_HF.get(language)
        if name and not _on_hub(name):
            # transformers would try again and again for minutes.
            return whisperx.alignment.load_align_model(  # type: ignore[no-any-return]
                language, self._device, model_dir=str(self._folder), model_cache_only=True
            )
        return whisperx.alignment.load_align_model(  # type: ignore[no-any-return]
            language, self._device, model_dir=str(self._folder)
        )

    def align(self, text: str, samples: Samples, window: Window, logprob: float) -> list[words.Word] | None:
        """Words with times; None where they do not come out as they went in."""
        assert self._model is not None
        segment = {"start": window.start, "end": window.end, "text": text}
        aligned = whisperx.alignment.align(
            [segment], *self._model, samples, self._device, print_progress=False
        )
        found = [word for part in aligned["segments"] for word in part["words"]]
        pieces = words.spread(text, logprob, window.speech)
        if [piece.text.strip() for piece in pieces] != [word["word"].strip() for word in found]:
            return None
        return [
            replace(piece, start=word["start"], end=word["end"], score=word["score"])
            if "start" in word else piece
            for piece, word in zip(pieces, found, strict=True)
        ]  # fmt: skip


class UnsupportedLanguage(Exception):
    """The model does not know the language that was asked for."""


class Engine:
    """What stays loaded between jobs."""

    def __init__(self, chosen: Settings) -> None:
        self.settings = chosen
        self.device = _device(chosen)
        self.compute_type = _compute_type(chosen, self.device)
        self.threads = chosen.threads if isinstance(chosen.threads, int) else os.cpu_count() or 1
        self.batch = BATCH[self.device]
        self.aligner = Aligner(self.device, chosen.data_dir / "models" / "align")
        self._loaded: tuple[tuple[str, str], Recogniser] | None = None
        torch.set_num_threads(self.threads)

    def compute_type_for(self, *, less_memory: bool) -> str:
        """What to compute with."""
        return SMALLER.get(self.compute_type, self.compute_type) if less_memory else self.compute_type

    def recogniser(self, name: str, *, less_memory: bool = False) -> Recogniser:
        """The model `name`, loaded if it is not the one that is.

        Raises:
            ModelUnavailable: it cannot be had.
        """
        compute_type = self.compute_type_for(less_memory=less_memory)
        if self._loaded is None or self._loaded[0] != (name, compute_type):
            self._loaded = None  # before the next one is loaded: two may not fit
            folder = models.find(name, self.settings)
            begun = time.monotonic()
            made = Recogniser.load(folder, self.device, compute_type, self.threads)
            log.info(
                "model %s loaded in %.1f s (%s, %s)",
                name, time.monotonic() - begun, self.device, compute_type,
            )  # fmt: skip
            self._loaded = (name, compute_type), made
        return self._loaded[1]


class Job:
    """One request, from the file to "done"."""

    def __init__(self, engine: Engine, request: dict[str, Any], send: Send) -> None:
        self._engine, self._send = engine, send
        self._path = Path(request["path"])
        self._model = request["model"]
        self._less_memory = bool(request.get("less_memory"))
        self._asked = _asked(request, engine.settings)
        resume = request.get("resume") or {}
        self._number, self._start = resume.get("spans", 0), round(resume.get("end", 0) * RATE)
        self._spoken = resume.get("segments", 0) > 0
        self._language = self._asked.language or resume.get("language") or None
        self._meter = Meter(self._stage)
        self._speakers = _speakers(request, engine)
        self._warned: set[str] = set()
        self._begun = self._start  # the sample at which the span in work begins

    def run(self) -> None:
        """Do it; every error that has a meaning for a person is raised as what it is."""
        recording = Recording(self._path)
        try:
            self._meter.duration = recording.duration
            if self._speakers:
                self._meter.speakers_cost = self._speakers.cost
                if self._speakers.beside:
                    self._speakers.start()
            self._run(recording)
        finally:
            recording.close()
            if self._speakers:
                self._speakers.close()

    def _run(self, recording: Recording) -> None:
        seconds = self._engine.settings.span_seconds
        for span in spans.read(
            recording, seconds, number=self._number, start=self._start,
            heard=lambda sample: self._decoded(recording, sample),
        ):  # fmt: skip
            self._meter.duration = recording.duration
            self._send(self._event(span, self._work(span)))
            self._begun = span.end
        self._warn_of(recording)
        self._meter.duration = recording.decoded / RATE
        self._tell_speakers()
        self._meter.finish()
        self._send(
            {
                "type": "done",
                "language": self._language if self._spoken else None,
                "duration": round(recording.decoded / RATE, 3),
            }
        )

    def _tell_speakers(self) -> None:
        """Who spoke when. A failure costs the names, never the text."""
        if self._speakers is None or not self._spoken:
            return
        try:
            turns = self._speakers.turns(self._meter.speakers, self._warn)
        except (SpeakersFailed, OSError) as error:
            log.warning("speakers: %s", error)
            self._warn(
                "speakers_failed", "Speakers could not be told apart; the text is complete without them."
            )
        else:
            self._send({"type": "speakers", "turns": turns})

    def _event(self, span: spans.Span, found: list[dict[str, Any]]) -> Event:
        self._spoken = self._spoken or bool(found)
        return {
            "type": "span", "number": span.number, "start": span.start / RATE, "end": span.end / RATE,
            "segments": found,
        }  # fmt: skip

    def _work(self, span: spans.Span) -> list[dict[str, Any]]:
        """The segments of a span."""
        if not span.speech:
            return []
        recogniser = self._recogniser()
        windows = recogniser.vad_model.windows(span.speech)
        said = [one for one in self._hear(recogniser, span, windows) if one.text.strip()]
        placed = [word for one in said for word in self._place(one, span)]
        return words.segments(placed, with_words=self._asked.with_words)

    def _recogniser(self) -> Recogniser:
        chosen = self._engine.compute_type_for(less_memory=self._less_memory)
        if chosen != self._engine.compute_type:
            self._warn(
                "smaller_compute_type",
                f"For want of memory it was recognised with {chosen} instead of "
                f"{self._engine.compute_type}: a little less exact.",
            )
        return self._engine.recogniser(self._model, less_memory=self._less_memory)

    def _hear(self, recogniser: Recogniser, span: spans.Span, windows: list[Window]) -> Iterator[Heard]:
        """All windows in batches, which get smaller when memory does not suffice."""
        if self._asked.multilingual and self._asked.language is None:
            self._language = None  # each span for itself
        done = 0
        while done < len(windows):
            batch = windows[done : done + self._engine.batch]
            try:
                heard = self._hear_batch(recogniser, span, batch, done, len(windows))
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or self._engine.batch == 1:
                    raise
                self._engine.batch = max(1, len(batch) // 2)
                log.warning("out of memory: going on with batches of %d", self._engine.batch)
                continue
            yield from heard
            done += len(batch)

    def _hear_batch(
        self, recogniser: Recogniser, span: spans.Span, batch: list[Window], done: int, total: int
    ) -> list[Heard]:
        self._report("transcribe", span, done / total)
        encoded = recogniser.encode(span.samples, batch)
        if self._language is None:
            self._detect(recogniser, encoded)
        assert self._language is not None
        tokenizer = recogniser.tokenizer_for(self._language, self._asked.task)
        wav2vec2 = self._asked.timed and self._wav2vec2(self._language)
        heard = recogniser.recognise(
            encoded, batch, self._asked, tokenizer, timed=self._asked.timed and not wav2vec2
        )
        self._report("align", span, (done + len(batch)) / total)
        if wav2vec2:
            for one in heard:
                if one.text.strip():
                    one.timed = self._engine.aligner.align(one.text, span.samples, one.window, one.logprob)
        return heard

    def _detect(self, recogniser: Recogniser, encoded: ctranslate2.StorageView) -> None:
        """The language by the vote of all windows of the batch: the mean of their probabilities."""
        if not recogniser.multilingual:
            self._language = "en"
            return
        votes: dict[str, float] = {}
        found = recogniser.languages(encoded)
        for window in found:
            for language, probability in window.items():
                votes[language] = votes.get(language, 0.0) + probability / len(found)
        self._language = max(votes, key=lambda language: votes[language])
        probability = round(votes[self._language], 3)
        self._send({"type": "language", "language": self._language, "probability": probability})

    def _wav2vec2(self, language: str) -> bool:
        """Whether words are timed by a model of their own; else it is the recogniser's attention."""
        wanted = self._engine.settings.align
        if wanted == "attention" or (wanted == "auto" and self._engine.device != "cuda"):
            return False
        if self._asked.task == "translate":
            return False  # the words are not those that are spoken
        if self._engine.aligner.ready(language):
            return True
        self._warn(
            "no_alignment_model",
            f"Word times come from the recognition itself: no alignment model for {language} could be "
            "loaded.",
        )
        return False

    def _place(self, one: Heard, span: spans.Span) -> list[words.Word]:
        window = one.window
        timed = one.timed or words.spread(one.text, one.logprob, window.speech)
        offset = span.start / RATE
        placed = words.place(timed, window.speech, window.start, window.end)
        return [replace(word, start=word.start + offset, end=word.end + offset) for word in placed]

    def _decoded(self, recording: Recording, sample: int) -> None:
        seconds = self._engine.settings.span_seconds
        start = self._begun / RATE
        self._meter.duration = recording.duration
        end = min(start + seconds, max(recording.duration or 0, sample / RATE))
        self._meter.report("decode", start, end, (sample / RATE - start) / max(end - start, 1e-3))

    def _report(self, stage: str, span: spans.Span, share: float) -> None:
        self._meter.report(stage, span.start / RATE, span.end / RATE, share)

    def _stage(self, stage: str, progress: float, duration: float | None) -> None:
        self._send({"type": "stage", "stage": stage, "progress": progress, "duration": duration})

    def _warn_of(self, recording: Recording) -> None:
        if recording.damaged:
            self._warn(
                "damaged_audio",
                f"{recording.damaged} damaged part(s) of the recording could not be read and are left out.",
            )

    def _warn(self, code: str, message: str) -> None:
        if code not in self._warned:
            self._warned.add(code)
            self._send({"type": "warning", "code": code, "message": message})


class Wire:
    """The socket to the worker: requests in, events out, and a beat while there is work."""

    def __init__(self, connection: socket.socket) -> None:
        self._in = connection.makefile("r", encoding="utf-8")
        self._out = connection.makefile("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._busy = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def requests(self) -> Iterator[dict[str, Any]]:
        """Requests until the worker closes its end."""
        for line in self._in:
            self._busy.set()
            yield json.loads(line)
            self._busy.clear()

    def send(self, event: Event) -> None:
        """Send an event."""
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def _beat(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(BEAT_SECONDS)
            if self._busy.is_set():
                self.send({"type": "alive"})


def answer(engine: Engine, request: dict[str, Any], send: Send) -> None:
    """Do what a request asks; its end is a "done" or an "error" event."""
    try:
        Job(engine, request, send).run()
    except MediaError as error:
        send(_error("permanent", error.code, str(error)))
    except UnsupportedLanguage as error:
        send(_error("permanent", "unsupported_language", str(error)))
    except ModelUnavailable as error:
        send(_error("transient", "model_unavailable", str(error)))
    except OSError as error:
        log.exception("the recording cannot be read")
        send(_error("transient", "storage_unreachable", f"The recording cannot be read: {error.strerror}."))
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        log.exception("out of memory")
        send(
            _error(
                "transient", "out_of_memory",
                "The machine has too little memory for this model. Please choose a smaller one, or "
                "set STT_COMPUTE_TYPE=int8.",
            )
        )  # fmt: skip


def main() -> None:
    """Serve requests until the worker closes its end of the socket."""
    setproctitle("stt engine")
    chosen = settings.load(dotenv=Path(os.devnull))  # the worker has read it already
    logs.setup(chosen)
    logging.getLogger("whisperx").setLevel(logging.WARNING)
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    engine = Engine(chosen)
    for request in wire.requests():
        try:
            answer(engine, request, wire.send)
        except Exception:
            # What is not foreseen may have left the models in any state: a new process has a clean one.
            log.exception("the engine failed")
            wire.send(_error("transient", "engine_failed", "The engine failed. Its log says why."))
            raise


def _error(kind: str, code: str, message: str) -> Event:
    return {"type": "error", "kind": kind, "code": code, "message": message}


def _on_hub(name: str) -> bool:
    """Whether the model hub answers, and has this repository."""
    try:
        huggingface_hub.model_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # noqa: BLE001  whatever it is, the hub is of no use now
        log.info("the model hub does not give %s: %s", name, error)
        return False
    return True


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    said = ("out of memory", "alloc_failed", "failed to allocate", "bad_alloc")  # CUDA, cuBLAS, MKL, C++
    return isinstance(error, MemoryError) or any(words in text for words in said)


def _speakers(request: dict[str, Any], engine: Engine) -> Speakers | None:
    options = request.get("options") or {}
    if not options.get("diarize"):
        return None
    path = Path(request["path"])
    return Speakers(path, options, engine.settings, device=engine.device, threads=engine.threads)


def _asked(request: dict[str, Any], chosen: Settings) -> Asked:
    options = request.get("options") or {}
    with_words = options.get("word_timestamps", True) is not False and chosen.align != "off"
    return Asked(
        language=request.get("language") or None,
        task=request.get("task") or "transcribe",
        prompt=options.get("initial_prompt") or None,
        hotwords=options.get("hotwords") or None,
        suppress_numerals=bool(options.get("suppress_numerals")),
        multilingual=bool(options.get("multilingual")),
        timed=with_words,
        with_words=with_words,
    )


def _device(chosen: Settings) -> str:
    if chosen.device != "auto":
        return chosen.device
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def _compute_type(chosen: Settings, device: str) -> str:
    if chosen.compute_type != "auto":
        return chosen.compute_type
    return "float16" if device == "cuda" else "int8"


if __name__ == "__main__":
    main()
