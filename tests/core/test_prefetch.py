"""Background work keeps its order, brings its errors, stops when asked, and stays one item ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from moediff.core.prefetch import prefetch


def test_order_is_kept_and_the_end_arrives() -> None:
    assert list(prefetch(range(100))) == list(range(100))
    assert list(prefetch([])) == []


def test_an_error_arrives_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    stream = prefetch(broken())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="disk is gone"):
        next(stream)
    assert not any(thread.name == "ahead" for thread in threading.enumerate())


def test_one_item_waits_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    stream = prefetch(items())
    assert next(stream) == 0
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1]
    stream.close()
    assert made == [0, 1]
    assert not any(thread.name == "ahead" for thread in threading.enumerate())
