"""Sends errors of the program to Sentry, if `STT_SENTRY_DSN` is set: where they happened, and no data.

An event is what is logged with level ERROR or above. It is made anew of the few parts that are named here, so
that nothing else leaves the process: no values, requests, breadcrumbs, texts or file names.
"""
# sentry-sdk is imported only with a DSN.
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from stt import __version__, logs
from stt.codes import CodedError
from stt.settings import Settings

if TYPE_CHECKING:
    from sentry_sdk.transport import Transport
    from sentry_sdk.types import Event, Hint

_KEPT = (
    "event_id", "timestamp", "platform", "level", "logger", "release", "environment", "sdk", "server_name",
)  # fmt: skip
_OF_FRAME = (
    "filename",
    "function",
    "module",
    "lineno",
    "in_app",
    "pre_context",
    "context_line",
    "post_context",
)
_TAGS = ("role", "job_id", "request_id")


def setup(
    settings: Settings,
    role: str,
    *,
    outages: tuple[type[BaseException], ...] = (),
    transport: type[Transport] | None = None,
) -> None:
    """Send what is logged as an error from now on; nothing where the settings have no DSN.

    Args:
        settings: Have the DSN.
        role: The tag `role`.
        outages: Exceptions that are no errors of the program: a server that it needs is away.
        transport: Takes the events instead of Sentry, in tests.
    """
    if not settings.sentry_dsn:
        return
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration

    def before_send(event: Event, hint: Hint) -> Event | None:
        return _reduced(event, hint, role, outages)

    sentry_sdk.init(
        dsn=settings.sentry_dsn,
        release=f"stt@{__version__}",
        transport=transport,
        before_send=before_send,
        # Uncaught exceptions, of tasks and threads too, are logged, so no other integration is needed. That
        # of aiohttp would add the request.
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            LoggingIntegration(level=None, event_level=logging.ERROR, sentry_logs_level=None),
            DedupeIntegration(),
            AtexitIntegration(callback=lambda _pending, _timeout: None),  # it prints nothing
        ],
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        send_client_reports=False,
        traces_sample_rate=None,
    )


def _reduced(event: Event, hint: Hint, role: str, outages: tuple[type[BaseException], ...]) -> Event | None:
    """The event with its known parts alone; None if it is of a child, or no error of the program."""
    record, exc_info = hint.get("log_record"), hint.get("exc_info")
    keys = record.msg if record is not None and isinstance(record.msg, dict) else {}
    error = exc_info[1] if exc_info else None
    if keys.get("role", role) != role:  # a line of a child, which reports by itself
        return None
    if isinstance(error, outages):
        return None
    whole: dict[str, Any] = {**event}
    kept = {name: whole[name] for name in _KEPT if name in whole}
    # Libraries write data into their messages; ours are constant.
    kept["logentry"] = {"message": keys.get("event") or "an error of a library"}
    known = {**logs.context(), **keys, "role": role}
    kept["tags"] = {name: str(known[name]) for name in _TAGS if name in known}
    if error is not None and "exception" in whole:
        chain = {type(one).__name__: one for one in _chain(error)}
        kept["exception"] = {"values": [_exception(one, chain) for one in whole["exception"]["values"]]}
    return cast("Event", kept)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those before it and inside it."""
    seen, waiting = set(), [error]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            inner = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            waiting += [other for other in (one.__cause__, one.__context__, *inner) if other is not None]


def _exception(value: dict[str, Any], chain: dict[str, BaseException]) -> dict[str, Any]:
    frames = (value.get("stacktrace") or {}).get("frames", [])
    return {
        "type": value.get("type"),
        "module": value.get("module"),
        "value": _said(chain.get(str(value.get("type")))),
        "stacktrace": {"frames": [{key: one[key] for key in _OF_FRAME if key in one} for one in frames]},
    }


def _said(error: BaseException | None) -> str:
    """What may be sent of a message: the operating system's words, or our code. Any other may quote data."""
    if isinstance(error, CodedError):
        return str(error.code)
    return str(error.strerror or "") if isinstance(error, OSError) else ""
