"""A live run at a steady rate, watched by a client over HTTP: how old an event is when a screen shows it.

The wiring is that of `citybrain up` (`commands.live.Live`) with another source: NDJSON lines made beforehand, handed
over when the run's clock has reached their time, decoded in the run's own thread. The clock runs at real speed; so
that a window ends within the run it starts `LEAD_S` before a quarter of an hour, and the input declares D = `DISORDER_MS`.
"""

from __future__ import annotations

import http.client
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
import polars as pl

from benchmarks.data import LINKS, lines, link_ids
from connectors.formats import Block
from connectors.formats.ndjson import Ndjson
from pipelines.model import Decoded
from pipelines.streams import LINK, Stream

START: Final = 1_772_416_800_000
"""2026-03-02T02:00:00Z, the end of a window."""
LEAD_S: Final = 20
DISORDER_MS: Final = 5_000
SLICE_MS: Final = 50
WARM_S: Final = 5
WATCHED: Final = ("traffic.tti", "city", "city")
Answer = dict[str, Any]


class PacedSource:
    """Link events at a steady rate, each with its arrival as its time; see `pipelines.model.Source`."""

    finite = False
    ended = False

    def __init__(self, stream: Stream, start: int, clock: Callable[[], int], rate: int, seconds: int) -> None:
        self.input, self.stream = "paced:link", stream.name
        self._format, self._start, self._clock = Ndjson(stream), start, clock
        self._slices = [self._made(k, rate * SLICE_MS // 1000) for k in range(seconds * 1000 // SLICE_MS)]
        self._next, self._record = 0, 1

    def _made(self, turn: int, count: int) -> bytes:
        dice = np.random.default_rng(turn)
        number = np.arange(turn * count, (turn + 1) * count)
        link = number % LINKS * 2_657 % LINKS
        return lines(
            pl.DataFrame(
                {
                    "t": self._start + turn * SLICE_MS + np.arange(count) * SLICE_MS // count,
                    "link": link_ids().gather(link.astype(np.uint32)),
                    "tt_ms": dice.integers(10_000, 90_000, count),
                    "n": dice.integers(1, 20, count),
                    "source": pl.Series(["floating-car"]).new_from_index(0, count),
                }
            )
        )

    def read(self) -> Decoded | None:
        due = min((self._clock() - self._start) // SLICE_MS, len(self._slices))
        if due <= self._next:
            return None
        payload = b"".join(self._slices[self._next : due])
        self._next = due
        decoded = self._format.decode(Block(self._record, payload), self.input)
        self._record = decoded.next_position
        return decoded

    def seek(self, position: int) -> None:
        raise NotImplementedError("a paced source is read once")

    def close(self) -> None:
        self._slices.clear()


def live(pack: str, rate: int, seconds: int) -> Answer:
    """Seconds of latency (p50, p99) of provisional and final readings, and the share of a core that the process took."""
    from commands import live as up
    from commands.clocks import RunClock
    from commands.inputs import city_of
    from dashboards.app import create_app
    from dashboards.board import Board
    from dashboards.metrics import Metrics
    from dashboards.serve import listen, serve
    from pipelines import catalogue
    from pipelines.delivery import Attached, Now, Run
    from pipelines.watermark import Input
    from sinks.clickhouse import ClickHouseSink
    from sinks.writer import StoreThread

    city, start = city_of(pack), START - LEAD_S * 1000
    indicators = catalogue.for_city(city)
    clock, beat = RunClock(start, 1.0), Now(start)
    source = PacedSource(LINK, start, beat, rate, seconds)
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as folder:
        sink = ClickHouseSink(f"chdb://{folder}/store", catalogue.rollups(indicators), ())
        sink.migrate()
        board = Board("bench", clock)
        metrics = Metrics(board)
        sock = listen("127.0.0.1", 0)
        serving = serve(create_app(board, indicators, city, up.History(sink), metrics), "127.0.0.1", 0, sock=sock)
        store = StoreThread(sink)
        options = up.Options(
            "bench", 1.0, 1, "127.0.0.1", 0, None, None, start, start + seconds * 1000, time.monotonic()
        )
        attached = [Attached(source, Input(source.input, "paced:link", DISORDER_MS))]
        kept = up.Kept(store, metrics)
        run = Run(city, indicators, [LINK], attached, kept, live=True, epoch=1, start=start, older=sink.panes, now=beat)
        running = up.Live(options, run, board, metrics, clock, threading.Event())
        client = subprocess.Popen([sys.executable, "-m", "benchmarks.live", serving.url], stdout=subprocess.PIPE)
        time.sleep(1.0)
        cpu = _Cpu(WARM_S)
        began = time.time()
        try:
            running.go(start)
        finally:
            used = cpu.stop()
            serving.stop()
            store.close()
            seen = [orjson.loads(line) for line in client.communicate(timeout=30)[0].splitlines()]
            sink.close()
    accepted = running.run.streams["link"].counters["accepted"]
    return _measured(seen, began, rate, accepted) | {"cores": used, "accepted": accepted, "seconds": seconds}


class _Cpu:
    """The share of a core that this process takes, without the first seconds."""

    def __init__(self, after_s: float) -> None:
        self._mark = (time.perf_counter(), time.process_time())
        self._timer = threading.Timer(after_s, self._start)
        self._timer.start()

    def _start(self) -> None:
        self._mark = (time.perf_counter(), time.process_time())

    def stop(self) -> float:
        self._timer.cancel()
        wall, cpu = self._mark
        return (time.process_time() - cpu) / (time.perf_counter() - wall)


def _measured(seen: list[Answer], began: float, rate: int, accepted: int) -> Answer:
    """Event number k arrived at `began` + k / rate; a provisional number with so many samples shows all before it."""
    boundary = LEAD_S * rate
    shown = np.full(accepted, np.nan)
    finals = []
    for one in seen:
        end = one["window_end"]
        if not one["provisional"]:
            if end != START:
                continue
            finals.append(one["at"] - began - LEAD_S - DISORDER_MS / 1000)
        # A page shows the provisional number of the newest window: the last events of the one before it may be seen
        # in its final number only.
        first = 0 if end == START else boundary
        until = min(first + one["samples"], accepted)
        fresh = shown[first:until]
        fresh[np.isnan(fresh)] = one["at"]
    arrived = began + np.arange(accepted) / rate
    latency = shown - arrived
    steady = latency[WARM_S * rate : accepted - 2 * rate]
    never = int(np.isnan(steady).sum())
    known = steady[~np.isnan(steady)]
    if not len(known) or not finals:
        raise RuntimeError(
            f"the client saw {len(seen)} numbers, but no provisional or no final one of the watched window"
        )
    return {
        "provisional_p50": float(np.quantile(known, 0.5)),
        "provisional_p99": float(np.quantile(known, 0.99)),
        "provisional_max": float(known.max()),
        "never_shown": never,
        "final_after_watermark": finals[0],
        "numbers_seen": len(seen),
        "between_numbers": statistics.median(np.diff([x["at"] for x in seen]).tolist()) if len(seen) > 1 else None,
    }


def watch(url: str) -> None:
    """The client: prints when it received which number of the watched reading."""
    host = url.split("//")[1].strip("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", "/api/v1/stream")
    response = connection.getresponse()
    kind = b""
    while line := response.readline():
        name, _, value = line.rstrip(b"\n").partition(b": ")
        if name == b"event":
            kind = value
        if name != b"data" or kind not in (b"delta", b"snapshot"):
            continue
        at = time.time()
        for one in orjson.loads(value)["readings"]:
            if (one["indicator"], one["place_kind"], one["place"]) == WATCHED:
                end = int(np.datetime64(one["window_end"].rstrip("Z"), "ms").astype(np.int64))
                record = {"at": at, "samples": one["samples"], "window_end": end, "provisional": one["provisional"]}
                sys.stdout.write(orjson.dumps(record).decode() + "\n")


if __name__ == "__main__":
    watch(sys.argv[1])
