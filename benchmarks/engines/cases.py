"""The cases of the engines over files and Kafka. The programs run in the engines' environment; one broker serves a case."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from benchmarks.runs import Program, RunFailed, Runs, faster, interleaved, once
from benchmarks.table import Row

if TYPE_CHECKING:
    from benchmarks.cases import Bench

MODULE: Final = "benchmarks.engines.programs"
FLINK_EVENTS, BEAM_EVENTS, KAFKA_EVENTS, STREAMING_EVENTS, WARM_EVENTS = (
    3_000_000,
    1_000_000,
    3_000_000,
    2_000_000,
    100_000,
)
RATE: Final = 250_000
POLARS: Final = "live, Polars engine"
REMOTE: Final = (
    (POLARS, "polars", 0),
    ("live, Flink, a checkpoint every 5 s", "flink", 5),
    ("live, Flink, every 60 s", "flink", 60),
)
"""What runs live over Kafka: the engine, and the seconds between two checkpoints of Flink."""


class Engines:
    """The programs of the engines' environment, and what they share."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.python = bench, bench.engines
        if not self.python.exists():
            raise RunFailed(
                f"{self.python} is missing: make {self.python.parent.parent}/.ready, or name another --engines"
            )

        bench.remarks.append(f"engines' environment: {', '.join(self.once('versions')['versions'])}")

    def program(self, name: str, program: str, **given: object) -> Program:
        return Program(name, program, given, MODULE, str(self.python))

    def once(self, program: str, **given: object) -> dict[str, Any]:
        return once(self.program(program, program, **given))

    def log(self, events: int, parts: int) -> Path:
        """The canonical log of the link events; made once."""
        data = self.bench.data
        events = min(events, self.bench.events)
        folder = data.folder / f"log.{events}.{parts}"
        if not folder.exists():
            paths = [str(path) for path in data.link_parts(events, parts)]
            self.once("log", paths=paths, pack=str(data.pack()), folder=str(folder))
        return folder

    @contextmanager
    def broker(self) -> Iterator[tuple[str, int]]:
        """Its address and process id."""
        server = subprocess.Popen(
            [str(self.python), "-m", MODULE, "serve", "{}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            said = server.stdout.readline()
            if not said:
                raise RunFailed("the broker did not start")
            told = orjson.loads(said)
            yield told["address"], told["pid"]
        finally:
            server.stdin.close()
            server.wait(60)

    def filled(self, address: str, city: str, folder: Path) -> dict[str, Any]:
        """The log as a topic; what every engine has to make of it."""
        self.once("filled", address=address, city=city, folder=str(folder))
        facts: dict[str, Any] = self.once("expected", folder=str(folder), city=city)["facts"]
        if not facts["late"] or not facts["manifests"]:
            raise RunFailed(f"the log in {folder} has no late events or no panes: {facts}")
        return facts


def equal(what: str, wanted: dict[str, Any], *found: Runs) -> None:
    """Every run made the rows that the embedded engine makes; RuntimeError says which did not."""
    for runs in found:
        for answer in runs.answers:
            if answer["facts"] != wanted:
                raise RuntimeError(f"{what}: {answer['facts']}, but the embedded engine made {wanted}")


def shown(facts: dict[str, Any]) -> str:
    rows, late, manifests, events = (facts[name] for name in ("rows", "late", "manifests", "events"))
    return f"{rows} rows ({late} of them late events) and {manifests} manifests of {events} events"


def flink(bench: Bench) -> list[Row]:
    """Flink from Kafka to Kafka: the stream's whole catalogue, late rows and manifests, against one indicator by hand."""
    engines = Engines(bench)
    log, warm = engines.log(FLINK_EVENTS, 2), engines.log(WARM_EVENTS, 2)
    with engines.broker() as (address, _):
        wanted = engines.filled(address, "bench", log)
        engines.filled(address, "warm", warm)
        given = {"address": address, "city": "bench", "warm": "warm"}
        by_hand = engines.program("Flink SQL by hand, one indicator", "flink_by_hand", **given)
        product = engines.program("Flink job, whole catalogue, late rows, manifests", "flink", **given)
        runs = interleaved([by_hand, product], min(bench.rounds, 3))
    equal("flink", wanted, runs[product.name])
    for answer in runs[by_hand.name].answers:
        if not wanted["veh"] - wanted["late_veh"] <= answer["veh"] <= wanted["veh"]:
            raise RuntimeError(f"flink: the job by hand counts {answer['veh']} vehicles, the log has {wanted['veh']}")
    bench.remarks.append(
        f"flink: {shown(wanted)}, equal to those of the embedded engine; the job by hand drops what is late by its own "
        "watermark, so only its sum of vehicles is checked: between those on time and all of them. Seconds from the job's "
        "submission to its end, in a Java that has run the same job once; planning took "
        f"{runs[product.name].of('planned_s'):.1f} s and {runs[by_hand.name].of('planned_s'):.1f} s"
    )
    return [
        Row(by_hand.name, "s", runs[by_hand.name].seconds, 1.0),
        Row(product.name, "s", runs[product.name].seconds, faster(runs[product.name], runs[by_hand.name]), 0.8),
    ]


def beam(bench: Bench) -> list[Row]:
    """Beam on its local runner against the plain embedded engine and against one element an event; streaming on Flink."""
    engines = Engines(bench)
    log = engines.log(BEAM_EVENTS, 1)
    plain = engines.program("Polars engine, log in files", "polars_files", folder=str(log), check=True)
    fat = engines.program("Beam engine, local runner", "beam_files", folder=str(log))
    thin = engines.program("Beam, an element an event, local runner", "beam_elements", folder=str(log))
    few = interleaved([plain, fat, thin], min(bench.rounds, 3))
    wanted = few[plain.name].answers[0]["facts"]
    equal("beam", wanted, *few.values())
    slower = statistics.median(a / b for a, b in zip(few[fat.name].seconds, few[plain.name].seconds, strict=True))
    bench.remarks.append(
        f"beam: {shown(wanted)}, the same by all three programs; ratio of the engine = its seconds / those of the plain "
        "engine, of the comparison with one element an event = how many times as fast"
    )
    rows = [
        Row(plain.name, "s", few[plain.name].seconds, 1.0),
        Row(fat.name, "s", few[fat.name].seconds, slower, 1.8, bar="at most"),
        Row(thin.name, "s", few[thin.name].seconds),
        Row(
            "Beam engine against an element an event",
            "s",
            few[fat.name].seconds,
            faster(few[fat.name], few[thin.name]),
            12,
        ),
    ]
    log = engines.log(STREAMING_EVENTS, 1)
    with engines.broker() as (address, _):
        wanted = engines.filled(address, "bench", log)
        told = once(
            engines.program("streaming", "beam_streaming", address=address, city="bench", events=wanted["told"])
        )
    if told["facts"] != wanted:
        raise RuntimeError(f"beam streaming: {told['facts']}, but the embedded engine made {wanted}")
    bench.remarks.append(
        f"beam streaming: {shown(wanted)}, equal to the embedded engine's; from the first pane's manifest to the last "
        f"one's; the first came {told['first_s']:.0f} s after the start"
    )
    return [*rows, Row("Beam engine, Flink runner, streaming from Kafka", "events/s", [told["rate"]])]


def kafka(bench: Bench) -> list[Row]:
    """The Polars engine from Kafka to Kafka on two cores beside the broker, and what bounds it."""
    engines = Engines(bench)
    log, warm = engines.log(KAFKA_EVENTS, 2), engines.log(WARM_EVENTS, 2)
    runs = Runs()
    with engines.broker() as (address, pid):
        # A city a round: the job's consumer group goes on where it was. The first makes the broker's own topics.
        for turn in range(1 + min(bench.rounds, 3)):
            city = f"bench{turn}"
            wanted = engines.filled(address, city, log if turn else warm)
            told = engines.once("polars_kafka", address=address, city=city, events=wanted["told"], broker=pid)
            equal("kafka", wanted, Runs([told]))
            runs.answers += [told] if turn else []
    rates = [wanted["events"] / s for s in runs.seconds]
    last = runs.answers[-1]
    used = ", ".join(f"{kind} {s / last['seconds']:.2f}" for kind, s in list(last["cpu"].items())[:4])
    bench.remarks.append(
        f"kafka: {shown(wanted)}, equal to those that the engine makes of the same bytes in files; from the job's start to the "
        f"last manifest in the rows topic. Cores by thread of the job: {used}; the broker "
        f"{last['broker_cpu'] / last['seconds']:.2f}. What bounds it is its main thread: a Python call or five a record"
    )
    return [Row("Polars engine, Kafka to Kafka", "events/s", rates, required=RATE)]


def remote(bench: Bench) -> list[Row]:
    """Over Kafka at 20,000 events/s: an event in the log until it is on the page, with the Polars engine and with Flink."""
    engines = Engines(bench)
    given = {"pack": str(bench.data.pack()), "rate": bench.live_rate}
    found = {}
    for name, engine, interval in REMOTE:
        with engines.broker() as (address, _):
            told = engines.once("live", address=address, engine=engine, checkpoint_s=interval, **given)
        if told["final_samples"] != told["expected"]:
            raise RuntimeError(f"{name}: the final number has {told['final_samples']} samples of {told['expected']}")
        if name == POLARS and told["provisional_p99"] is None:
            raise RuntimeError(f"{name}: no event of the watched window was in a provisional number")
        found[name] = told
        some = f"; of {told['watched']:,} events {told['shown']:,} were provisionally shown" if name == POLARS else ""
        bench.remarks.append(
            f"{name}: {told['rate']:,.0f} events/s{some}; the final number has all {told['expected']:,} events of its window, "
            f"{told['final_after']:.2f} s after its end + D"
        )
    rows = []
    for name, told in found.items():
        if name == POLARS:  # Flink tells no open panes
            rows.append(Row(f"{name}: provisional p50", "s", [told["provisional_p50"]]))
            rows.append(Row(f"{name}: provisional p99", "s", [told["provisional_p99"]], required=1.0, bar="at most"))
        rows.append(Row(f"{name}: final after pane end + D", "s", [told["final_after"]], required=2.0, bar="at most"))
    return rows
