"""What `citybrain up` and `citybrain brain` share: the store, its checkpoint, the page, and the run between them."""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import platformdirs

from commands.clocks import RunClock, WallClock
from commands.durable import FOLDER, claim, epoch_of, examined, opened, server_folder
from commands.inputs import UserError, made_folder
from commands.live import Around, History, Kept, Live, Options
from commands.stores import SERVERS, server_of
from commands.waiting import LONGEST_PAUSE_S, Waiting
from commands.watching import Before, told, watched
from connectors.http_push import Push
from dashboards.app import Routers, create_app
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.pulse import Switch
from dashboards.serve import listen, loopback, serve
from pipelines import catalogue
from pipelines.city import City
from pipelines.delivery import Attached, Durable, Now, Run
from pipelines.intake import Opener
from pipelines.journal import Recovered, recover
from pipelines.retention import FINE_FOR_MS
from pipelines.streams import Stream
from sinks.backup import serve_requests
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address
from sinks.errors import StoreError
from sinks.retry import Retry
from sinks.writer import StoreThread


class Feed(Protocol):
    """Where a live run gets its streams from. Its methods are called in this order."""

    remote: bool
    """Whether ingest and engines are elsewhere (`pipelines.delivery.Run`)."""
    origin_ms: int
    """How long before now the first start begins."""

    @property
    def push(self) -> Push | None: ...

    def identity(self, city: City) -> dict[str, Any]:
        """What the checkpoint of the run is of; one of something else is not gone on from."""
        ...

    def open(self, home: Home, streams: Mapping[str, Stream], clock: Callable[[], int]) -> Routers:
        """Once the store is there; returns the routes that bring records."""
        ...

    def attached(self, city: City, streams: Mapping[str, Stream], beat: Now, found: Recovered | None) -> list[Attached]:
        """The inputs that the run begins with, or those that the checkpoint `found` goes on with."""
        ...

    def opener(self) -> Opener | None: ...

    def live(self, around: Around) -> Live: ...

    def close(self) -> None: ...


def lived(options: Options, stop: threading.Event, city: City, feed: Feed) -> None:
    """Runs until `stop` is set, or to simulated `until`."""
    wall = WallClock()
    now = options.start if options.start is not None else wall()
    if options.until is not None and options.until <= now:
        raise UserError("--until lies before the start; give a later instant")
    sock = listen(options.host, options.port)
    home = Home(options, city.id)
    indicators = catalogue.for_city(city)
    waiting = Waiting()
    retry = Retry(None, longest_pause_s=LONGEST_PAUSE_S, stop=stop, told=waiting)
    lifecycles = [s for s in catalogue.STREAMS if s.lifecycle]
    sink = ClickHouseSink(home.dsn, catalogue.rollups(indicators), lifecycles, retry=retry)
    lease = None
    try:
        migrated = sink.migrate()
        # Opening an embedded store may put other handlers in place; from here on the loop ends the run in order.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        # A store belongs to one city: its tables do not name it.
        claim(home.kept / "city", city.id)
        durable = checkpoint(home.kept / FOLDER, feed.identity(city), now - feed.origin_ms)
        examined(sink, durable.recovered, migrated)
        epoch, lease = epoch_of(sink, durable.recovered)
        durable = replace(durable, guard=None if lease is None else lease.check)
        beat = Now(durable.identity["origin"])
        clock = RunClock(beat(), options.speed, options.until)
        board = Board(uuid.uuid4().hex[:8], clock, speed=options.speed)
        waiting.board = board
        if feed.remote:
            rollups = sorted(catalogue.rollups(indicators), key=lambda rollup: rollup.pane_ms)
            board.strides = {rollup.stream.name: rollup.pane_ms for rollup in rollups}
        board.hold("the time before now is being replayed")
        board.unread = dict.fromkeys(("open", "ended"), "what earlier runs stored is being read")
        metrics = Metrics(board)
        streams = {s.name: s for s in catalogue.STREAMS}
        routers = feed.open(home, streams, clock if options.start is not None else wall)
        serving = serve(
            create_app(board, indicators, city, History(sink), metrics, routers=routers),
            options.host,
            options.port,
            sock=sock,
        )
        print(f"citybrain: {city.en} at {serving.url}  (Ctrl-C ends it; store: {home.shown})", flush=True)
        if not loopback(sock):
            print(
                f"citybrain: warning: everybody who reaches {serving.url} can read the screen and the API, without a token"
                + ("; pushing needs one (citybrain token add)" if routers else ""),
                file=sys.stderr,
                flush=True,
            )
        store, switch = StoreThread(sink, retry=retry), None
        goes_on_from = now if durable.recovered is None else durable.recovered.parts["intake/at"][0]
        before = Before(sink, board, clock, max(now, goes_on_from))
        try:
            run = Run(
                city,
                indicators,
                catalogue.STREAMS,
                feed.attached(city, streams, beat, durable.recovered),
                Kept(store, metrics),
                live=True,
                epoch=epoch,
                start=beat(),
                older=sink.panes,
                cases=sink.lifecycles,
                fine_for_ms=FINE_FOR_MS,
                drop=sink.drop_before,
                now=beat,
                opener=feed.opener(),
                durable=durable,
                remote=feed.remote,
            )

            def between() -> None:
                if home.embedded:
                    serve_requests(home.folder, sink)

            pulse = watched(run, durable, sink, store, board, metrics, feed.push)
            switch = Switch(pulse, lambda stalled: told(board, stalled))
            feed.live(Around(run, board, metrics, clock, stop, between)).go(
                now, wall if options.start is None else None
            )
        except StoreError as error:
            board.fail("store", str(error))
            raise
        finally:
            if switch is not None:
                switch.close()
            serving.stop()
            feed.close()
            before.close()
            store.close()
    finally:
        if lease is not None:
            lease.release()
        sink.close()
    print("citybrain: ended", flush=True)


class Home:
    """Where a live run keeps what it has: `folder` is that of the city (its tokens, and its embedded store), `kept` that of
    the store's checkpoint and of what was pushed for it, which of a store on a server lies below it."""

    def __init__(self, options: Options, city: str) -> None:
        data = options.data or Path(platformdirs.user_data_dir("citybrain"))
        self.folder = made_folder(data.absolute() / city, "--data")
        self.embedded = options.store is None
        if options.store is not None and not options.store.startswith(SERVERS):
            raise UserError(
                f"--store {options.store!r} is no server; write http(s)://user@host:port/database, or leave it out and name "
                "the folder of the embedded store with --data"
            )
        self.dsn = options.store or f"chdb://{self.folder}"
        address = server_of(self.dsn) if options.store else Address.of(self.dsn)
        self.shown = str(self.folder) if self.embedded else address.shown
        self.kept = self.folder if self.embedded else server_folder(address, self.folder)


def checkpoint(folder: Path, of: Mapping[str, Any], origin: int) -> Durable:
    """What this run goes on from: the checkpoint of a run of the same; else it begins at `origin`."""
    found = recover(folder)
    for note in found.notes if found is not None else ():
        print(f"citybrain: warning: {note}", file=sys.stderr, flush=True)
    if found is not None:
        was = found.parts["run"]["identity"]
        if {name: was.get(name) for name in of} == of:
            return opened(folder, was, found)
    return opened(folder, {**of, "origin": origin}, None)
