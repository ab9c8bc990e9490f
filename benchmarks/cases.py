"""The cases: which programs run against each other, what is computed of them, and the bars."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.data import Data
from benchmarks.durable_cases import checkpoint, durable, restart
from benchmarks.engines import cases as engines
from benchmarks.live import DISORDER_MS
from benchmarks.peer_cases import peers
from benchmarks.push import BAR
from benchmarks.runs import Program, Runs, faster, interleaved, once
from benchmarks.table import Row

LINK_PANE_S: Final = 300
HELP_S: Final = 0.4
PUSH_S: Final = 10


@dataclass(slots=True)
class Bench:
    """What the cases share: the data, the sizes, and remarks that are printed under the table."""

    data: Data
    events: int
    rounds: int
    quick: bool = False
    air_events: int = 1_000_000
    places: int = 1_000_000
    live_s: int = 45
    live_rate: int = 20_000
    engines: Path = Path(".venv-engines/bin/python")
    """The Python of the engines' environment."""
    peers: Path = Path(".venv-peers")
    """The folder of the peers' environments."""
    remarks: list[str] = field(default_factory=list)

    def product(self, name: str, path: Path, **more: object) -> Program:
        return Program(name, "product", {"path": str(path), "pack": str(self.data.pack()), **more})


def warm(path: Path) -> Path:
    """Reads the file once, so that every program finds it in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
    return path


def same(bench: Bench, what: str, programs: list[Program]) -> None:
    """Every program must have found the same groups and sums; RuntimeError says which did not."""
    found = {p.name: once(p, **({} if p.program == "polars" else {"check": True}))["sums"] for p in programs}
    first, *others = found.items()
    for name, sums in others:
        if sums != first[1]:
            raise RuntimeError(f"{what}: {name} found {sums}, but {first[0]} {first[1]}")
    if not first[1]["groups"]:
        raise RuntimeError(f"{what}: nothing was compared")
    bench.remarks.append(
        f"{what}: {', '.join(found)} gave the same {first[1]['groups']} groups of {first[1]['events']} events"
    )


def replay(bench: Bench) -> list[Row]:
    """The clean file: the whole product, with and without dedup, against chDB and Polars doing nothing but the GROUP BY."""
    path = warm(bench.data.links(bench.events))
    chdb = Program("chDB GROUP BY", "chdb", {"path": str(path)})
    plain = bench.product("replay, no dedup", path, dedup=False)
    full = bench.product("replay, dedup", path)
    polars = Program("Polars scan + group_by", "polars", {"path": str(path)})
    same(bench, "replay", [chdb, plain, full, polars])
    runs = interleaved([chdb, plain, full, polars], bench.rounds)
    reference = runs[chdb.name]
    bars = {plain.name: (0.55, 0.8), full.name: (0.5, 0.8)}
    return [Row(chdb.name, "s", reference.seconds, 1.0), *_against(runs, reference, bars)]


def _against(runs: Mapping[str, Runs], reference: Runs, bars: Mapping[str, tuple[float, float | None]]) -> list[Row]:
    rows = []
    for name, one in runs.items():
        if one is not reference:
            required, goal = bars.get(name, (None, None))
            rows.append(Row(name, "s", one.seconds, faster(one, reference), required, goal))
    return rows


def bad(bench: Bench) -> list[Row]:
    """One line in a thousand is broken; chDB is told to tolerate that (it then loses good neighbours as well)."""
    path = warm(bench.data.bad_links(bench.events))
    chdb = Program("0.1 % bad: tolerant chDB", "chdb", {"path": str(path), "tolerate": True})
    plain = bench.product("0.1 % bad: replay, no dedup", path, dedup=False)
    full = bench.product("0.1 % bad: replay, dedup", path)
    runs = interleaved([chdb, plain, full], bench.rounds)
    told = runs[full.name].answers[0]["summary"]
    if (
        told["received"] != bench.events
        or told["accepted"] + told["rejected"] != told["received"]
        or not told["rejected"]
    ):
        raise RuntimeError(f"bad: {bench.events} lines went in, but the summary says {told}")
    bench.remarks.append(f"bad: {told['rejected']} dead letters, {told['accepted']} accepted of {told['received']}")
    reference = runs[chdb.name]
    return [
        Row(chdb.name, "s", reference.seconds, 1.0),
        *_against(runs, reference, dict.fromkeys((plain.name, full.name), (0.75, None))),
    ]


def arrow(bench: Bench) -> list[Row]:
    """The same events as canonical Arrow."""
    path = warm(bench.data.arrow_links(bench.events))
    chdb = Program("Arrow: chDB GROUP BY", "chdb", {"path": str(path)})
    plain = bench.product("Arrow: replay, no dedup", path, dedup=False)
    same(bench, "arrow", [chdb, plain])
    runs = interleaved([chdb, plain], bench.rounds)
    return [Row(chdb.name, "s", runs[chdb.name].seconds, 1.0), *_against(runs, runs[chdb.name], {})]


def one(bench: Bench) -> list[Row]:
    """What the whole catalogue of the stream costs against a single indicator."""
    path = warm(bench.data.links(bench.events))
    every = bench.product("all indicators", path)
    single = bench.product("only traffic.tti", path, only=["traffic.tti"])
    runs = interleaved([single, every], bench.rounds)
    ratio = 1 / faster(runs[every.name], runs[single.name])
    return [
        Row(single.name, "s", runs[single.name].seconds),
        Row(every.name, "s", runs[every.name].seconds, ratio, 1.3, bar="at most"),
    ]


def stages(bench: Bench) -> list[Row]:
    """Where the time goes: wall of the main thread by stage, CPU by kind of thread."""
    path = warm(bench.data.links(bench.events))
    runs = interleaved([bench.product("stages", path, threads=True)], bench.rounds)["stages"]
    wall = runs.of("summary", "wall_s")
    named = {
        "read": "read (waits for decoding)",
        "store": "store (waits for the writer)",
        "store_thread": "writer thread",
    }
    rows = []
    for stage in runs.answers[0]["summary"]["seconds"]:
        seconds = [a["summary"]["seconds"][stage] for a in runs.answers]
        label = f"stage {named.get(stage, stage)}"
        rows.append(Row(label, "s", seconds, statistics.median(seconds) / wall))
    for kind in runs.answers[-1]["cpu"]:
        seconds = [a["cpu"].get(kind, 0.0) for a in runs.answers]
        rows.append(Row(f"CPU {kind}", "s", seconds, statistics.median(seconds) / runs.of("summary", "wall_s")))
    bench.remarks.append("stages: ratio = share of the wall time; a thread's CPU may be 1.00, all together 2.00")
    return rows


def iot(bench: Bench) -> list[Row]:
    """One event per place and pane: what an event costs when nothing is merged."""
    path = warm(bench.data.air(bench.air_events))
    chdb = Program("air: chDB GROUP BY", "chdb_air", {"path": str(path)})
    product = bench.product("air: replay", path)
    runs = interleaved([chdb, product], bench.rounds)
    answers = runs[product.name].answers
    rows = [Row(chdb.name, "s", runs[chdb.name].seconds, 1.0), *_against(runs, runs[chdb.name], {})]
    parts = {
        "decoding (waited for)": "read",
        "stamps": "ingest",
        "rows": "engine",
        "readings": "brain",
        "store (its thread)": "store_thread",
    }
    for label, stage in parts.items():
        cost = [a["summary"]["seconds"][stage] * 1e6 / a["summary"]["received"] for a in answers]
        rows.append(Row(f"air: {label}", "us/event", cost))
    bench.remarks.append(f"iot: {answers[0]['summary']['readings']} readings of {bench.air_events} events are stored")
    return rows


def memory(bench: Bench) -> list[Row]:
    """Peak memory must not grow with the length of the input."""
    # A run of less than a few steps has not filled what it holds, so a short benchmark compares with a longer run.
    few, many = (bench.events // 10, bench.events) if bench.events >= 30_000_000 else (bench.events, 3 * bench.events)
    small = bench.product(f"memory: {few // 1_000_000} M events", warm(bench.data.links(few)))
    large = bench.product(f"memory: {many // 1_000_000} M events", warm(bench.data.links(many)))
    runs = interleaved([small, large], min(bench.rounds, 3))
    peaks = {name: [a["peak_mb"] for a in r.answers] for name, r in runs.items()}
    growth = statistics.median(peaks[large.name]) / statistics.median(peaks[small.name])
    return [
        Row(small.name, "MB", peaks[small.name]),
        Row(large.name, "MB", peaks[large.name], growth, 1.1, bar="at most"),
    ]


def places(bench: Bench) -> list[Row]:
    """A million places, two events each."""
    path = warm(bench.data.places(bench.places))
    program = Program(
        "memory: 1 M places",
        "places",
        {"path": str(path), "pack": str(bench.data.pack()), "places": bench.places + 6_000},
    )
    answer = once(program)
    if answer["summary"]["accepted"] != 2 * bench.places:
        raise RuntimeError(f"places: {2 * bench.places} events went in, but the summary says {answer['summary']}")
    bench.remarks.append(
        f"places: {answer['places']} places known, {answer['summary']['readings']} readings, {answer['seconds']:.1f} s"
    )
    return [Row(program.name, "MB", [answer["peak_mb"]], required=2048, bar="at most")]


def live(bench: Bench) -> list[Row]:
    """20,000 events/s with a store, a board and a client over HTTP."""
    given = {"pack": str(bench.data.pack()), "rate": bench.live_rate, "seconds": bench.live_s}
    told = once(Program("live", "live", given))
    if told["never_shown"]:
        raise RuntimeError(f"live: {told['never_shown']} events of the watched windows were never shown")
    bound = DISORDER_MS / 1000 + LINK_PANE_S + 1
    # Events come evenly over a pane, so that of the oldest one in a hundred are not looked at.
    final = told["final_after_watermark"] + DISORDER_MS / 1000 + 0.99 * LINK_PANE_S
    bench.remarks.append(
        f"live: {told['accepted']} events in {bench.live_s} s at real speed, D = {DISORDER_MS / 1000:.0f} s, the clock set so "
        f"that a 5-min pane ends within the run; provisional p50 {told['provisional_p50']:.2f} s, max "
        f"{told['provisional_max']:.2f} s; final number {told['final_after_watermark']:.2f} s after its window's end + D"
    )
    return [
        Row("live: provisional p99", "s", [told["provisional_p99"]], required=1.0, bar="at most"),
        Row("live: final p99", "s", [final], required=bound, bar="at most"),
        Row("live: CPU", "cores", [told["cores"]], required=0.4, bar="at most"),
    ]


def push(bench: Bench) -> list[Row]:
    """Pushes over HTTP by four clients: events/s that are acknowledged, each after its fsync, and how soon."""
    runs = Runs([once(Program("push", "push", {"clients": 4, "seconds": PUSH_S})) for _ in range(min(bench.rounds, 3))])
    rates, half, bar = ([float(a[name]) for a in runs.answers] for name in ("rate", "half_p99_ms", "bar_p99_ms"))
    bench.remarks.append(
        f"push: batches of 5,000 events; at full rate p99 {runs.of('full_p99_ms'):.0f} ms, at half of it p50 "
        f"{runs.of('half_p50_ms'):.0f} ms; server {runs.of('server_cpu_us_an_event'):.2f} us of CPU an event; the spools "
        f"held exactly the {sum(a['acknowledged'] for a in runs.answers)} events that were acknowledged"
    )
    return [
        Row("push: acknowledged", "events/s", rates, required=BAR),
        Row(f"push: p99 at {BAR // 2:,} events/s", "ms", bar, required=100, bar="at most"),
        Row("push: p99 at half of what is possible", "ms", half, goal=100, bar="at most"),
    ]


def help_(bench: Bench) -> list[Row]:
    """The command line answers at once."""
    seconds = []
    for _ in range(max(bench.rounds, 5)):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "citybrain", "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return [Row("citybrain --help", "s", seconds, required=HELP_S, bar="at most")]


CASES: Final[dict[str, Callable[[Bench], list[Row]]]] = {
    "replay": replay,
    "bad": bad,
    "arrow": arrow,
    "one": one,
    "stages": stages,
    "iot": iot,
    "memory": memory,
    "places": places,
    "live": live,
    "push": push,
    "durable": durable,
    "checkpoint": checkpoint,
    "restart": restart,
    "help": help_,
    "flink": engines.flink,
    "beam": engines.beam,
    "kafka": engines.kafka,
    "remote": engines.remote,
    "peers": peers,
}
