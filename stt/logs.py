"""Logging of every role by structlog: one event a line, to standard error, as JSON or for people.

A call gives a constant text and values as keys: ``log.info("engine started", pid=12)``. Each line also has
the keys that `structlog.contextvars` binds, and those of the process (`bind_process`). What libraries write
by `logging` gets the same form.
"""
# structlog is imported when logging is set up: it takes 0.1 s, and `stt --help` needs none of it.
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stt import tracebacks
from stt.settings import Settings

if TYPE_CHECKING:
    from structlog.typing import EventDict

NOISY = ("arq", "asyncio", "aiohttp.access", "urllib3", "httpx", "httpcore", "filelock")

_OF_JOBS = ("request_id", "job_id", "owner", "attempt")
# Keys of every line of this process. Threads do not inherit what `structlog.contextvars` binds.
_process: dict[str, Any] = {}


def setup(settings: Settings, role: str, *, as_json: bool | None = None) -> None:
    """Log to standard error from `settings.log_level` on; chatty libraries from WARNING on.

    Args:
        settings: Level and format.
        role: The key `role` of every line: `web`, `worker`, `engine`, …
        as_json: Whether each line is a JSON object; None: as the settings say.
    """
    if as_json is None:
        as_json = settings.log_format == "json"
    bind_process(role=role)
    configure()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(as_json=as_json))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    if settings.log_level != "DEBUG":
        for name in NOISY:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def configure() -> None:
    """Have structlog hand its events to `logging`, whose handlers format them."""
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _hand_over,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def bind_process(**keys: Any) -> None:
    """Give every line of this process, from all of its threads, these keys; None removes one."""
    for name, value in keys.items():
        if value is None:
            _process.pop(name, None)
        else:
            _process[name] = value


def job_keys() -> dict[str, Any]:
    """The keys of the context that are of a job, for a child process that works on it."""
    return {name: value for name, value in context().items() if name in _OF_JOBS}


def context() -> dict[str, Any]:
    """The keys that a line would have here: those of the process, and those that are bound."""
    import structlog

    return {**_process, **structlog.contextvars.get_contextvars()}


def formatter(*, as_json: bool) -> logging.Formatter:
    """What makes lines of records, those of structlog and those of libraries."""
    import structlog

    renderer: Any = structlog.processors.JSONRenderer(default=str)
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            pad_level=False,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars],
        processors=[_complete, renderer],
        keep_exc_info=True,  # `_complete` takes it
    )


def _hand_over(logger: Any, method: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    """The arguments of a method of `logging.Logger`.

    As `ProcessorFormatter.wrap_for_formatter`, but handlers other than the formatter's see the exception too.
    """
    exc_info = event.pop("exc_info", None)
    return (event,), {"exc_info": exc_info, "extra": {"_logger": logger, "_name": method}}


def _complete(_: Any, __: str, event: EventDict) -> EventDict:
    """The event with time, level, logger, and its traceback as text."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    event.pop("exc_info", None)
    error = record.exc_info[1] if record.exc_info else None
    record.exc_info = record.exc_text = None  # else `logging` would write it behind the line
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line = {
        "timestamp": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": event.pop("event"),
        "logger": record.name,
        **_process,
        **event,
    }
    if error is not None:
        line["exception"] = tracebacks.text(error)
    return line


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).critical("the program failed", exc_info=error)


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    logging.getLogger(__name__).critical("a thread failed", exc_info=arguments.exc_value)
