"""What a live run shows of itself: where `/metrics` finds its numbers, and who hears of the dead man's switch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import polars as pl

from commands.waiting import LONGEST_PAUSE_S
from connectors.http_push import Push
from dashboards.alerts import ENDED, KEEP
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.panels import charted
from dashboards.pulse import Pulse, Stalled
from dashboards.run_metrics import Watched
from dashboards.series import KEPT_MS, MOST
from pipelines.delivery import Durable, Run
from pipelines.readings import NO_READINGS
from sinks.clickhouse import ClickHouseSink
from sinks.errors import StoreError
from sinks.surroundings import disk_room
from sinks.writer import StoreThread


def watched(
    run: Run,
    durable: Durable,
    sink: ClickHouseSink,
    store: StoreThread,
    board: Board,
    metrics: Metrics,
    push: Push | None,
) -> Pulse:
    """Lets page and metrics see how the run goes on; returns the pulse of its loop and its writer."""

    def trouble() -> str:
        found = sink.retry.trouble
        return "" if found is None else f"the store does not take what it is sent: {found.why}"

    pulse = board.pulse = Pulse(unfinished=lambda: store.unfinished, trouble=trouble)
    path = sink.address.path
    metrics.watched = Watched(
        pulse,
        sink.retry,
        checkpoint_bytes=lambda: durable.journal.size,
        late_unapplied=lambda: run.counts.late_unapplied,
        waiting=lambda: store.waiting,
        free_bytes=None if path is None else lambda: disk_room(path).free_bytes,
        spools=tuple if push is None else push.spools,
        refused=dict if push is None else lambda: push.refused,
    )

    def durable_now(step: int, seconds: float) -> None:
        pulse.durable(step)
        metrics.checkpoint(seconds)

    durable.journal.told = durable_now
    return pulse


def told(board: Board, stalled: Stalled | None) -> None:
    """Progress stopped, or goes on: for the pages at once, and for whoever reads the terminal."""
    board.announce()
    print(
        "citybrain: the run makes progress again" if stalled is None else f"citybrain: warning: {stalled.text}",
        file=sys.stderr,
        flush=True,
    )


class Before:
    """What an earlier run stored, on the page until this run knows better; its age shows that it is old.

    Looking it up takes the longer the more is stored, so a thread of its own does, again and again while the store is away;
    the board keeps what is newer. What lies after `now`, of a run that was started at a later time, would never be overtaken
    and is left out.
    """

    def __init__(self, sink: ClickHouseSink, board: Board, clock: Callable[[], int], now: int) -> None:
        self._sink, self._board, self._clock, self._now = sink, board, clock, now
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._show, name="before", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """To be called before the sink is closed."""
        self._closed.set()
        self._thread.join()

    def _lines(self) -> pl.DataFrame:
        """The day before now, of the indicators that screens draw."""
        return self._sink.newest_readings(
            indicator=sorted(charted()),
            place_kind="city",
            from_ms=self._now - KEPT_MS,
            until_ms=self._now + 1,
            last=MOST,
        ).cast(NO_READINGS.schema)

    def _show(self) -> None:
        warned = False
        while not self._closed.is_set():
            try:
                ended = self._sink.episodes(state=ENDED, until_ms=self._now + 1, last=KEEP)
                self._board.remember(ended.filter(pl.col("ended_at").fill_null(self._now) <= self._now))
                stored = self._sink.latest_cells()
                self._board.draw(self._lines())
            except StoreError as error:
                text = f"what earlier runs stored cannot be shown: {error}"
                if "ended" in self._board.unread:
                    self._board.unread["ended"] = text
                if not warned:
                    print(f"citybrain: warning: {text}", file=sys.stderr, flush=True)
                warned = True
                self._closed.wait(LONGEST_PAUSE_S)
                continue
            stored = stored.filter(pl.col("window_end") <= self._now).cast(NO_READINGS.schema)
            self._board.update(stored, None, (), None, {}, self._clock())
            return
