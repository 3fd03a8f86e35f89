"""Runs an iterator in a thread of its own, one item ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

STOP_SECONDS = 0.2  # how soon the thread notices that its consumer has stopped
T = TypeVar("T")


def prefetch(source: Iterator[T]) -> Iterator[T]:
    """The items of `source`, produced in a thread that is one item ahead.

    An error of `source` is raised here. The thread has ended when this iterator is exhausted or closed.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(1)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=STOP_SECONDS)
                return

    def produce() -> None:
        try:
            for item in source:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  it is raised in the other thread
            put(error)

    producer = threading.Thread(target=produce, name="prefetch", daemon=True)
    producer.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        producer.join()  # it reads the recording, which the caller closes next
