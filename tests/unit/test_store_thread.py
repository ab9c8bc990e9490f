"""The background writer: order, back-pressure, and no error that goes unheard."""

from __future__ import annotations

import threading
import time

import polars as pl
import pytest

from sinks.errors import StoreError
from sinks.writer import StoreThread

FRAME = pl.DataFrame({"x": [1]})


class Recorder:
    """A sink that notes what it is given; `gate` holds it up, `fail_at` makes that write fail."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.seen: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_at, self.error = fail_at, error

    def write(self, table: str, frame: pl.DataFrame) -> None:
        self.gate.wait(10)
        if len(self.seen) == self.fail_at and self.error is not None:
            raise self.error
        self.seen.append(table)

    def close(self) -> None:
        """Nothing to do."""


def test_batches_are_written_in_order_and_flushed() -> None:
    sink = Recorder()
    with StoreThread(sink) as thread:
        for i in range(50):
            thread.submit([(f"{i}.{j}", FRAME) for j in range(3)])
        thread.flush()
        assert sink.seen == [f"{i}.{j}" for i in range(50) for j in range(3)]
        assert thread.busy_s > 0
        assert thread.waiting == 0


def test_a_full_queue_blocks() -> None:
    sink = Recorder()
    sink.gate.clear()
    with StoreThread(sink, depth=2) as thread:
        done: list[int] = []

        def produce() -> None:
            for i in range(6):
                thread.submit([(str(i), FRAME)])
                done.append(i)

        producer = threading.Thread(target=produce)
        producer.start()
        deadline = time.monotonic() + 5
        while len(done) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        # One is being written, two wait, the fourth is not taken.
        assert done == [0, 1, 2]
        sink.gate.set()
        producer.join(10)
        assert len(done) == 6


class Panic(BaseException):
    """As a Polars panic: no Exception."""


@pytest.mark.parametrize("error", [StoreError("disk full"), ValueError("bad frame"), Panic("panicked")])
def test_an_error_is_raised_at_every_later_call(error: BaseException) -> None:
    sink = Recorder(fail_at=2, error=error)
    thread = StoreThread(sink, depth=8)
    sink.gate.clear()
    for i in range(6):
        thread.submit([(str(i), FRAME)])
    sink.gate.set()
    for call in (thread.flush, thread.flush, lambda: thread.submit([("late", FRAME)]), thread.close):
        with pytest.raises(StoreError, match=f"{error}.*3 more batches") as caught:
            call()
        assert caught.value.__cause__ is error
    # Nothing behind the failed batch was written: a later batch would stand without an earlier one.
    assert sink.seen == ["0", "1"]


def test_an_error_of_the_caller_is_not_hidden() -> None:
    def fail() -> None:
        with StoreThread(Recorder(0, ValueError("store"))) as thread:
            thread.submit([("a", FRAME)])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def test_after_close_nothing_is_taken() -> None:
    thread = StoreThread(Recorder())
    thread.close()
    thread.close()
    with pytest.raises(StoreError, match="closed"):
        thread.submit([("a", FRAME)])
    with pytest.raises(ValueError, match="depth is 0"):
        StoreThread(Recorder(), depth=0)
