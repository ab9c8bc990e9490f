"""Rules 15, 16, 19 and 35: a brain whose ingest and engine are elsewhere stores what the embedded run stores, however often
rows come again and wherever it is cut off."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from pipelines import transport
from pipelines.delivery import Durable
from pipelines.journal import Journal
from pipelines.remote_stream import RemoteStream
from pipelines.streams import MINUTE_MS
from sinks.memory import MemorySink
from tests.conformance.small_city import END, log
from tests.conformance.small_runs import arrivals, differences, sink
from tests.conformance.transported import Sent, followed, remote_run, repeated, sent
from tests.fakes.listed import DirectStore
from tests.faults.test_restart_in_process import Begun, broken_at, compared

JUDGED_TO = END + 30 * MINUTE_MS


@pytest.fixture(scope="module")
def embedded() -> tuple[MemorySink, Sent]:
    return sent(arrivals(log(3), 3), JUDGED_TO)


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    total: Counter[str] = Counter()
    yield total
    print(f"\ntransport: {dict(total)} compared")


def brain_of(one: Sent, seed: int = 0) -> MemorySink:
    kept = sink()
    followed(remote_run(one, DirectStore(kept), 1), seed)
    return kept


def found(a: MemorySink, b: MemorySink) -> tuple[list[Any], Counter[str]]:
    wrong, counts = differences(a, b)
    for table in ("lifecycles_inc", "lifecycles_case", "dead_letters"):
        x, y = (s.page(table, None, 10**6).drop("step", "seen_at", "part", strict=False) for s in (a, b))
        counts[table] += len(x)
        wrong += [] if x.equals(y) else [table]
    return wrong, counts


@pytest.mark.parametrize("seed", range(2))
def test_rows_from_elsewhere(embedded: tuple[MemorySink, Sent], counted: Counter[str], seed: int) -> None:
    kept, one = embedded
    wrong, counts = found(kept, brain_of(one if seed == 0 else repeated(one, random.Random(seed)), seed))
    assert not wrong, [str(x) for x in wrong[:5]]
    assert counts["readings"] > 3000 and counts["episodes"] > 5 and counts["rows"] > 500 and counts["dead_letters"] > 5
    counted.update(counts)


class Remote(Begun):
    """A brain that is cut off; each start is given the topics anew."""

    def __init__(self, one: Sent, folder: Path) -> None:
        super().__init__({}, None, folder, True)  # type: ignore[arg-type]
        self.one = one

    def life(self, writes: int | None = None) -> int:
        self.epoch += 1
        store, journal = self.store(self.kept, writes), Journal(self.folder, fsync=False)
        was = self.found(self.folder)
        run = remote_run(self.one, store, self.epoch, Durable(journal, was), self.publish)
        self.again += len(was.plans) if was else 0
        run.resume()
        followed(run, 5)
        journal.close()
        return store.written


@pytest.mark.parametrize("seed", range(2))
def test_restarts_at_any_write(embedded: tuple[MemorySink, Sent], counted: Counter[str], seed: int) -> None:
    """Steps of other sizes than those of the run that was cut off, so corrections may be told at other steps; what is
    planned is done again as it was."""
    rnd = random.Random(seed)
    one = repeated(embedded[1], rnd)
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        calm, broken = Remote(one, Path(a)), Remote(one, Path(b))
        broken_at(broken, calm.life(), [rnd.random() for _ in range(2)])
    wrong, counts = found(embedded[0], broken.kept)
    assert not wrong, [str(x) for x in wrong[:5]]
    _, told = compared(calm, broken)
    seqs = broken.kept.transitions().group_by("episode_id").agg(pl.col("seq").sort())
    assert all(list(row) == list(range(1, len(row) + 1)) for row in seqs["seq"]) or all(
        list(row) == list(range(len(row))) for row in seqs["seq"]
    )
    counted.update(counts)
    counted["restarts"] += broken.epoch - 1
    counted["steps done again"] += told["done again"]


def test_negative_control_panes_that_are_not_complete(
    embedded: tuple[MemorySink, Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pane that is handed over when its manifest is there, whatever of its rows is."""
    kept, one = embedded
    rows = list(one.rows)
    manifests = [n for n, record in enumerate(rows) if b'"manifest"' in record]
    for n in manifests[::2]:  # a manifest long before its last row: of another partition of the topic, say
        rows.insert(n, rows.pop(n - 1))
        rows.insert(min(n + 40, len(rows)), rows.pop(n))
    hasty = Sent(tuple(rows), one.dead, one.control, one.events)
    assert not found(kept, brain_of(hasty))[0]
    real = transport.Collected.add

    def add(self: transport.Collected, records: Any) -> int:
        return real(self, [x | {"n": 0} if x.get("manifest") else x for x in records])

    monkeypatch.setattr(transport.Collected, "add", add)
    assert found(kept, brain_of(hasty))[0]


def test_negative_control_repeated_late_rows(
    embedded: tuple[MemorySink, Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport.SeenLate, "add", lambda self, part, offsets: np.ones(len(offsets), np.bool_))
    assert found(embedded[0], brain_of(repeated(embedded[1], random.Random(1)), 1))[0]


def test_open_panes_are_for_screens_only(embedded: tuple[MemorySink, Sent]) -> None:
    """What an engine has of panes that are not final makes provisional readings and nothing else."""
    kept, one = embedded
    rows = [record for record in map(orjson.loads, one.rows) if record.get("late") is False]
    stored = sink()
    run = remote_run(one, DirectStore(stored), 1)
    mine = [stream for stream in run.streams.values() if isinstance(stream, RemoteStream)]
    for stream in mine:
        stream.show([{"rollup": ["a"]}, {}, rows[0] | {"frame": "x"}, *rows[: len(rows) // 2]])
        stream.show(rows[len(rows) // 3 :])
        stream.show([rows[0] | {"n": None}])
    there = [stream.open_panes() for stream in mine]
    assert sum(len(one.rows) for panes in there for one in panes) == len(rows)
    shown: list[int] = []
    followed(run, 3, lambda: shown.append(len(run.provisional())))
    plain: list[int] = []
    without = remote_run(one, DirectStore(sink()), 1)
    followed(without, 3, lambda: plain.append(len(without.provisional())))
    assert sum(shown) > 1.2 * sum(plain) > 0, (shown, plain)
    wrong, counts = found(kept, stored)
    assert not wrong and counts["readings"] > 3000, [str(x) for x in wrong[:5]]
    print(f"\n{len(rows):,} rows shown ahead; {sum(shown):,} provisional readings with them, {sum(plain):,} without")


def test_what_is_no_row_is_set_aside(embedded: tuple[MemorySink, Sent]) -> None:
    """A record of another frame, of an unknown rollup, and one that is none cost only themselves, and are named."""
    kept, one = embedded
    foreign = one.rows[0].replace(b'"frame":"', b'"frame":"x')
    odd = (b"{", b"[]", b'{"rollup":["a"]}', b'{"rollup":"nobody","frame":"1"}', foreign, foreign,
           one.rows[0].replace(b'"n":', b'"n":"many","was":'))  # fmt: skip
    stored = brain_of(Sent((*odd, *one.rows), (b'{"source":1}', *one.dead), (b"nothing", *one.control), one.events))
    letters = stored.page("dead_letters", None, 10**6).filter(pl.col("reason") == "set_aside")
    assert (
        len(letters) >= 5 and "nobody" in " ".join(letters["detail"]) and "another frame" in " ".join(letters["detail"])
    )
    wrong = differences(kept, stored)[0]
    assert not wrong, [str(x) for x in wrong[:5]]
