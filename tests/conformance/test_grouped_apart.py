"""A run whose rows come from a job apart, over files, equals one that groups in its own process (rules 15, 16, 32, 35).

The job is a fake that groups plainly; `tests/engines` has the real ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.canonical import decoded, decoded_file, encoded, encoded_file
from pipelines.delivery import Durable
from pipelines.engines import grouped_apart
from pipelines.engines.grouped_apart import GroupedApart, JobFailed, Runner
from pipelines.journal import Journal, recover
from pipelines.model import NEVER, PlaceRegistry, Stamped
from pipelines.rollup import Rollup
from pipelines.streams import MINUTE_MS, Text
from sinks.memory import MemorySink
from tests.conformance.small_city import END, STREAMS, log
from tests.conformance.small_runs import Arrivals, How, arrivals, city_run, differences, replayed, sink
from tests.fakes.grouping import Change, plain
from tests.fakes.listed import Crash, DirectStore

Told = list[tuple[int, int]]
WHOLE = How()
SPREAD = {stream.name: n for n, stream in enumerate(STREAMS, 1)}


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    total: Counter[str] = Counter()
    yield total
    print(f"\ngrouped apart: {dict(total)} compared")


def apart_run(
    arrived: Arrivals, runner: Runner, kept: MemorySink, how: How = WHOLE, until: int | None = None
) -> MemorySink:
    with GroupedApart(runner) as apart:
        run = city_run(arrived, how, DirectStore(kept), 1, apart=apart)
        run.replay(until)
        assert not apart.folder.exists() and apart.done
    return kept


def same(counted: Counter[str], a: MemorySink, b: MemorySink, what: str) -> None:
    wrong, counts = differences(a, b)
    letters = [s.page("dead_letters", None, 10**6).drop("step", "seen_at", strict=False) for s in (a, b)]
    assert letters[0].equals(letters[1])
    assert not wrong, (what, len(wrong), [str(x) for x in wrong[:5]])
    assert counts["readings"] > 3000 and counts["episodes"] > 5, counts
    counted.update(counts)
    counted["dead letters"] += len(letters[0])
    counted[f"{what} runs"] += 1


@pytest.mark.parametrize(("seed", "piece", "cut"), [(1, 500_000, None), (2, 50, 100), (3, 1, 7)])
@pytest.mark.parametrize("until", [None, END + 90 * MINUTE_MS + 1])
def test_rows_from_files_make_the_same_readings(
    counted: Counter[str], monkeypatch: pytest.MonkeyPatch, seed: int, piece: int, cut: int | None, until: int | None
) -> None:
    """Several inputs of a stream, late events that memory has given up, rows in pieces of any size, time that goes on."""
    monkeypatch.setattr(grouped_apart, "ROWS_A_PIECE", piece)
    arrived = arrivals(log(seed), seed, SPREAD)
    how = How(300, 100, seed)
    wanted, run = replayed(arrived, how, until)
    found = apart_run(arrived, plain(events_a_file=cut), sink(), how, until)
    same(counted, wanted, found, "until" if until else "apart")
    assert run.counts.counters["late"] > 5


@pytest.mark.parametrize("shares", [[0.2, 0.7], [0.95]])
def test_killed_and_started_over(
    counted: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shares: list[float]
) -> None:
    """Nothing of it is in the checkpoint before its end, and all of it then."""
    monkeypatch.setattr(grouped_apart, "ROWS_A_PIECE", 200)
    arrived, how = arrivals(log(4), 4), How(300, 50)

    def life(kept: MemorySink, folder: Path, epoch: int, writes: int | None = None) -> int:
        store, journal = DirectStore(kept, writes), Journal(folder, fsync=False)
        with GroupedApart(plain()) as apart:
            city_run(arrived, how, store, epoch, durable=Durable(journal, recover(folder)), apart=apart).replay()
        journal.close()
        return store.written

    calm, broken = sink(), sink()
    written = life(calm, tmp_path / "calm", 1)
    for epoch, share in enumerate(shares, 1):
        with pytest.raises(Crash):
            life(broken, tmp_path / "broken", epoch, int(share * written))
        found = recover(tmp_path / "broken")
        assert found is not None and not found.plans and found.parts["run"]["step"] == 0
    life(broken, tmp_path / "broken", len(shares) + 1)
    same(counted, calm, broken, "killed")
    same(counted, replayed(arrived, how)[0], broken, "killed")
    finished = recover(tmp_path / "broken")
    assert finished is not None and finished.parts["run"]["finished"]
    assert life(broken, tmp_path / "broken", 9) < 5, "a finished run is only shown"


def changed(what: str) -> Change:
    """A job that is wrong in the first pane of stream `link` that has something to change."""

    def change(rollup: Rollup, rows: pl.DataFrame, told: Told) -> tuple[pl.DataFrame, Told]:
        if rollup.stream.name != "link":
            return rows, told
        late = rows.select(pl.col("late").arg_max()).item()
        on_time = rows.select((~pl.col("late")).arg_max()).item()
        match what:
            case "measure":
                measure = rollup.measures[0].name
                rows = rows.with_columns(pl.col(measure) + (pl.int_range(pl.len()) == on_time).cast(pl.Int64))
            case "late row lost":
                rows = rows.filter(pl.int_range(pl.len()) != late)
            case "row lost":
                rows = rows.filter(pl.int_range(pl.len()) != on_time)
            case "row twice":
                rows = pl.concat([rows, rows[on_time]])
            case "manifest lost":
                told = told[1:]
            case "pane lost":
                rows, told = rows.filter(pl.col("late") | (pl.col("pane_start") != told[0][0])), told[1:]
        return rows, told

    return change


def test_negative_control() -> None:
    """A sum that is too large by one is a difference."""
    arrived = arrivals(log(5), 5)
    wanted, found = replayed(arrived)[0], apart_run(arrived, plain(changed("measure")), sink())
    wrong, counts = differences(wanted, found)
    assert wrong and counts["rows"] > 1000


@pytest.mark.parametrize("what", ["late row lost", "row lost", "row twice", "manifest lost", "pane lost"])
def test_a_job_that_loses_something_is_refused(what: str) -> None:
    with pytest.raises(JobFailed, match="plain, rollup 'link'"):
        apart_run(arrivals(log(5), 5), plain(changed(what)), sink())


def test_a_job_that_did_not_finish_a_file_is_refused() -> None:
    real = plain()

    def group(logs: Any, folder: Path) -> None:
        real.group(logs, folder)
        (folder / "link" / ".part-0.inprogress").touch()

    with pytest.raises(JobFailed, match="was not finished"):
        apart_run(arrivals(log(5), 5), Runner("plain", group), sink())


def test_what_only_a_finite_run_of_one_partition_can_do() -> None:
    stream = next(s for s in STREAMS if s.name == "link")
    with GroupedApart(plain()) as apart:
        with pytest.raises(ValueError, match="2 partitions"):
            apart.engine(stream, (), ("a", "b"), PlaceRegistry())
        engine = apart.engine(stream, (), ("a",), PlaceRegistry())
        with pytest.raises(ValueError, match="cannot join"):
            engine.join("b")
        assert engine.finish() == [] and engine.take() == []
        engine.add(Stamped("link", "a", None, 0, 5))
        with pytest.raises(ValueError, match="nothing can follow"):
            engine.add(Stamped("link", "a", pl.DataFrame({"t": [1]}), 0, 5))


def test_records_are_read_as_they_were_written() -> None:
    """Every type of column, texts that JSON must escape, stamps, ticks."""
    ids = ("p1", "大桥路口 3", 'l\'été "x"', "back\\slash\n\t", "🚦")
    names, compared = pl.Series(ids), 0
    for stream in STREAMS:
        n = len(ids)
        columns = {c.name: [None, *ids[1:]] if isinstance(c, Text) else [*range(-2, n - 2)] for c in stream.columns}
        events = pl.DataFrame(
            {"off": range(7, 7 + n), "t": range(n), "wm": [NEVER, *range(1, n)], "late": [True] + [False] * (n - 1)}
        ).with_columns(
            pl.Series("id", [2**64 - 1 - k for k in range(n)], dtype=pl.UInt64),
            pl.Series("place", [*reversed(range(n))], dtype=pl.UInt32),
            *(pl.Series(name, values) for name, values in columns.items()),
        )
        block = Stamped(stream.name, "files:x/1", events, 7, n - 1)
        want = events.with_columns(pl.Series(stream.place, [*reversed(ids)])).drop("place")
        for found in (
            decoded(encoded(events, stream, names), range(7, 7 + n), stream),
            decoded_file(encoded_file(block, stream, names), stream),
        ):
            assert found.select(want.columns).equals(want), stream.name
            compared += len(found)
        tick = encoded_file(Stamped(stream.name, "a", None, 3, 60_000), stream, names)
        assert tick == b'{"wm":60000,"part":"a","off":3}\n'
        assert encoded_file(Stamped(stream.name, "a", None, 0, NEVER), stream, names) == b""
    print(f"\n{compared} records read as written")
    assert compared >= 2 * 5 * len(STREAMS)
