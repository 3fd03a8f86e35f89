"""Transcribes one recording: decoding, voice activity, recognition, word times and speakers, span by span."""

from __future__ import annotations

import base64
import logging
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ctranslate2

from stt import codes
from stt.codes import Stage, WarningCode
from stt.settings import Settings
from stt.transcript import passages
from stt.transcript.schema import Segment
from workers.audio import spans, vad
from workers.audio.handle import SandboxedRecording
from workers.audio.sound import RATE, Samples
from workers.diarization.handle import DiarizationFailed, DiarizationProcess
from workers.engine import costs, coverage, gap_filling, weak_speech, words
from workers.engine.align import AlignModel
from workers.engine.hypothesis import UNSURE, Asked, Heard
from workers.engine.prefetch import _ahead
from workers.engine.progress import Meter
from workers.engine.protocol import Event, Resume, SpanEvent, TranscribeRequest
from workers.engine.recognise import Recogniser, frames_for
from workers.engine.runtime import Engine, _out_of_memory
from workers.engine.windows import LONGEST, LONGEST_WITH_PAUSES, Window, batches

log = logging.getLogger(__name__)

VOTES = 3  # windows that tell the language

Send = Callable[[Event], None]
# A file that holds less sound than it promises, by so much, has been cut off.
MISSING_SECONDS, MISSING_SHARE = 5.0, 0.01


@dataclass(slots=True)
class Work:
    """A span in work: its windows, and the batches of them that lanes have taken or will take."""

    span: spans.Span
    windows: list[Window]
    recogniser: Recogniser
    # What the encoder made of the windows that told the language, by their numbers.
    encoded: dict[int, ctranslate2.StorageView] = field(default_factory=dict)
    batches: list[tuple[list[int], Future[list[Heard]]]] = field(default_factory=list)
    # Whether a wider beam at once is cheaper, which an earlier span tells. It may wait for that one, which is
    # given to the lanes before this one, so it is done, or at work.
    wide: Callable[[], bool] = bool
    language: str = ""
    again: bool = False  # its windows are gaps of windows that were recognised before
    wav2vec2: AlignModel | None = None  # times its words; without it the recogniser's attention does

    def heard(self) -> list[Heard]:
        """What was recognised, in the order of the recording, once all of it is."""
        found = {
            number: one
            for numbers, future in self.batches
            for number, one in zip(numbers, future.result(), strict=True)
        }
        return [found[number] for number in range(len(self.windows))]

    def told(self) -> Callable[[], bool]:
        """What tells, once its lanes are done, whether most was unsure; it holds on to no samples."""
        futures = [future for _, future in self.batches]
        return lambda: _mostly(one.unsure for future in futures for one in future.result())


