"""Transcribes one recording: decoding, voice activity, recognition, word times and speakers, span by span."""

from __future__ import annotations

import base64
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from stt.codes import Stage, WarningCode
from stt.settings import Settings
from stt.transcript.schema import Segment
from workers.audio import spans, vad
from workers.audio.handle import SandboxedRecording
from workers.audio.sound import RATE
from workers.diarization.handle import DiarizationFailed, DiarizationProcess
from workers.engine import job_warnings, rates, weak_speech
from workers.engine.hypothesis import DecodingOptions
from workers.engine.language_vote import LanguageVote
from workers.engine.prefetch import prefetch
from workers.engine.progress import ProgressEstimator
from workers.engine.protocol import Event, Resume, SpanEvent, TranscribeRequest
from workers.engine.recognise import Recogniser
from workers.engine.runtime import Runtime
from workers.engine.span_recognition import SegmentMaker, recognise_batch
from workers.engine.span_task import SpanTask
from workers.engine.windows import LONGEST, LONGEST_WITH_PAUSES, batches
from workers.engine.word_times import WordTimer, wants_wav2vec2

log = structlog.stdlib.get_logger(__name__)

Send = Callable[[Event], None]

_STAGES = {
    "decode": Stage.DECODE, "recognise": Stage.TRANSCRIBE, "align": Stage.ALIGN, "speakers": Stage.SPEAKERS,
}  # fmt: skip


