"""How events are cut, ordered, spread and interrupted changes nothing that is kept (rules 8, 15, 16, 20, 29, 33, 35).

Every run goes through `pipelines.delivery.Run` with the shipped catalogue over six streams: counts, a histogram, last
values, lifecycles and a stock, derived readings and the composite on top, and rules that fire. About one event in
thirty is late, a few by most of an hour, when their panes have left memory; some are copies, some are no events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pipelines.engines import polars_engine
from pipelines.model import Stamped
from pipelines.panes import PaneMemory
from pipelines.readback import ReadBack
from pipelines.rollup import Rollup
from pipelines.streams import MINUTE_MS
from sinks.memory import MemorySink
from tests.conformance.small_city import CITY, END, START, STREAMS, Log, log
from tests.conformance.small_runs import (
    Arrivals,
    How,
    arrivals,
    city_run,
    differences,
    interrupted,
    lived,
    replayed,
    sink,
)
from tests.fakes.listed import DirectStore

SETTINGS = settings(
    max_examples=7,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # a smaller seed is no smaller log
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SEEDS = st.integers(0, 10**6)
COMMITS = st.sampled_from([60, 150, 400, 1000])
BLOCKS = st.sampled_from([1, 7, 50, 300])
INPUTS = st.fixed_dictionaries({s.name: st.integers(1, 5) for s in STREAMS})
LAST = END + 25 * MINUTE_MS
"""When a live run sees its last events, after a long silence; late ones have arrived by then."""
JUDGED_TO = LAST + 5 * MINUTE_MS


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    """What all examples of this file compared."""
    total: Counter[str] = Counter()
    yield total
    print(f"\ninvariance: {dict(total)} compared")


def same(counted: Counter[str], found: tuple[list[Any], Counter[str]], what: str) -> None:
    wrong, counts = found
    assert not wrong, (what, len(wrong), [str(x) for x in wrong[:5]])
    assert counts["readings"] > 3000 and counts["episodes"] > 5, counts
    counted.update(counts)
    counted[f"{what} runs"] += 1


@SETTINGS
@given(SEEDS, COMMITS, BLOCKS, SEEDS)
def test_blocks_steps_and_the_order_of_streams(
    counted: Counter[str], seed: int, commit_events: int, block: int, cut: int
) -> None:
    """The log is the same, so rows are, the late ones with their partition and offset, and all that follows."""
    arrived = arrivals(log(seed), seed)
    a, b = replayed(arrived)[0], replayed(arrived, How(commit_events, block, cut))[0]
    same(counted, differences(a, b), "cut")


@SETTINGS
@given(SEEDS, COMMITS, SEEDS)
def test_permutations_within_the_disorder_bound(
    counted: Counter[str], seed: int, commit_events: int, order: int
) -> None:
    events = log(seed)
    a, b = replayed(arrivals(events, seed))[0], replayed(arrivals(events, order), How(commit_events))[0]
    same(counted, differences(a, b, rows=False), "permuted")


@SETTINGS
@given(SEEDS, INPUTS, st.sampled_from(["one", "each"]), SEEDS)
def test_one_to_five_inputs(counted: Counter[str], seed: int, inputs: dict[str, int], parts: Any, order: int) -> None:
    """Inputs of one canonical partition or of one each; every copy comes soon, and in the input of its original."""
    events = log(seed)
    a = replayed(arrivals(events, seed))[0]
    b = replayed(arrivals(events, order, inputs), How(300, 100, order, parts))[0]
    same(counted, differences(a, b, rows=False), "spread")


@settings(SETTINGS, max_examples=4)
@given(SEEDS, st.sampled_from([100, 300]), st.lists(st.floats(0, 0.999), min_size=1, max_size=2))
@example(6, 150, [0.9])
def test_restarts_at_any_write(counted: Counter[str], seed: int, commit_events: int, crashes: list[float]) -> None:
    """A crash between two steps or within one: the next run starts from the beginning with a higher epoch."""
    arrived, how = arrivals(log(seed), seed), How(commit_events, 50)
    calm = sink()
    store = DirectStore(calm)
    city_run(arrived, how, store, 1).replay()
    broken = interrupted(arrived, [int(share * store.written) for share in crashes], how, how)
    same(counted, differences(calm, broken, exact=True), "restarted")
    newest = broken.newest_readings()["revision"]
    assert newest.min() >> 32 == newest.max() >> 32 == len(crashes) + 1  # type: ignore[operator]


def heartbeats(arrived: Arrivals, events: Log) -> Arrivals:
    """Each input with a last event that arrives at once: from there on only ticks move time, the same in every stream."""
    out: dict[str, dict[str, Any]] = {}
    for stream, inputs in arrived.items():
        last = {k: v for k, v in events[stream][-1].items() if k != "delay"} | {"t": LAST, "arrival": LAST}
        out[stream] = {name: [*records, last] for name, records in inputs.items()}
    return out


@settings(SETTINGS, max_examples=3)
@given(SEEDS, st.sampled_from([1, 2]), SEEDS)
def test_live_equals_replay(counted: Counter[str], seed: int, inputs: int, cut: int) -> None:
    """Ticks, silence, many small steps and provisional views live; one go with --until afterwards (rules 8, 9, 27)."""
    events = log(seed)
    arrived = heartbeats(arrivals(events, seed, dict.fromkeys(events, inputs)), events)
    how = How(block=50, seed=cut, parts="each")
    a = replayed(arrived, How(parts="each"), JUDGED_TO)[0]
    # 90 s later ticks have carried the watermark of a silent stream with D = 60 s exactly to JUDGED_TO.
    b, run = lived(arrived, START, JUDGED_TO + 90_000, how)
    assert {s.watermark // MINUTE_MS * MINUTE_MS for s in run.streams.values()} == {JUDGED_TO}
    same(counted, differences(a, b, rows=False), "live")


# ---------------------------------------------------------------- negative controls: broken code must be seen
def differs(a: Any, b: Any) -> int:
    wrong, counts = differences(a, b, rows=False)
    assert counts["readings"] > 3000
    return len(wrong)


def test_negative_control_disorder_beyond_the_bound_unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order as late events must not matter; not marked as late it must."""
    events = log(3, lates=False)
    a, wild = replayed(arrivals(events, 1))[0], arrivals(events, 2, beyond=30 * MINUTE_MS)
    assert differs(a, replayed(wild, How(100))[0]) == 0
    add = polars_engine.PolarsEngine.add

    def unmarked(self: polars_engine.PolarsEngine, block: Stamped) -> None:
        if block.events is not None:
            events = block.events.with_columns(pl.lit(False).alias("late"))
            block = Stamped(block.stream, block.part, events, block.off, block.last_wm)
        add(self, block)

    monkeypatch.setattr(polars_engine.PolarsEngine, "add", unmarked)
    assert differs(a, replayed(wild, How(100))[0]) > 0


