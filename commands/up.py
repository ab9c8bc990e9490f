"""`citybrain up`: everything in one process, the simulated city as its input."""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from pathlib import Path

import platformdirs

from commands.clocks import RunClock, WallClock
from commands.durable import checkpoint_folder, claim, examined, opened
from commands.inputs import UserError, city_of, made_folder
from commands.live import CATCH_UP_MS, History, Kept, Live, Options, Pushed
from commands.waiting import LONGEST_PAUSE_S, Waiting
from commands.watching import Before, told, watched
from connectors.http_push import push_router
from connectors.simulator import GENERATORS
from connectors.simulator_source import sources
from dashboards.app import create_app
from dashboards.board import Board
from dashboards.metrics import Metrics
from dashboards.pulse import Switch
from dashboards.serve import listen, serve
from pipelines import catalogue
from pipelines.delivery import Attached, Durable, Now, Run
from pipelines.epoch import next_epoch
from pipelines.journal import recover
from pipelines.retention import FINE_FOR_MS
from pipelines.watermark import Input
from sinks.backup import serve_requests
from sinks.clickhouse import ClickHouseSink
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
    # A store belongs to one city: its tables do not name it.
    folder = (options.data or Path(platformdirs.user_data_dir("citybrain"))).absolute() / city.id
    made_folder(folder, "--data")
    indicators = catalogue.for_city(city)
    waiting = Waiting()
    retry = Retry(None, longest_pause_s=LONGEST_PAUSE_S, stop=stop, told=waiting)
    lifecycles = [s for s in catalogue.STREAMS if s.lifecycle]
    sink = ClickHouseSink(f"chdb://{folder}", catalogue.rollups(indicators), lifecycles, retry=retry)
    try:
        migrated = sink.migrate()
        # Opening an embedded store may put other handlers in place; from here on the loop ends the run in order.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        claim(folder / "city", city.id)
        durable = checkpoint(checkpoint_folder(f"chdb://{folder}"), options, city.id, now)
        examined(sink, durable.recovered, migrated)
        beat = Now(durable.identity["origin"])
        clock = RunClock(beat(), options.speed, options.until)
        board = Board(uuid.uuid4().hex[:8], clock, speed=options.speed)
        waiting.board = board
        board.hold("the time before now is being replayed")
        metrics = Metrics(board)
        streams = {s.name: s for s in catalogue.STREAMS}
        pushed = Pushed(folder, streams, clock if options.start is not None else wall)
        serving = serve(
            create_app(board, indicators, city, History(sink), metrics, routers=[push_router(pushed.push)]),
            options.host,
            options.port,
            sock=sock,
        )
        print(f"citybrain: {city.en} at {serving.url}  (Ctrl-C ends it; store: {folder})", flush=True)
        store, switch = StoreThread(sink, retry=retry), None
        before = Before(sink, board, clock, now)
        try:
            made = sources(city, streams, beat(), beat, seed=options.seed)
            run = Run(
                city,
                indicators,
                [streams[name] for name in GENERATORS],
                [Attached(s, Input(s.input, f"simulator:{s.stream}")) for s in made],
                Kept(store, metrics),
                live=True,
                epoch=next_epoch(folder),
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
                serve_requests(folder, sink)

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
        sink.close()
    print("citybrain: ended", flush=True)


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
