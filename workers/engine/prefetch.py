"""Runs an iterator ahead in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

STOP_SECONDS = 0.2  # how soon a reader notices that nobody wants its spans any more
T = TypeVar("T")


def _ahead(made: Iterator[T]) -> Iterator[T]:
    """What `made` makes, in a thread of its own that is one piece ahead; its error is raised here."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(1)
    stop = threading.Event()

    def put(piece: T | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(piece, timeout=STOP_SECONDS)
                return

    def make() -> None:
        try:
            for piece in made:
                put(piece)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  it is raised in the other thread
            put(error)

    maker = threading.Thread(target=make, name="ahead", daemon=True)
    maker.start()
    try:
        while (piece := ready.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()
        maker.join()  # it reads the file, which may then be closed
