"""`citybrain up`: everything in one process, the simulated city as its input."""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import platformdirs

from commands.clocks import RunClock, WallClock
from commands.durable import FOLDER, claim, epoch_of, examined, opened, server_folder
from commands.inputs import UserError, city_of, made_folder
from commands.live import CATCH_UP_MS, History, Kept, Live, Options, Pushed
from commands.stores import SERVERS, server_of
from commands.waiting import LONGEST_PAUSE_S, Waiting
from commands.watching import Before, told, watched
from connectors.http_push import push_router
from connectors.simulator import GENERATORS
from connectors.simulator_source import sources
from connectors.tokens import TokenError, Tokens
from dashboards.app import create_app
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.pulse import Switch
from dashboards.serve import listen, loopback, serve
from pipelines import catalogue
from pipelines.delivery import Attached, Durable, Now, Run
from pipelines.journal import recover
from pipelines.retention import FINE_FOR_MS
from pipelines.watermark import Input
from sinks.backup import serve_requests
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address
from sinks.errors import StoreError
from sinks.retry import Retry
from sinks.writer import StoreThread


def run(options: Options, stop: threading.Event) -> None:
    """Runs until `stop` is set, or to simulated `until`."""
    city = city_of(options.city)
    if not any(s.stream == "link" for s in city.sites):
        raise UserError(
            f"city {city.id!r} has no links to simulate; `citybrain up` runs the demo city or a pack with places like it"
        )
    wall = WallClock()
    now = options.start if options.start is not None else wall()
    if options.until is not None and options.until <= now:
        raise UserError("--until lies before the start; give a later instant")
    sock = listen(options.host, options.port)
    home = Home(options, city.id)
    tokens = Tokens(home.folder)
    try:
        tokens.all()
    except TokenError as error:
        print(f"citybrain: warning: pushes are refused: {error}", file=sys.stderr, flush=True)
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
        durable = checkpoint(home.kept / FOLDER, options, city.id, now)
        examined(sink, durable.recovered, migrated)
        epoch, lease = epoch_of(sink, durable.recovered)
        durable = replace(durable, guard=None if lease is None else lease.check)
        beat = Now(durable.identity["origin"])
        clock = RunClock(beat(), options.speed, options.until)
        board = Board(uuid.uuid4().hex[:8], clock, speed=options.speed)
        waiting.board = board
        board.hold("the time before now is being replayed")
        board.unread = dict.fromkeys(("open", "ended"), "what earlier runs stored is being read")
        metrics = Metrics(board)
        streams = {s.name: s for s in catalogue.STREAMS}
        pushed = Pushed(home.kept / "spool", tokens, streams, clock if options.start is not None else wall)
        serving = serve(
            create_app(board, indicators, city, History(sink), metrics, routers=[push_router(pushed.push)]),
            options.host,
            options.port,
            sock=sock,
        )
        print(f"citybrain: {city.en} at {serving.url}  (Ctrl-C ends it; store: {home.shown})", flush=True)
        if not loopback(sock):
            print(
                f"citybrain: warning: everybody who reaches {serving.url} can read the screen and the API, without a token; "
                "pushing needs one (citybrain token add)",
                file=sys.stderr,
                flush=True,
            )
        store, switch = StoreThread(sink, retry=retry), None
        goes_on_from = now if durable.recovered is None else durable.recovered.parts["intake/at"][0]
        before = Before(sink, board, clock, max(now, goes_on_from))
        try:
            made = sources(city, streams, beat(), beat, seed=options.seed)
            run = Run(
                city,
                indicators,
                [streams[name] for name in GENERATORS],
                [Attached(s, Input(s.input, f"simulator:{s.stream}")) for s in made],
                Kept(store, metrics),
                live=True,
                epoch=epoch,
                start=beat(),
                older=sink.panes,
                cases=sink.lifecycles,
                fine_for_ms=FINE_FOR_MS,
                drop=sink.drop_before,
                now=beat,
                opener=pushed.opened,
                durable=durable,
            )

            def between() -> None:
                if home.embedded:
                    serve_requests(home.folder, sink)

            pulse = watched(run, durable, sink, store, board, metrics, pushed.push)
            switch = Switch(pulse, lambda stalled: told(board, stalled))
            live = Live(options, run, board, metrics, clock, stop, pushed, between)
            live.go(now, wall if options.start is None else None)
        except StoreError as error:
            board.fail("store", str(error))
            raise
        finally:
            if switch is not None:
                switch.close()
            serving.stop()
            pushed.push.close()
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


def checkpoint(folder: Path, options: Options, city: str, now: int) -> Durable:
    """What this run goes on from: the checkpoint of the same city, seed and start; else it begins an hour before now."""
    found = recover(folder)
    of = {"run": "up", "city": city, "seed": options.seed, "start": options.start}
    for note in found.notes if found is not None else ():
        print(f"citybrain: warning: {note}", file=sys.stderr, flush=True)
    if found is not None:
        was = found.parts["run"]["identity"]
        if {name: was.get(name) for name in of} == of:
            return opened(folder, was, found)
    return opened(folder, of | {"origin": now - CATCH_UP_MS}, None)
