"""The background writer: order, back-pressure, and no error that goes unheard."""

from __future__ import annotations

import errno
import threading
import time

import polars as pl
import pytest

from commands.waiting import Waiting
from dashboards.board import Board
from sinks.errors import StoreError
from sinks.retry import Retry, Trouble
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


class Full:
    """An action that finds no room so many times."""

    def __init__(self, times: int, number: int = errno.ENOSPC) -> None:
        self.left, self.number, self.done = times, number, 0

    def __call__(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise OSError(self.number, "no room", "/data/plans-3")
        self.done += 1


def test_an_action_that_finds_no_room_is_done_again() -> None:
    told: list[Trouble | None] = []
    sink, action, last = Recorder(), Full(3), Full(1, errno.EDQUOT)
    with StoreThread(sink, retry=Retry(None, first_pause_s=0.001, told=told.append)) as thread:
        thread.call(action)
        thread.submit([("after", FRAME)])
        thread.call(last)
        thread.flush()
    assert action.done == last.done == 1 and sink.seen == ["after"]
    assert [t and (t.disk_full, t.tries) for t in told] == [(True, 1), (True, 2), (True, 3), None, (True, 1), None]


def test_patience_ends_with_what_to_do() -> None:
    sink = Recorder()
    thread = StoreThread(sink, retry=Retry(0.01, first_pause_s=0.01))
    thread.call(Full(100))
    thread.submit([("never", FRAME)])
    said = "the disk is full: .*plans-3.*free some space and type the same command again; 1 more batches after it"
    for _ in range(2):
        with pytest.raises(StoreError, match=said):
            thread.flush()
    assert sink.seen == []


def test_an_action_that_fails_otherwise_is_not_done_again() -> None:
    action = Full(1, errno.EIO)
    thread = StoreThread(Recorder(), retry=Retry(None, first_pause_s=0.001))
    thread.call(action)
    with pytest.raises(StoreError, match=r"writing to the store failed: \[Errno 5\]"):
        thread.close()
    assert action.done == 0


def test_the_end_of_the_run_ends_the_waiting() -> None:
    stop = threading.Event()
    thread = StoreThread(Recorder(), retry=Retry(None, first_pause_s=60, stop=stop))
    thread.call(Full(100))
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoreError, match="the run ended while the store could not be written to"):
        thread.close()
    assert time.monotonic() - began < 5


def test_what_a_live_run_says_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = Waiting()
    waiting.board = board = Board("e", lambda: 0)
    for tries in (1, 2, 3):
        waiting(Trouble(0, "the disk is full: x", tries, True))
        assert "store has failed: the disk is full: x; free some space" in board.not_ready()[0]
    waiting(None)
    assert not any("store" in reason for reason in board.not_ready())
    waiting(Trouble(0, "no server", 1))
    board.hold("catching up")
    assert board.not_ready()[0].startswith("store has failed: no server") and board.not_ready()[1] == "catching up"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "takes nothing" in said[0] and "again, after" in said[1]