class Job:
    """One request, from the file to "done".

    A thread reads spans ahead and hands their windows to the engine's lanes, batch by batch; this one takes
    what they heard, span by span in order, times and sends it. So decoding, voice activity and recognition
    go on at once, and a lane that is done with its part of a span begins with the next.
    """

    def __init__(self, engine: Engine, request: TranscribeRequest, send: Send) -> None:
        self._engine, self._send = engine, send
        self._path = Path(request["path"])
        self._name = str(request.get("job", ""))
        self._model = request["model"]
        self._less_memory = bool(request.get("less_memory"))
        self._asked = _asked(request, engine.settings)
        resume: Resume = request.get("resume") or {}
        self._number, self._start = resume.get("spans", 0), round(resume.get("end", 0) * RATE)
        self._spoken = resume.get("segments", 0) > 0
        self._all_known = bool(resume.get("complete"))
        self._language = self._asked.language or resume.get("language") or None
        self._speakers = _speakers(request, engine)
        self._names = self._cost_names()
        self._meter = Meter(
            self._stage,
            {stage: engine.costs.read(name, guess) for stage, (name, guess) in self._names.items()},
            start=self._start / RATE,
            lanes=engine.plan.lanes,
            beside=(lambda: voices.share) if (voices := self._speakers) and voices.beside else None,
        )
        self._warned: set[tuple[str, str]] = set()
        self._unfinished: list[Future[Any]] = []
        # Of the last two spans with speech, whether they were mostly unsure.
        known = [partial(bool, unsure) for unsure in resume.get("unsure", [])]
        self._latest: deque[Callable[[], bool]] = deque(known, maxlen=2)

    def run(self) -> None:
        """Do it; every error that has a meaning for a person is raised as what it is."""
        begun, loading = time.monotonic(), self._engine.load_seconds
        recording = SandboxedRecording(self._path, self._engine.settings.max_duration_seconds)
        try:
            self._meter.duration = recording.duration
            if self._speakers and self._speakers.beside:
                self._start_speakers(self._speakers)
            self._run(recording)
        finally:
            recording.close()
            if self._speakers:
                self._speakers.close()
            for future in self._unfinished:  # if it failed: the next job wants the lanes
                future.cancel()
            wait(self._unfinished)  # what still runs would report into the next job
        seconds, heard = time.monotonic() - begun, recording.decoded / RATE
        log.info(
            "job %s: %.1f s of sound in %.1f s (x %.1f), %.1f s of it loading the model; peak memory %.0f MB",
            self._name, heard, seconds, heard / seconds, self._engine.load_seconds - loading, _peak_memory(),
        )  # fmt: skip

    def _run(self, recording: SandboxedRecording) -> None:
        if not self._all_known:
            self._recognise(recording)
        # Where every span was known, nothing was decoded, and the last one ends with the recording.
        duration = self._meter.duration = max(recording.decoded, self._start) / RATE
        self._tell_speakers()
        self._meter.finish()
        self._learn()
        language = self._language if self._spoken else None
        self._send({"type": "done", "language": language, "duration": round(duration, 3)})

    def _recognise(self, recording: SandboxedRecording) -> None:
        for span, work in _ahead(self._begun(recording)):
            self._meter.duration = recording.duration
            found = self._finished(work) if work else []
            self._meter.finished(span.end / RATE)
            if span.last:  # once it is known, nobody reads the recording again to tell of its damages
                self._warn_of(recording)
            self._send(self._event(span, found, work.told()() if work else None))
        self._warn_of(recording)

    def _cost_names(self) -> dict[str, tuple[str, float]]:
        """For each stage of this job the name its cost is kept by, and a first guess."""
        engine = self._engine
        compute_type = engine.compute_type_for(less_memory=self._less_memory)
        aligns, guesses = self._wants_wav2vec2(), costs.GUESSES[engine.device]
        beside = self._speakers is not None and self._speakers.beside
        # How long one waits for a stage depends on what goes on beside it: on all the others.
        spans = (
            f"{engine.device} {compute_type} {self._model} beam={engine.settings.beam_size}"
            f" vad={engine.settings.vad} threads={engine.threads} timed={self._asked.timed}"
            f" wav2vec2={aligns} beside={beside}"
        )
        names = {stage: (f"{stage} {spans}", guesses[stage]) for stage in ("decode", "recognise")}
        if aligns:
            names["align"] = f"align {spans}", guesses["align"]
        if self._speakers:
            told = f"{engine.device} {self._speakers.kind} threads={engine.threads}"
            names["speakers"] = (
                (f"beside {spans} {told}", guesses["beside"]) if beside
                else (f"speakers {told}", guesses["speakers"])
            )  # fmt: skip
        return names

    def _learn(self) -> None:
        measured = self._meter.measured()
        self._engine.costs.learn(
            {
                name: (*measured[stage], guess)
                for stage, (name, guess) in self._names.items()
                if stage in measured
            }
        )

    def _start_speakers(self, started: DiarizationProcess) -> None:
        try:
            started.start()
        except OSError:  # once the text is there it is tried again, and told if it fails again
            log.exception("job %s: speakers cannot be told apart beside recognition", self._name)

    def _tell_speakers(self) -> None:
        """Who spoke when. A failure costs the names, never the text."""
        if self._speakers is None or not self._spoken:
            return
        try:
            turns = self._speakers.turns(self._meter.speakers, self._warn)
        except (DiarizationFailed, OSError) as error:
            log.warning("speakers: %s", error)
            self._warn(WarningCode.SPEAKERS_FAILED)
        else:
            self._send({"type": "speakers", "turns": turns})

    def _event(self, span: spans.Span, found: list[Segment], unsure: bool | None) -> SpanEvent:
        self._spoken = self._spoken or bool(found)
        return {
            "type": "span", "number": span.number, "start": span.start / RATE, "end": span.end / RATE,
            "segments": found, "last": span.last, "peaks": base64.b64encode(span.peaks).decode(),
            "unsure": unsure,
        }  # fmt: skip

    def _begun(self, recording: SandboxedRecording) -> Iterator[tuple[spans.Span, Work | None]]:
        """All spans, each with its windows given to the lanes, where there are any."""
        found = spans.read(
            recording, self._engine.settings.span_seconds, number=self._number, start=self._start,
            on_read=lambda sample: self._meter.decoded(sample / RATE), make_detector=self._engine.vad.listen,
        )  # fmt: skip
        for span in self._meter.decoding(found):
            weak = weak_speech.find(span.samples, span.speech, self._engine.vad.listen)
            if span.speech or weak:
                yield span, self._begin(span, weak)
            else:
                self._meter.silent((span.end - span.start) / RATE)
                yield span, None

    def _begin(self, span: spans.Span, weak: Sequence[vad.Speech] = ()) -> Work:
        # Cross-attention finds on which side of a pause a word is, but not for a translation.
        knows = self._asked.task != "translate"
        longest = LONGEST_WITH_PAUSES if knows else LONGEST
        windows = weak_speech.windows(
            span.speech, weak, lambda speech: self._engine.vad.windows(speech, span.samples, longest)
        )
        whole = span.number == 0 and span.last
        work = Work(span, windows, self._recogniser(len(windows) if whole else None))
        work.language = self._language_of(work)
        work.wav2vec2 = self._wav2vec2(work.language)
        plan = self._engine.plan
        lanes = plan.lanes if work.recogniser.replicas == plan.replicas else 1
        # A wider beam takes some twice the time of greedy decoding: it comes first where most would get it.
        # Not the last span tells, which would be waited for; only the second span goes by the first.
        work.wide = self._latest[0] if self._latest else bool
        for numbers in batches(windows, self._engine.batch, lanes):
            seconds = (span.end - span.start) / RATE * len(numbers) / len(windows)
            future = self._engine.lanes.submit(self._meter.recognising, seconds, self._hear, work, numbers)
            work.batches.append((numbers, future))
        self._unfinished = [one for one in self._unfinished if not one.done()]
        self._unfinished += [future for _, future in work.batches]
        self._latest.append(work.told())
        return work

    def _recogniser(self, windows: int | None) -> Recogniser:
        """The model; `windows` is how many the whole recording has, where that is known."""
        chosen = self._engine.compute_type_for(less_memory=self._less_memory)
        if chosen != self._engine.compute_type:
            self._warn(WarningCode.SMALLER_COMPUTE_TYPE, used=chosen, wanted=self._engine.compute_type)
        return self._engine.recogniser(self._model, less_memory=self._less_memory, windows=windows)

    def _hear(self, work: Work, numbers: list[int]) -> list[Heard]:
        """What a lane does: recognise a batch, in halves where memory does not suffice for all of it."""
        recogniser, samples = work.recogniser, work.span.samples
        batch = [work.windows[number] for number in numbers]
        known = {place: work.encoded[one] for place, one in enumerate(numbers) if one in work.encoded}
        tokenizer = recogniser.tokenizer_for(work.language, self._asked.task)
        timed = not work.wav2vec2  # also if the job wants no times: coverage needs them
        # A translation is in one language whatever is spoken.
        spoken = None if self._asked.task == "translate" else work.language
        wide = work.wide()  # not below: an error of the span that tells is not one of this batch
        try:
            encoded = recogniser.encode(samples, batch, known)
            heard = recogniser.recognise(
                encoded, samples, batch, self._asked, tokenizer, timed=timed, wide=wide,
                spoken=spoken, floor=0.0 if work.again else UNSURE,
            )  # fmt: skip
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or len(batch) == 1:
                raise
            half = len(batch) // 2
            self._engine.batch = min(self._engine.batch, half)
            log.warning("out of memory: going on with batches of %d", self._engine.batch)
        else:
            return heard
        # Outside of the handler, whose error holds on to what filled the memory.
        return [one for part in (numbers[:half], numbers[half:]) for one in self._hear(work, part)]

    def _finished(self, work: Work) -> list[Segment]:
        """The segments of a span, once its lanes are done with it."""
        heard = self._filled(work, self._timed(work, work.heard()))
        placed = [word for one in heard if one.text.strip() for word in self._place(one, work.span)]
        return words.segments(placed, with_words=self._asked.timed)

    def _timed(self, work: Work, heard: list[Heard]) -> list[Heard]:
        if work.wav2vec2:
            self._align(work, [one for one in heard if one.text.strip()])
        return heard

    def _filled(self, work: Work, heard: list[Heard]) -> list[Heard]:
        """The hypotheses of a span with the speech that was skipped recognised in windows of its own.

        Sends warnings of speech that stays without words, and of passages in another language.
        """
        result = gap_filling.fill(heard, work.span.samples, partial(self._recognise_gaps, work))
        if result.seconds:
            log.info("job %s: %.1f s of sound were recognised again", self._name, result.seconds)
        self._warn_of_passages(work, result)
        return result.heard

    def _recognise_gaps(self, work: Work, samples: Samples, windows: list[Window]) -> list[Heard]:
        """The hypotheses of the windows of a span's gaps; `samples` are those of the span, raised."""
        # Not in the lanes: there it would wait for the windows of the next span.
        gaps = replace(
            work,
            span=replace(work.span, samples=samples),
            windows=windows,
            encoded={},
            again=True,
            wide=lambda: True,
        )
        batch = self._engine.batch
        heard = [
            hypothesis
            for first in range(0, len(windows), batch)
            for hypothesis in self._hear(gaps, list(range(first, min(first + batch, len(windows)))))
        ]
        return self._timed(gaps, heard)

    def _warn_of_passages(self, work: Work, result: gap_filling.Result) -> None:
        """Warn of probable speech without words, and of passages in another language."""
        offset = work.span.start / RATE
        timed = [word for hypothesis in result.heard for word in hypothesis.timed or []]
        uncovered = [
            (start + offset, end + offset)
            for start, end in coverage.probable_speech(result.uncovered, work.span.speech, timed)
        ]
        others = [passage for hypothesis in result.heard for passage in hypothesis.passages]
        warnings = [passages.warning(WarningCode.UNCOVERED_SPEECH, uncovered)] if uncovered else []
        for language in sorted({one.language for one in others}):
            times = [(one.start + offset, one.end + offset) for one in others if one.language == language]
            warnings.append(passages.warning(WarningCode.OTHER_LANGUAGE, times, language, work.language))
        for warning in warnings:
            self._send({"type": "warning", **warning})

    def _align(self, work: Work, said: list[Heard]) -> None:
        """Words timed by wav2vec2; what it cannot time, by the recogniser's attention."""
        for one in said:
            self._meter.aligning()
            one.timed = self._aligned(work, one)
            self._meter.aligned(one.window.end - one.window.start)
        if left := [one for one in said if one.timed is None]:
            self._time_words(work, left)

    def _time_words(self, work: Work, said: list[Heard]) -> None:
        try:
            tokenizer = work.recogniser.tokenizer_for(work.language, self._asked.task)
            work.recogniser.time_words(work.span.samples, said, tokenizer)
        except Exception:  # then they are spread over the speech: times must not cost the text
            log.exception("job %s: no word times by attention either", self._name)

    def _aligned(self, work: Work, one: Heard) -> list[words.Word] | None:
        assert work.wav2vec2
        try:
            return self._engine.aligner.align(
                work.wav2vec2, one.text, work.span.samples, one.window, one.logprob
            )
        except Exception:  # whatever it is, it must not cost the text
            log.exception("job %s: the words of a window could not be aligned", self._name)
            self._warn(WarningCode.ALIGNMENT_FAILED)
            return None

    def _language_of(self, work: Work) -> str:
        """The language that was asked for, or is spoken: in the first span with speech, or in each."""
        if self._language is None or (self._asked.multilingual and self._asked.language is None):
            self._language = self._detect(work)
        return self._language

    def _detect(self, work: Work) -> str:
        """The language by the vote of the windows in which most is said: the mean of their probabilities."""
        if not work.recogniser.multilingual:
            return "en"
        votes: dict[str, float] = {}
        # Each by itself, so that the vote does not depend on memory; kept, as their text is decoded from it,
        # and of one length, as they may be decoded together.
        order = sorted(
            range(len(work.windows)),
            key=lambda number: (work.windows[number].weak, -work.windows[number].spoken),
        )
        chosen = [number for number in order if not work.windows[number].weak or number == order[0]][:VOTES]
        frames = frames_for([work.windows[number] for number in chosen])
        futures = [
            self._engine.lanes.submit(
                work.recogniser.encode, work.span.samples, [work.windows[number]], frames=frames
            )
            for number in chosen
        ]
        self._unfinished += futures
        for number, future in zip(chosen, futures, strict=True):
            work.encoded[number] = future.result()
            [found] = work.recogniser.languages(work.encoded[number])
            for language, probability in found.items():
                votes[language] = votes.get(language, 0.0) + probability / len(chosen)
        language = max(votes, key=lambda language: votes[language])
        probability = round(votes[language], 3)
        self._send({"type": "language", "language": language, "probability": probability})
        return language

    def _wav2vec2(self, language: str) -> AlignModel | None:
        """The model of their own by which words are timed; without one it is the recogniser's attention."""
        if not self._wants_wav2vec2():
            return None
        if model := self._engine.aligner.model_for(language):
            return model
        self._warn(WarningCode.NO_ALIGNMENT_MODEL, language=language)
        return None

    def _wants_wav2vec2(self) -> bool:
        wanted = self._engine.settings.align
        if wanted == "attention" or (wanted == "auto" and self._engine.device != "cuda"):
            return False
        # The words of a translation are not those that are spoken.
        return self._asked.timed and self._asked.task != "translate"

    def _place(self, one: Heard, span: spans.Span) -> list[words.Word]:
        window = one.window
        timed = one.timed or words.spread(one.text, one.logprob, window.speech)
        offset = span.start / RATE
        placed = words.place(timed, window.speech, window.start, window.end)
        return [replace(word, start=word.start + offset, end=word.end + offset) for word in placed]

    def _stage(self, stage: Stage, progress: float, duration: float | None, left: float | None) -> None:
        """`left`: the seconds that the engine still takes; None while that cannot be told."""
        self._send(
            {"type": "stage", "stage": stage, "progress": progress, "duration": duration, "left": left}
        )

    def _warn_of(self, recording: SandboxedRecording) -> None:
        if recording.damaged:
            self._warn(WarningCode.DAMAGED_AUDIO, parts=recording.damaged)
        if recording.missing > max(MISSING_SECONDS, recording.decoded / RATE * MISSING_SHARE):
            self._warn(WarningCode.BREAKS_OFF, reason="missing", seconds=recording.missing)
        elif recording.broken_off is not None:
            self._warn(WarningCode.BREAKS_OFF, reason="unreadable", seconds=recording.broken_off)
        self._warn_of_tracks(recording)

    def _warn_of_tracks(self, recording: SandboxedRecording) -> None:
        if recording.left_out:
            self._warn(WarningCode.TRACKS_LEFT_OUT, left_out=recording.left_out, kept=recording.kept)
        if recording.unreadable:
            self._warn(WarningCode.TRACKS_UNREADABLE, tracks=recording.unreadable)

    def _warn(self, code: WarningCode, **parameters: Any) -> None:
        warning = codes.warning(code, **parameters)
        if (code, warning["message"]) not in self._warned:
            self._warned.add((code, warning["message"]))
            self._send({"type": "warning", **warning})


def _mostly(those: Iterable[bool]) -> bool:
    """Whether more than half of them are."""
    values = list(those)
    return 2 * sum(values) > len(values)


def _peak_memory() -> float:
    """The most memory this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _speakers(request: TranscribeRequest, engine: Engine) -> DiarizationProcess | None:
    options = request.get("options") or {}
    if not options.get("diarize"):
        return None
    path = Path(request["path"])
    return DiarizationProcess(path, options, engine.settings, device=engine.device, threads=engine.threads)


def _asked(request: TranscribeRequest, chosen: Settings) -> Asked:
    options = request.get("options") or {}
    return Asked(
        language=request.get("language") or None,
        task=request.get("task") or "transcribe",
        prompt=options.get("initial_prompt") or None,
        hotwords=options.get("hotwords") or None,
        suppress_numerals=bool(options.get("suppress_numerals")),
        multilingual=bool(options.get("multilingual")),
        timed=options.get("word_timestamps", True) is not False and chosen.align != "off",
    )
