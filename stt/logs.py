"""Logging of every role: one line an event, to standard error, with the job's id where given."""

from __future__ import annotations

import logging
import sys
import time

from stt.settings import Settings

NOISY = ("arq", "asyncio", "aiohttp.access", "urllib3", "httpx", "httpcore", "filelock")


class LineFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO stt.jobs.lifecycle [3f2a…] text``: `extra={"job": id}` adds the id."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(where)s%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        job = getattr(record, "job", None)
        record.where = f"[{job}] " if job else ""
        return super().formatMessage(record)


def setup(settings: Settings) -> None:
    """Log to standard error from `settings.log_level` on; chatty libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    if settings.log_level != "DEBUG":
        for name in NOISY:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
