"""Work done in the background, in order, its errors arriving where its results are taken."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, the next one being made while one is in use.

    At most one item waits besides the one in use. An error in `items` is raised here, in its place.
    When the consumer stops early, so does the background work, after the item that it is at.
    """
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    asked = threading.Semaphore(1)
    stopped = threading.Event()

    def work() -> None:
        try:
            source = iter(items)
            while True:
                asked.acquire()
                if stopped.is_set():
                    return
                made.put((next(source, _END), None))
        except BaseException as error:  # whatever it is, it belongs to the consumer
            made.put((_END, error))

    thread = threading.Thread(target=work, daemon=True, name="ahead")
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            asked.release()
            yield item
    finally:
        stopped.set()
        asked.release()
        thread.join()