class Transcription:
    """One request, from the file to the event "done".

    A thread reads the recording one span ahead and gives the windows of a span to the decoder threads, batch
    by batch. The thread that calls `run` takes the results span by span, in order, times the words and sends
    the segments. So decoding, voice activity and recognition run at the same time, and a decoder thread that
    is done with its part of a span begins with the next.
    """

    def __init__(self, runtime: Runtime, request: TranscribeRequest, send: Send) -> None:
        self._runtime, self._send = runtime, send
        runtime.on_load = lambda seconds: send({"type": "model", "seconds": round(seconds, 3)})
        self._path = Path(request["path"])
        self._model = request["model"]
        self._less_memory = bool(request.get("less_memory"))
        self._decoding = decoding_options(request, runtime.settings)
        resume: Resume = request.get("resume") or {}
        self._first_span, self._start = resume.get("spans", 0), round(resume.get("end", 0) * RATE)
        self._has_text = resume.get("segments", 0) > 0
        self._is_recognised = bool(resume.get("complete"))
        self._language = self._decoding.language or resume.get("language") or None
        self._diarization = _diarization_of(request, runtime)
        kind = _kind(runtime, self._decoding, self._diarization, self._model, less_memory=self._less_memory)
        self._rates = rates.JobRates(runtime.rates, kind)
        self._progress = ProgressEstimator(
            self._send_stage,
            self._rates.known(),
            start=self._start / RATE,
            decoder_threads=runtime.plan.decoder_threads,
            diarized_beside=(lambda: made.share) if (made := self._diarization) and made.beside else None,
        )
        self._warn = job_warnings.WarningSender(send)
        self._word_timer = WordTimer(runtime, self._decoding, self._progress, self._warn)
        self._segment_maker = SegmentMaker(runtime, self._decoding, self._word_timer, send)
        self._unfinished: list[Future[Any]] = []
        # Whether most windows had low confidence, of the last two spans with speech. Requests, events and the
        # column `spans.unsure` call it "unsure"; the code translates the name here and in `_span_event`.
        known = [partial(bool, low) for low in resume.get("unsure", [])]
        self._latest_low_confidence: deque[Callable[[], bool]] = deque(known, maxlen=2)

    def run(self) -> None:
        """Transcribe the recording and send its events.

        Raises:
            MediaError: The recording cannot be read.
            UnsupportedLanguage: The model does not know the language.
            ModelUnavailable: The model is not installed and cannot be fetched.
            DecoderDied: The process that decodes the recording died.
            OSError: The recording cannot be reached.
            RuntimeError, MemoryError: Memory does not suffice, or a library failed.
        """
        begun, loading = time.monotonic(), self._runtime.load_seconds
        recording = SandboxedRecording(self._path, self._runtime.settings.max_duration_seconds)
        try:
            self._progress.duration = recording.duration
            if self._diarization and self._diarization.beside:
                self._start_diarization(self._diarization)
            self._run(recording)
        finally:
            recording.close()
            if self._diarization:
                self._diarization.close()
            for future in self._unfinished:  # after an error: the next job needs the decoder threads
                future.cancel()
            wait(self._unfinished)  # a batch that still runs would report into the next job
        seconds, decoded = time.monotonic() - begun, recording.decoded / RATE
        log.info(
            "recording transcribed",
            audio_seconds=round(decoded, 1),
            seconds=round(seconds, 1),
            load_seconds=round(self._runtime.load_seconds - loading, 1),
            peak_megabytes=round(_peak_memory()),
        )

    def _run(self, recording: SandboxedRecording) -> None:
        if not self._is_recognised:
            self._recognise(recording)
        # If every span was known, nothing was decoded, and the last known span ends with the recording.
        duration = self._progress.duration = max(recording.decoded, self._start) / RATE
        self._send_speakers()
        self._progress.finish()
        measured = self._progress.measured()
        self._rates.learn(measured)
        language = self._language if self._has_text else None
        seconds = {str(_STAGES[name]): round(waited, 3) for name, (waited, _) in measured.items()}
        self._send({"type": "done", "language": language, "duration": round(duration, 3), "seconds": seconds})

    def _recognise(self, recording: SandboxedRecording) -> None:
        for span, task in prefetch(self._tasks(recording)):
            self._progress.duration = recording.duration
            found = self._segment_maker.segments(task) if task else []
            self._progress.finished(span.end / RATE)
            if span.last:  # a later attempt that knows this span does not read the recording, nor warn
                self._warn.of_recording(recording)
            self._send(self._span_event(span, found, task.low_confidence_future()() if task else None))
        self._warn.of_recording(recording)

    def _start_diarization(self, started: DiarizationProcess) -> None:
        try:
            started.start()
        except OSError:  # it is tried again after recognition, and a second failure gives a warning
            log.exception("diarization beside recognition could not start")

    def _send_speakers(self) -> None:
        """Send the speaker turns. If diarization fails, the text stays and a warning is sent."""
        if self._diarization is None or not self._has_text:
            return
        try:
            turns = self._diarization.turns(self._progress.speakers, self._warn)
        except (DiarizationFailed, OSError) as error:
            log.warning("the speakers are not known", error=str(error))
            self._warn(WarningCode.SPEAKERS_FAILED)
        else:
            self._send({"type": "speakers", "turns": turns})

    def _span_event(self, span: spans.Span, found: list[Segment], low_confidence: bool | None) -> SpanEvent:
        self._has_text = self._has_text or bool(found)
        return {
            "type": "span", "number": span.number, "start": span.start / RATE, "end": span.end / RATE,
            "segments": found, "last": span.last, "peaks": base64.b64encode(span.peaks).decode(),
            "unsure": low_confidence,
        }  # fmt: skip

    def _tasks(self, recording: SandboxedRecording) -> Iterator[tuple[spans.Span, SpanTask | None]]:
        """All spans, each with its task, which the decoder threads work on; None if it has no speech."""
        found = spans.read(
            recording, self._runtime.settings.span_seconds, number=self._first_span, start=self._start,
            on_read=lambda sample: self._progress.decoded(sample / RATE),
            make_detector=self._runtime.vad.make_detector,
        )  # fmt: skip
        for span in self._progress.decoding(found):
            weak = weak_speech.find(span.samples, span.speech, self._runtime.vad.make_detector)
            if span.speech or weak:
                yield span, self._start_task(span, weak)
            else:
                self._progress.silent((span.end - span.start) / RATE)
                yield span, None

    def _start_task(self, span: spans.Span, weak: Sequence[vad.Speech] = ()) -> SpanTask:
        """Give the windows of a span to the decoder threads."""
        # Cross-attention finds on which side of a pause a word is, but not for a translation.
        longest = LONGEST if self._decoding.task == "translate" else LONGEST_WITH_PAUSES
        windows = weak_speech.windows(
            span.speech, weak, lambda speech: self._runtime.vad.windows(speech, span.samples, longest)
        )
        whole = span.number == 0 and span.last
        task = SpanTask(span, windows, self._recogniser(len(windows) if whole else None))
        task.language = self._language_of(task)
        task.align_model = self._word_timer.model_for(task.language)
        # The wide beam takes twice the time of greedy decoding. It is used at once if most windows of the
        # span before the previous one needed it (for the second span, of the first). The previous span is
        # still in recognition: this one would have to wait for it.
        task.wants_wide_beam = self._latest_low_confidence[0] if self._latest_low_confidence else bool
        self._submit(task)
        self._latest_low_confidence.append(task.low_confidence_future())
        return task

    def _submit(self, task: SpanTask) -> None:
        runtime, span, windows = self._runtime, task.span, task.windows
        threads = runtime.plan.decoder_threads if task.recogniser.replicas == runtime.plan.replicas else 1
        for indices in batches(windows, runtime.batch, threads):
            seconds = (span.end - span.start) / RATE * len(indices) / len(windows)
            future = runtime.decoder_pool.submit(
                self._progress.recognising, seconds, recognise_batch, runtime, self._decoding, task, indices
            )
            task.batches.append((indices, future))
        self._unfinished = [future for future in self._unfinished if not future.done()]
        self._unfinished += [future for _, future in task.batches]

    def _recogniser(self, windows: int | None) -> Recogniser:
        """The model; `windows` is how many the whole recording has, where that is known."""
        chosen = self._runtime.compute_type_for(less_memory=self._less_memory)
        if chosen != self._runtime.compute_type:
            self._warn(WarningCode.SMALLER_COMPUTE_TYPE, used=chosen, wanted=self._runtime.compute_type)
        return self._runtime.recogniser(self._model, less_memory=self._less_memory, windows=windows)

    def _language_of(self, task: SpanTask) -> str:
        """The language of the request, else the detected one: of the first span with speech, or of each."""
        if self._language is None or (self._decoding.multilingual and self._decoding.language is None):
            self._language = self._detect_language(task)
        return self._language

    def _detect_language(self, task: SpanTask) -> str:
        if not task.recogniser.multilingual:
            return "en"
        vote = LanguageVote(task, self._runtime.decoder_pool)
        self._unfinished += vote.futures
        language, probability = vote.result()
        self._send({"type": "language", "language": language, "probability": round(probability, 3)})
        return language

    def _send_stage(self, stage: Stage, progress: float, duration: float | None, left: float | None) -> None:
        """Send the progress. Times are in seconds; `left` is None while it cannot be estimated."""
        self._send(
            {"type": "stage", "stage": stage, "progress": progress, "duration": duration, "left": left}
        )