def test_negative_control_fold_in_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """`last` by arrival instead of by time."""
    combine = polars_engine.combine
    last = lambda measure, value: value.last() if measure.kind == "last" else combine(measure, value)  # noqa: E731
    monkeypatch.setattr(polars_engine, "combine", last)
    events = log(4)
    assert differs(replayed(arrivals(events, 1))[0], replayed(arrivals(events, 2))[0]) > 0


def test_negative_control_one_row_less(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = arrivals(log(5), 5)
    a = replayed(arrived)[0]
    add, dropped = PaneMemory.add, []

    def lossy(self: PaneMemory, rows: pl.DataFrame) -> pl.DataFrame:
        if not dropped and self.rollup.name == "http" and len(rows):
            dropped.append(rows[10])
            rows = rows.filter(pl.int_range(pl.len()) != 10)
        return add(self, rows)

    monkeypatch.setattr(PaneMemory, "add", lossy)
    assert differs(a, replayed(arrived)[0]) > 0 and len(dropped) == 1


def test_negative_control_rows_of_an_older_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart that reads back what the crashed run wrote counts late events twice."""
    arrived, how = arrivals(log(6), 6), How(60, 30)
    calm = sink()
    store = DirectStore(calm)
    city_run(arrived, how, store, 1).replay()
    crashes = [store.written - 3]
    assert differs(calm, interrupted(arrived, crashes, how, how)) == 0 and store.read > 3
    monkeypatch.setattr(ReadBack, "panes", _load_all)
    assert differs(calm, interrupted(arrived, crashes, how, how)) > 0


def _load_all(self: ReadBack, rollup: Rollup, since: int, until: int) -> pl.DataFrame:
    assert self._panes is not None
    rows, registry = self._panes(rollup, since, until), self._registries[rollup.stream.name]
    return rows.with_columns(pl.Series("place", [registry.code(p) for p in rows["place"]], dtype=pl.UInt32))


def test_negative_control_no_ticks() -> None:
    """Without ticks a silent stream holds its windows open."""
    events = log(7)
    arrived = heartbeats(arrivals(events, 7), events)
    a = replayed(arrived, How(), JUDGED_TO)[0]
    assert differs(a, lived(arrived, START, JUDGED_TO + 90_000, How(block=50), ticks=False, step_every=0.05)[0]) > 0


def test_what_the_logs_contain() -> None:
    """The examples above must reach what they are for."""
    total: Counter[str] = Counter()
    for seed in range(2):
        store = DirectStore(sink())
        run = city_run(arrivals(log(seed), seed), How(60, 30), store, 1)
        run.replay()
        assert isinstance(store.sink, MemorySink)
        total.update(run.counts.counters)
        total.update(store.sink.episodes()["rule"].to_list())
        total["readings"] += run.counts.readings
        total["corrections"] += run.counts.readings - len(store.sink.newest_readings())
        total["panes read back"] += store.read
    print(f"two logs: {dict(total)}")
    assert total["received"] == total["accepted"] + total["duplicate"] + total["rejected"]
    assert min(total[x] for x in ("late", "duplicate", "rejected", "corrections", "panes read back")) > 5
    assert all(total[rule.name] for rule in CITY.rules), "every rule fires somewhere"


def test_seeds_make_different_logs() -> None:
    assert log(1) != log(2) and log(1) == log(1)
    assert arrivals(log(1), 1) != arrivals(log(1), 2) and arrivals(log(1), 1) == arrivals(log(1), 1)
