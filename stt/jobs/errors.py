"""The errors of the job functions. `stt.web.problems` maps them to HTTP answers."""

from __future__ import annotations


class JobNotFound(Exception):
    """The owner has no such job."""


class JobEnded(Exception):
    """The job has ended, so it cannot be cancelled; `status` says how it ended."""

    def __init__(self, status: str) -> None:
        super().__init__(f"the job is {status}")
        self.status = status


class JobNotEnded(Exception):
    """The job waits or runs, so it cannot be restarted; `status` says which."""

    def __init__(self, status: str) -> None:
        super().__init__(f"the job is {status}")
        self.status = status


class OptionError(Exception):
    """An option field is unknown or has a bad value.

    Attributes:
        field: Name of the field.
        message: What is wrong with it, without the name of the field.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message
