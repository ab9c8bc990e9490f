"""Runs of the small city through `pipelines.delivery.Run`: as files, live, interrupted; and what they must agree on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from pipelines import catalogue
from pipelines.brain import Step
from pipelines.delivery import Attached, Durable, Now, Run
from pipelines.engines.grouped_apart import GroupedApart
from pipelines.rollup import Rollup
from pipelines.streams import MINUTE_MS
from pipelines.watermark import Input
from sinks.difference import Mismatch, compare_episodes, compare_readings, compare_rows
from sinks.memory import MemorySink
from tests.conformance.small_city import CITY, END, INDICATORS, STREAMS, Log
from tests.fakes.listed import Crash, DirectStore, ListedSource, Record

COPY_MS = 3 * MINUTE_MS
"""How long after a record its copy may arrive: well inside H, which is at least 10 min."""
ROLLUPS = tuple(r for r in catalogue.rollups(INDICATORS) if r.stream in STREAMS)
REMEMBER_MS = 2 * MINUTE_MS
"""So short that late events need panes which memory has given to the store."""
Arrivals = Mapping[str, Mapping[str, Sequence[Record]]]
"""By stream and input: records in the order of their arrival."""


def arrivals(
    log: Log, seed: int, inputs: Mapping[str, int] | None = None, *, copies: bool = True, beyond: int = 0
) -> Arrivals:
    """The log as it may arrive: each event up to D after its time (late ones after their delay), spread over inputs.

    `beyond` adds so many ms to D of some events: an order that the bound does not allow."""
    rnd = random.Random(seed)
    out: dict[str, dict[str, list[Record]]] = {}
    for stream in STREAMS:
        n = (inputs or {}).get(stream.name, 1)
        parts: list[list[Record]] = [[] for _ in range(n)]
        turns: list[int] = []
        for record in log[stream.name]:
            if not turns:  # each input gets one of every n events, so none falls silent for J
                turns = rnd.sample(range(n), n)
            late = record.get("delay") or rnd.randrange(stream.disorder_ms + (beyond if rnd.random() < 0.2 else 0))
            sent = {k: v for k, v in record.items() if k != "delay"} | {"arrival": record["t"] + late}
            part = parts[turns.pop()]
            part.append(sent)
            if copies and stream.dedup and rnd.random() < 0.05:
                part.append(sent | {"arrival": sent["arrival"] + rnd.randrange(COPY_MS)})
            if rnd.random() < 0.01:
                part.append({"bad": "not JSON", "arrival": sent["arrival"]})
        out[stream.name] = {f"{stream.name}{k}": sorted(p, key=lambda r: r["arrival"]) for k, p in enumerate(parts)}
    return out


@dataclass(frozen=True, slots=True)
class How:
    """How a run is cut: events per step, records per block, order of the streams, canonical partitions."""

    commit_events: int = 10_000
    block: int = 500
    seed: int = 0
    parts: Literal["one", "each"] = "one"

    def blocks(self) -> Iterator[int]:
        rnd = random.Random(self.seed)
        while True:
            yield rnd.randint(1, self.block)


def sink() -> MemorySink:
    return MemorySink(ROLLUPS, [s for s in STREAMS if s.lifecycle])


def attach(arrived: Arrivals, how: How, live: Now | None = None) -> list[Attached]:
    known = {s.name: s for s in STREAMS}
    out = []
    for stream in random.Random(how.seed).sample(list(arrived), len(arrived)):
        for name, records in arrived[stream].items():
            part = stream if how.parts == "one" else name
            source = ListedSource(name, known[stream], records, blocks=how.blocks(), clock=live)
            out.append(Attached(source, Input(name, part)))
    return out


def city_run(
    arrived: Arrivals,
    how: How,
    store: DirectStore,
    epoch: int,
    live: Now | None = None,
    durable: Durable | None = None,
    publish: Callable[[Step], None] | None = None,
    fine_for_ms: int | None = None,
    apart: GroupedApart | None = None,
) -> Run:
    assert isinstance(store.sink, MemorySink)
    return Run(
        CITY, INDICATORS, STREAMS, attach(arrived, how, live), store, live=live is not None, epoch=epoch,
        start=0 if live is None else live.at, older=_older(store, store.sink), cases=store.sink.lifecycles,
        commit_events=how.commit_events, durable=durable, publish=publish, now=live, remember_ms=REMEMBER_MS,
        fine_for_ms=fine_for_ms, drop=store.sink.drop_before, apart=apart,
    )  # fmt: skip


def _older(store: DirectStore, kept: MemorySink) -> Callable[[Rollup, int, int], pl.DataFrame]:
    def read(rollup: Rollup, since: int, until: int) -> pl.DataFrame:
        store.read += 1
        return kept.panes(rollup, since, until)

    return read


def replayed(arrived: Arrivals, how: How = How(), until: int | None = None) -> tuple[MemorySink, Run]:
    """A run over files to their end."""
    kept = sink()
    run = city_run(arrived, how, DirectStore(kept), 1)
    run.replay(until)
    return kept, run


def lived(
    arrived: Arrivals,
    start: int,
    until: int,
    how: How = How(),
    *,
    tick_ms: int = 30_000,
    step_every: float = 0.15,
    ticks: bool = True,
) -> tuple[MemorySink, Run]:
    """A live run on a clock of its own: polls and ticks every `tick_ms`, a step at random after a share of them."""
    kept, rnd, clock = sink(), random.Random(how.seed), Now(start)
    run = city_run(arrived, how, DirectStore(kept), 1, clock)
    while clock.at < until:
        clock.at += tick_ms
        run.poll(clock.at)
        if ticks:
            run.tick(clock.at)
        if rnd.random() < step_every or clock.at >= until:
            run.step(clock.at)
        if rnd.random() < 0.03:
            run.provisional()  # for screens: it must change nothing
    return kept, run


def interrupted(arrived: Arrivals, crashes: Sequence[int], first: How, then: How) -> MemorySink:
    """A store that runs crashed into after so many writes, each started anew from the beginning; the last one ends."""
    kept = sink()
    for epoch, writes in enumerate(crashes, 1):
        try:
            city_run(arrived, first, DirectStore(kept, writes), epoch).replay()
        except Crash:
            continue
        raise AssertionError(f"the run ended before its {writes} writes; nothing was interrupted")
    city_run(arrived, then, DirectStore(kept), len(crashes) + 1).replay()
    return kept


def differences(
    a: MemorySink, b: MemorySink, *, rows: bool = True, exact: bool = False
) -> tuple[list[Mismatch], Counter[str]]:
    """What differs between two stores, and how much was compared. `exact`: also transitions, cases and dead letters."""
    mine, other = a.newest_readings(), b.newest_readings()
    found = compare_readings(mine, other)
    counts = Counter({"readings": len(mine)})
    found += compare_episodes(a.episodes(), b.episodes())
    counts["episodes"] = len(a.episodes().filter(pl.col("state") != "retracted"))
    if rows:
        for rollup in ROLLUPS:
            x, y = (s.panes(rollup, 0, END + 10**9) for s in (a, b))
            found += compare_rows(rollup.name, x, y)
            counts["rows"] += len(x)
    if exact:
        for table in ("transitions", "lifecycles_inc", "lifecycles_case", "dead_letters"):
            x, y = (s.page(table, None, 10**6).drop("step", "seen_at", strict=False) for s in (a, b))
            counts[table] += len(x)
            if not x.equals(y):
                found.append(Mismatch(table, (len(x), len(y)), "frame", "A", "B"))
    return found, counts
