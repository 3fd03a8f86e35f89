"""Draws docs/job_way.svg, the way of a job through the modules: ``python docs/job_way.py``.

`STEPS` is the picture. tests/unit/test_job_way.py checks each step against the code's imports and messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_suffix(".svg")
WEB, VALKEY, WORKER, ENGINE, SANDBOX = "web app", "Valkey", "worker", "engine", "process with limits"
PLACES = (WEB, VALKEY, WORKER, ENGINE, SANDBOX)


@dataclass(frozen=True)
class Step:
    """Control or data goes from one module to another.

    Without `message` and `starts`, the source imports the target.
    `message`: what goes between two processes, as module:name of its declaration, which both of them import.
    `starts`: the module that one of the two runs as a process of its own (``python -m``).
    """

    text: str
    source: str
    target: str
    source_place: str
    target_place: str
    message: str = ""
    starts: str = ""


def _within(place: str, text: str, source: str, target: str) -> Step:
    return Step(text, source, target, place, place)


STEPS = (
    _within(WEB, "An upload arrives.", "stt.web.app", "stt.web.upload"),
    _within(WEB, "Its bytes are stored.", "stt.web.upload", "stt.storage"),
    _within(WEB, "The recording is accepted.", "stt.web.upload", "stt.jobs.actions"),
    _within(WEB, "It is probed: sound or video?", "stt.jobs.actions", "stt.media.probe"),
    Step(
        "A process with limits reads it.", "stt.media.probe", "stt.media.probe_child", WEB, SANDBOX,
        starts="stt.media.probe_child",
    ),
    _within(WEB, "The job becomes a row.", "stt.jobs.actions", "stt.jobs.lifecycle"),
    _within(WEB, "It is written to PostgreSQL.", "stt.jobs.lifecycle", "stt.db"),
    _within(WEB, "A ticket says that a job is due.", "stt.jobs.actions", "stt.jobs.tickets"),
    Step(
        "A worker takes the ticket.", "stt.jobs.tickets", "workers.transcriber", WEB, WORKER,
        message="stt.jobs.tickets:TRANSCRIBE_QUEUE",
    ),
    _within(WORKER, "An attempt begins.", "workers.transcriber", "workers.attempt"),
    _within(WORKER, "It claims the best row, with a lease.", "workers.attempt", "stt.jobs.lifecycle"),
    _within(WORKER, "It has the recording recognised.", "workers.attempt", "workers.recognition"),
    _within(WORKER, "A request is sent to the engine.", "workers.recognition", "workers.engine.handle"),
    Step(
        "The request goes through a socket.", "workers.engine.handle", "workers.engine.channel", WORKER, ENGINE,
        message="workers.engine.protocol:TranscribeRequest",
    ),
    _within(ENGINE, "The recording is transcribed.", "workers.engine.channel", "workers.engine.transcription"),
    _within(ENGINE, "It is decoded in a process with limits.", "workers.engine.transcription", "workers.audio.handle"),
    Step(
        "Its requests go through a pipe.", "workers.audio.handle", "workers.audio.__main__", ENGINE, SANDBOX,
        message="workers.audio.protocol:DecodeRequest",
    ),
    _within(SANDBOX, "The file is decoded.", "workers.audio.__main__", "workers.audio.decode"),
    Step(
        "Samples come back.", "workers.audio.__main__", "workers.audio.handle", SANDBOX, ENGINE,
        message="workers.audio.protocol:BlockHeader",
    ),
    _within(ENGINE, "Speech is found, spans are cut.", "workers.engine.transcription", "workers.audio.spans"),
    _within(ENGINE, "Speech is packed into windows.", "workers.engine.transcription", "workers.engine.windows"),
    _within(ENGINE, "Windows are recognised.", "workers.engine.transcription", "workers.engine.span_recognition"),
    _within(ENGINE, "Words get their times.", "workers.engine.span_recognition", "workers.engine.word_times"),
    _within(ENGINE, "Words become segments.", "workers.engine.span_recognition", "workers.engine.words"),
    Step(
        "A span is finished.", "workers.engine.transcription", "workers.recognition", ENGINE, WORKER,
        message="workers.engine.protocol:SpanEvent",
    ),
    _within(WORKER, "The span is stored.", "workers.recognition", "stt.jobs.results"),
    Step(
        "Its segments are published.", "workers.recognition", "stt.jobs.feed", WORKER, WEB,
        message="stt.jobs.messages:SegmentsMessage",
    ),
    _within(WEB, "Server-sent events: JSON …", "stt.web.api.events", "stt.jobs.feed"),
    _within(WEB, "… and pieces of the page.", "stt.web.pages.recording", "stt.jobs.feed"),
    _within(WORKER, "After the last span: row and transcript.", "workers.attempt", "stt.jobs.lifecycle"),
    Step(
        "The end is published.", "workers.attempt", "stt.jobs.feed", WORKER, WEB,
        message="stt.jobs.messages:StateMessage",
    ),
    _within(WEB, "A download reads the transcript …", "stt.web.api.download", "stt.jobs.results"),
    _within(WEB, "… and writes the format.", "stt.web.api.download", "stt.transcript.formats"),
)  # fmt: skip

_TEXT, _COLUMN, _ROW, _TOP = 290, 220, 40, 50  # pixels
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.m{font:12px ui-monospace,monospace}"
    ".h{font-weight:600;text-anchor:middle}.t{font-size:11px;fill:#666;text-anchor:middle}"
    "line,path{stroke:#36c;stroke-width:1.5;fill:none}"
)


def draw() -> str:
    """The picture, as SVG: a row for each step, a column for each process."""
    width, height = _TEXT + _COLUMN * len(PLACES), _TOP + _ROW * len(STEPS) + 10
    columns = [_column(number, place, height) for number, place in enumerate(PLACES)]
    rows = [_row(number, step) for number, step in enumerate(STEPS)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            "<title>The way of a job through the modules</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
            '<path d="M1 1 7 4 1 7"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *columns,
            *rows,
            "</svg>\n",
        ]
    )


def _left(place: str) -> int:
    return _TEXT + _COLUMN * PLACES.index(place)


def _column(number: int, place: str, height: int) -> str:
    fill = "#f6f7f9" if number % 2 == 0 else "#fff"
    return (
        f'<rect x="{_left(place)}" width="{_COLUMN}" height="{height}" fill="{fill}"/>'
        f'<text class="h" x="{_left(place) + _COLUMN // 2}" y="26">{place}</text>'
    )


def _row(number: int, step: Step) -> str:
    y = _TOP + _ROW * number
    parts = [f'<text x="10" y="{y + 20}">{number + 1}. {escape(step.text)}</text>']
    parts += _inside(step, y) if step.source_place == step.target_place else _across(step, y)
    return "".join(parts)


def _inside(step: Step, y: int) -> list[str]:
    left = _left(step.source_place) + 10
    return [
        _module(left, y + 14, step.source),
        f'<path d="M{left + 5} {y + 19}V{y + 27}H{left + 18}" marker-end="url(#a)"/>',
        _module(left + 22, y + 31, step.target),
    ]


def _across(step: Step, y: int) -> list[str]:
    """The source's name above the arrow, the target's below its head."""
    forward = PLACES.index(step.source_place) < PLACES.index(step.target_place)
    start = _left(step.source_place) + (_COLUMN - 30 if forward else 30)
    end = _left(step.target_place) + (12 if forward else _COLUMN - 12)
    parts = [
        _module(_left(step.source_place) + 10, y + 14, step.source),
        f'<line x1="{start}" y1="{y + 20}" x2="{end}" y2="{y + 20}" marker-end="url(#a)"/>',
        _module(_left(step.target_place) + 10, y + 33, step.target),
    ]
    if {step.source_place, step.target_place} == {WEB, WORKER}:
        name = step.message.partition(":")[2]
        parts.append(f'<text class="t" x="{_left(VALKEY) + _COLUMN // 2}" y="{y + 15}">{name}</text>')
    return parts


def _module(x: int, y: int, name: str) -> str:
    return f'<text class="m" x="{x}" y="{y}">{name}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
