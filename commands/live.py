"""The loop of `citybrain up`: beats on a grid of the run's clock, a step after those that are due, and what is around it:
what was pushed, what the API reads, what `/metrics` counts."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from commands.clocks import RunClock
from connectors.http_push import Push
from connectors.tokens import Tokens
from dashboards.board import Board, StreamHealth
from dashboards.metrics import Metrics
from pipelines.brain import Step
from pipelines.delivery import Batch, Run
from pipelines.episodes import EpisodeBook
from pipelines.journal import CheckpointError
from pipelines.model import EPISODES_SCHEMA, NEVER
from pipelines.spool_source import SpoolSource
from pipelines.streams import HOUR_MS, MINUTE_MS, Stream
from sinks.clickhouse import ClickHouseSink
from sinks.writer import StoreThread

CATCH_UP_MS = HOUR_MS
"""The simulated time before now that a first start replays."""
MOST_CAUGHT_UP_MS = 24 * HOUR_MS
"""A run that was off for longer leaves out what the simulated city sent meanwhile, but for the last hour."""
CATCH_UP_STEP_MS = 10 * MINUTE_MS
STEP_S = 0.6  # so that an event is on the screen within a second


@dataclass(frozen=True, slots=True)
class Options:
    city: str
    speed: float
    seed: int
    host: str
    port: int
    data: Path | None
    store: str | None
    """The address of a server's database; None: the embedded store in `data`."""
    start: int | None
    until: int | None
    started: float
    """`time.monotonic()` of the process's start."""