def decoding_options(request: TranscribeRequest, settings: Settings) -> DecodingOptions:
    """The options of a request that concern recognition."""
    options = request.get("options") or {}
    return DecodingOptions(
        language=request.get("language") or None,
        task=request.get("task") or "transcribe",
        prompt=options.get("initial_prompt") or None,
        hotwords=options.get("hotwords") or None,
        suppress_numerals=bool(options.get("suppress_numerals")),
        multilingual=bool(options.get("multilingual")),
        timed=options.get("word_timestamps", True) is not False and settings.align != "off",
    )


def _kind(
    runtime: Runtime,
    decoding: DecodingOptions,
    diarization: DiarizationProcess | None,
    model: str,
    *,
    less_memory: bool,
) -> rates.JobKind:
    return rates.JobKind(
        device=runtime.device,
        compute_type=runtime.compute_type_for(less_memory=less_memory),
        model=model,
        beam=runtime.settings.beam_size,
        vad=runtime.settings.vad,
        threads=runtime.threads,
        timed=decoding.timed,
        aligns=wants_wav2vec2(runtime, decoding),
        diarization=diarization.kind if diarization else None,
        beside=diarization is not None and diarization.beside,
    )


def _peak_memory() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _diarization_of(request: TranscribeRequest, runtime: Runtime) -> DiarizationProcess | None:
    options = request.get("options") or {}
    if not options.get("diarize"):
        return None
    path = Path(request["path"])
    return DiarizationProcess(path, options, runtime.settings, device=runtime.device, threads=runtime.threads)
