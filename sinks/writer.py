"""One thread that writes, a bounded queue before it: reading and computing go on while the store works."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import polars as pl

from pipelines.failpoints import reached
from pipelines.model import Sink
from sinks.errors import StoreError, StoreGivenUp
from sinks.failures import disk_full, explained
from sinks.retry import Retry

Batch = Sequence[tuple[str, pl.DataFrame]]
"""Frames of one step, written in this order."""
Action = Callable[[], None]
ACTIONS: Final = 4
"""So many batches and actions may wait for each batch that may."""
ROWS: Final = 1_000_000
"""More rows than this do not wait: a step of a million places is some hundred MB."""


class StoreThread:
    """Writes batches in the order of `submit`, on one thread.

    `submit` blocks while `depth` batches wait, and until at most `ROWS` rows are not written yet (back-pressure). The
    first error, of whatever kind, ends the writing: the batch that failed and those after it are not acknowledged, and
    the next `submit`, `flush` or `close` raises it, every time. What `flush` returned from is durable. `busy_s` is the
    time spent in the sink so far.

    An action that fails for want of room (disk, handles) is done again as `retry` says (default: for 10 s), so it has to
    leave nothing half done. A sink sends its frames again by itself.
    """

    def __init__(self, sink: Sink, depth: int = 2, retry: Retry | None = None) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; a queue holds at least one batch")
        self._sink, self._retry = sink, retry or Retry()
        self._queue: queue.Queue[Batch | Action | None] = queue.Queue(ACTIONS * depth)
        self._room = threading.Semaphore(depth)
        self._error: BaseException | None = None
        self._lost = 0
        self._rows = 0
        self._written = threading.Condition()
        self._closed = False
        self.busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Batches and actions that were handed over and not begun."""
        return self._queue.qsize()

    @property
    def unfinished(self) -> int:
        """Those, and the one that is being done."""
        return self._queue.unfinished_tasks

    def submit(self, batch: Batch) -> None:
        """Hands a batch over; raises StoreError when an earlier one failed or the thread was closed."""
        self._check()
        if self._closed:
            raise StoreError("the store's writer was closed; nothing more is written")
        rows = sum(len(frame) for _, frame in batch)
        with self._written:
            self._rows += rows
        self._room.acquire()
        self._queue.put(batch)
        with self._written:
            self._written.wait_for(lambda: self._rows <= ROWS)

    def call(self, action: Action) -> None:
        """Hands over what is to be done once everything submitted before is durable; what is submitted after it waits.
        Raises StoreError as `submit` does; an error of the action that does not pass ends the writing as well."""
        self._check()
        if self._closed:
            raise StoreError("the store's writer was closed; nothing more is done")
        self._queue.put(action)

    def flush(self) -> None:
        """Waits until everything submitted is durable; raises StoreError when it is not."""
        self._queue.join()
        self._check()

    def close(self) -> None:
        """Writes what is left, ends the thread (not the sink), and raises what `flush` would."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
        self._check()

    def __enter__(self) -> StoreThread:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except StoreError:
            # An error that is already on its way tells more than that the store failed as well.
            if kind is None:
                raise

    def _check(self) -> None:
        if self._error is not None:
            more = f"; {self._lost} more batches after it were not written" if self._lost else ""
            text = f"writing to the store failed: {self._error}"
            if disk_full(self._error) and not isinstance(self._error, StoreGivenUp):
                text = str(explained(self._error, "its folder", "writing")) + " and type the same command again"
            raise StoreError(text + more) from self._error

    def _write(self, batch: Batch) -> None:
        reached("store_begun")
        for n, (table, frame) in enumerate(batch):
            if n:
                reached("store_between")
            self._sink.write(table, frame)
        reached("store_written")

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            started = time.perf_counter()
            if not callable(batch):
                self._room.release()
            try:
                if self._error is not None:
                    self._lost += 1
                    continue
                if callable(batch):
                    self._retry.until_done(batch)
                else:
                    self._write(batch)
            except BaseException as error:
                # Polars panics are no Exceptions; whatever it is, the caller has to hear of it.
                self._error = error
            finally:
                self.busy_s += time.perf_counter() - started
                with self._written:
                    self._rows -= 0 if callable(batch) else sum(len(frame) for _, frame in batch)
                    self._written.notify_all()
                del batch
                self._queue.task_done()
        self._queue.task_done()