class Kept:
    """The store's writer with a count of what it took, for `/metrics`."""

    def __init__(self, store: StoreThread, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics

    def submit(self, batch: Batch) -> None:
        self._store.submit(batch)
        for table, frame in batch:
            self._metrics.stored(table, len(frame))

    def call(self, action: Callable[[], None]) -> None:
        self._store.call(action)

    def flush(self) -> None:
        self._store.flush()


class History:
    """What the API reads of the store (`dashboards.reader.Reader`)."""

    def __init__(self, sink: ClickHouseSink) -> None:
        self._sink = sink

    def history(self, indicator: str, place_kind: str, place: str, since: int, until: int, limit: int) -> pl.DataFrame:
        found = self._sink.newest_readings(
            indicator=indicator, place_kind=place_kind, place=place, from_ms=since + 1, until_ms=until + 1, last=limit
        )
        return found.sort("window_end")

    def episode(self, episode_id: str) -> pl.DataFrame:
        return self._sink.episodes(episode_id=episode_id)

    def transitions(self, episode_id: str, limit: int) -> pl.DataFrame:
        return self._sink.transitions(episode_id=episode_id).head(limit)


class Pushed:
    """What is pushed over HTTP as inputs of the run: those of earlier starts, and new ones as they come."""

    def __init__(self, spools: Path, tokens: Tokens, streams: dict[str, Stream], clock: Callable[[], int]) -> None:
        self.push = Push(spools, streams, tokens, clock)
        for name, _, spool in self.push.inputs():
            if spool.recovered is not None:
                print(f"citybrain: warning: {name}: {spool.recovered}", file=sys.stderr, flush=True)

    def opened(self, name: str, stream: str) -> SpoolSource:
        """The source of an input that the checkpoint knows."""
        for known, of, spool in self.push.inputs():
            if (known, of) == (name, stream):
                return SpoolSource(spool)
        raise CheckpointError(
            f"the checkpoint goes on with input {name!r} of stream {stream!r}, whose spool is not below {self.push.folder}; put "
            "it back from a backup (citybrain restore)"
        )

    def joining(self, run: Run) -> list[SpoolSource]:
        """Sources of the inputs that the run does not know yet."""
        known = run.intake.positions
        return [SpoolSource(spool) for name, _, spool in self.push.inputs() if name not in known]


@dataclass(frozen=True, slots=True)
class Around:
    """A run, and what a loop needs beside it. `between` is called between two steps by the thread that writes."""

    run: Run
    board: Board
    metrics: Metrics
    clock: RunClock
    stop: threading.Event
    between: Callable[[], None]


class Live:
    """The loop: beats on a grid of the run's clock, a step after those that are due, and what is provisional.

    A beat takes in what has come and ticks. The grid depends on the options alone, so that a run that was killed stamps
    every event as one that was not.
    """

    def __init__(
        self,
        options: Options,
        run: Run,
        board: Board,
        metrics: Metrics,
        clock: RunClock,
        stop: threading.Event,
        pushed: Pushed | None = None,
        between: Callable[[], None] | None = None,
    ) -> None:
        """`between` is called between two steps by the thread that writes."""
        self.options, self.board, self.metrics, self.clock, self.stop = options, board, metrics, clock, stop
        self.pushed, self.between = pushed, between
        self.run = run
        run.publish = self.publish
        self.beat_ms = max(1, int(STEP_S * 1000 * options.speed))
        self.first = True

    def publish(self, step: Step) -> None:
        """Called by the thread that writes."""
        self.board.update(step.readings, None, step.transitions, step.episodes, self.health(), self.clock())

    def health(self) -> dict[str, StreamHealth]:
        return {
            name: StreamHealth(
                watermark=s.watermark,
                last_event_at=None if s.last_event == NEVER else s.last_event,
                **s.counters,  # type: ignore[typeddict-item]
            )
            for name, s in self.run.streams.items()
        }

    def go(self, now: int, wall: Callable[[], int] | None = None) -> None:
        """`now`: the instant up to which the past is caught up; `wall`: the clock that the run is to keep up with."""
        self.resume()
        if wall is not None and now - self.run.intake.now.at > MOST_CAUGHT_UP_MS:
            skipped = now - CATCH_UP_MS
            print(
                f"citybrain: warning: off since {iso(self.run.intake.now.at)}; what the city sent until {iso(skipped)} is "
                f"skipped: at most {MOST_CAUGHT_UP_MS // HOUR_MS} h are caught up",
                file=sys.stderr,
                flush=True,
            )
            self.run.intake.skip(skipped)
        self.catch_up(now)
        if wall is not None and self.options.until is None:
            # Meanwhile time went on: twice more, and what is left is a second or two.
            for _ in range(2):
                self.catch_up(wall())
            self.clock.set(max(self.run.intake.now.at, wall()))
        else:
            self.clock.set(self.run.intake.now.at)
        if self.stop.is_set():
            return
        self.board.release()
        self.clock.go()
        while not self.stop.is_set():
            self.alive()
            now = self.clock()
            if wall is not None and now - self.run.intake.now.at > MINUTE_MS:  # a sleeping machine
                self.catch_up(now)
            due = self.run.intake.now.at + self.beat_ms
            if due <= now or self.ends(now):
                began = time.monotonic()
                while due <= now:
                    self.beat(due)
                    due += self.beat_ms
                if self.ends(now):
                    self.beat(now)
                self.step()
                self.metrics.step(time.monotonic() - began)
                if self.ends(now):
                    return
            self.stop.wait(max(0.005, (due - self.clock()) / 1000 / self.options.speed))

    def resume(self) -> None:
        """Shows the open episodes of the checkpoint, and does again what was begun after it."""
        self.board.update(None, None, (), open_frame(self.run.brain.episodes), self.health(), self.clock())
        self.board.unread.pop("open", None)
        began, at = time.monotonic(), self.run.intake.now.at
        again = self.run.resume()
        if self.run.counts.steps:
            print(
                f"citybrain: goes on from {iso(at)} ({again} steps done again, {time.monotonic() - began:.1f} s)",
                file=sys.stderr,
                flush=True,
            )

    def ends(self, now: int) -> bool:
        return self.options.until is not None and now >= self.options.until

    def alive(self) -> None:
        """For the dead man's switch: the loop goes on."""
        if self.board.pulse is not None:
            self.board.pulse.beat()

    def beat(self, at: int) -> None:
        self.alive()
        for source in self.pushed.joining(self.run) if self.pushed is not None else ():
            self.run.intake.attach(source, at)
        self.run.poll(at)
        self.run.tick(at)

    def catch_up(self, now: int) -> None:
        """The time before now: each stream's events as they arrived, a beat a minute. The first stride is short, so that
        the first provisional numbers show at once."""
        stride = MINUTE_MS
        while (at := self.run.intake.now.at) < now:
            stride_end = min(at + stride, now)
            while at < stride_end:
                at = min(at + MINUTE_MS, stride_end)
                self.clock.set(at)
                self.beat(at)
                if self.stop.is_set():
                    break
            self.step()
            if self.stop.is_set():
                return
            stride = min(2 * stride, CATCH_UP_STEP_MS)

    def step(self) -> None:
        self.run.step(self.clock())
        if self.between is not None:
            self.run.store.call(self.between)
        self.look_ahead()

    def look_ahead(self) -> None:
        """Shows what is not final yet."""
        provisional = self.run.provisional()
        if self.first and len(provisional):
            self.first = False
            took = time.monotonic() - self.options.started
            print(f"citybrain: first number {took:.1f} s after the start", file=sys.stderr, flush=True)
        self.board.update(None, provisional, (), None, self.health(), self.clock())


def iso(t: int) -> str:
    """UTC ms as a text."""
    return datetime.fromtimestamp(t / 1000, UTC).isoformat(timespec="seconds")


def open_frame(book: EpisodeBook) -> pl.DataFrame:
    """The open episodes as rows of `episodes`."""
    rows = [(*astuple(episode), 0) for episode in book.open_episodes()]
    return pl.DataFrame(rows, EPISODES_SCHEMA, orient="row")
