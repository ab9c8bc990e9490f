"""Ingest onto a log: batches that carry their state, and restarts after any of them (rules 7, 8, 11), without a broker."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import polars as pl
import pytest

from pipelines import canonical, state_records
from pipelines.delivery import Attached
from pipelines.log_writer import LogWriter, Records, claimed, saved_places
from pipelines.model import NEVER, PlaceRegistry
from pipelines.state_records import PIECE_BYTES, StateRecords
from pipelines.streams import Flag, Int, Stream, Text
from pipelines.watermark import Input
from tests.fakes.listed import ListedSource, Record

STREAM = Stream(
    "odd", place="site", columns=(Int("a", "pieces", -9, 9, nullable=True), Text("kind", nullable=True), Flag("on")),
    disorder_ms=5_000, period_ms=None, dedup=("t", "site", "a"), horizon_ms=20_000,
)  # fmt: skip
CITY, START = "town", 1_774_742_400_000
PLACES = ("p1", "大桥路口 3", 'l\'été "x"', "back\\slash", " spaced ", "new\nline", "\u2028")


class Topics:
    """What a cluster keeps: logs, and the newest value of each key of the state."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[tuple[bytes | None, bytes | None]]] = defaultdict(list)
        self.state: dict[bytes, bytes] = {}

    def commit(self, batch: Sequence[Records]) -> None:
        for run in batch:
            if run.topic != state_records.topic(CITY):
                self.logs[run.topic, run.partition] += run.records
                continue
            for key, value in run.records:
                assert key is not None
                if value is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = value

    def log(self, partition: int) -> list[dict[str, Any]]:
        return [orjson.loads(v) for _, v in self.logs[canonical.topic(CITY, "odd"), partition] if v is not None]


def records(rnd: random.Random, count: int) -> list[Record]:
    out: list[Record] = []
    t = START
    for _ in range(count):
        t += rnd.randint(0, 2_000)
        if rnd.random() < 0.05:
            out.append({"bad": "bad_json", "arrival": t})
        elif out and rnd.random() < 0.2 and "t" in out[-1]:
            out.append({**out[-1], "arrival": t})
        else:
            late = rnd.randint(0, 9_000)
            out.append(
                {"t": t - late, "place": rnd.choice(PLACES), "a": rnd.choice([None, *range(-9, 10)]), "kind": "x", "on": 1,
                 "arrival": t}
            )  # fmt: skip
    return out


def writer(topics: Topics, inputs: Sequence[list[Record]], now: list[int], *, whole: bool = False) -> LogWriter:
    """As a start makes it: from what the topics hold."""
    saved = StateRecords(state_records.prefix("odd", "one"))
    parts = saved.load(topics.state)
    targets = {canonical.part_of(canonical.topic(CITY, "odd"), n): n for n in range(3)}
    attached = [
        Attached(
            ListedSource(f"in{n}", STREAM, r, blocks=sizes(n), clock=lambda: now[0]), Input(f"in{n}", [*targets][n])
        )
        for n, r in enumerate(inputs)
    ]
    made = LogWriter(
        CITY, "one", STREAM, attached, targets, owner="me", identity={"run": "test"}, live=True, start=START,
        configured=["p1"], places=saved_places(parts, "odd"),
    )  # fmt: skip
    if parts:
        made.load(parts, saved)
    return made


def sizes(seed: int) -> Iterator[int]:
    rnd = random.Random(seed)
    while True:
        yield rnd.randint(1, 40)


def run(inputs: Sequence[list[Record]], seed: int | None, broken: bool = False) -> Topics:
    """All that arrives, a beat a second; with a seed the process is killed after some of the batches, and before some."""
    rnd, topics, now = random.Random(seed), Topics(), [START]
    made, since = writer(topics, inputs, now), START
    while now[0] < START + 260_000:
        now[0] += 1000
        made.intake.poll(now[0])
        made.intake.tick(now[0])
        if now[0] % 3000:
            continue
        batch = made.batch(now[0], 0)
        if seed is not None and rnd.random() < 0.2:  # killed before the commit: what was read is read again
            now[0] = since
            made = writer(topics, inputs, now)
            continue
        if broken:
            batch = [r for r in batch if r.topic != state_records.topic(CITY) or rnd.random() < 0.8]
        topics.commit(batch)
        since = now[0]
        if seed is not None and rnd.random() < 0.2:
            made = writer(topics, inputs, now)
    return topics


@pytest.fixture(scope="module")
def inputs() -> list[list[Record]]:
    rnd = random.Random(7)
    return [records(rnd, 250), records(rnd, 150)]


def test_restarts_leave_the_same_log(inputs: list[list[Record]]) -> None:
    calm = run(inputs, None)
    events = [[r for r in calm.log(n) if "t" in r] for n in range(3)]
    assert len(events[0]) > 150 and len(events[1]) > 80 and not events[2]
    assert any(r["late"] for r in events[0]) and calm.logs["dead.town", 0]
    for seed in range(3):
        killed = run(inputs, seed)
        assert killed.logs.keys() == calm.logs.keys()
        for key, log in calm.logs.items():
            assert killed.logs[key] == log, key
    for n in range(3):
        wm = [r["wm"] for r in calm.log(n) if r["wm"] is not None]
        assert wm == sorted(wm) and len(wm) > 50


def test_negative_control(inputs: list[list[Record]]) -> None:
    """State that is not committed with its batch: events come twice."""
    calm, broken = run(inputs, None), run(inputs, 1, broken=True)
    topic = canonical.topic(CITY, "odd")
    assert len([v for _, v in broken.logs[topic, 0]]) > len([v for _, v in calm.logs[topic, 0]])


def test_counters_are_told(inputs: list[list[Record]]) -> None:
    topics = run(inputs, 3)
    told = [orjson.loads(v) for _, v in topics.logs["control.town", 0] if v is not None]
    last = told[-1]
    assert (last["kind"], last["ingest"], last["stream"]) == ("counters", "one", "odd")
    counters = last["counters"]
    assert counters["received"] == sum(map(len, inputs))
    assert counters["received"] == sum(counters[c] for c in ("accepted", "duplicate", "rejected", "quarantined"))
    assert counters["accepted"] == sum(sum("t" in r for r in topics.log(n)) for n in range(3))
    assert len(topics.logs["dead.town", 0]) == counters["rejected"] + counters["quarantined"] > 5


def test_the_state_stays_as_small_as_the_horizon(inputs: list[list[Record]]) -> None:
    """Parts of keys that are beyond the horizon are gone from the topic."""
    topics, now = Topics(), [START]
    made = writer(topics, inputs, now)
    most = 0
    while now[0] < START + 300_000:
        now[0] += 1000
        made.intake.poll(now[0])
        topics.commit(made.batch(now[0], 0))
        most = max(most, sum(b"/seen/" in key for key in topics.state))
    assert 15 < most < 60


def test_time_that_nobody_read_is_no_silence() -> None:
    """Rule 8: after an hour in which this process was off, what came meanwhile is on time; without that all of it is late."""
    for off in (True, False):
        now = [START + 1000]
        first = [{"t": START, "place": "p1", "a": 1, "kind": "x", "on": 1, "arrival": START}]
        later = [{**first[0], "t": START + 60_000 * n, "arrival": START + 60_000 * n} for n in range(1, 61)]
        made = writer(Topics(), [[*first, *later]], now)
        made.intake.poll(now[0])
        now[0] = START + 3_601_000
        if off:
            made.ingest.unread(3_600_000)
        made.intake.tick(now[0])
        made.intake.poll(now[0])
        late = made.ingest.counters["late"]
        assert made.ingest.counters["accepted"] == 61 and (late == 0 if off else late > 55)


def test_partitions_are_claimed(inputs: list[list[Record]]) -> None:
    topics = run(inputs[:1], None)
    part = canonical.part_of(canonical.topic(CITY, "odd"), 0)
    assert claimed(topics.state, "odd")["one"][part] == 0 and claimed(topics.state, "link") == {}


def test_state_in_pieces() -> None:
    kept: dict[bytes, bytes] = {}

    def apply(changes: list[state_records.Change]) -> None:
        for key, value in changes:
            kept.pop(key, None)
            if value is not None:
                assert len(value) < PIECE_BYTES + 100
                kept[key] = value

    large, small = pl.Series(range(300_000)).to_numpy(), {"a#b/c": [1, None, "x"]}
    one = StateRecords("s/i/")
    apply(one.changes({"x#y": large, "z": small}))
    assert len(kept) > 4
    again = StateRecords("s/i/")
    found = again.load(kept | {b"s/other/x#y#0": b"1 no", b"s/i2/z#0": b"1 no"})
    assert (found["x#y"] == large).all() and found["z"] == small
    apply(again.changes({"x#y": large[:10]}, ["z"]))
    assert [*kept] == [b"s/i/x#y#0"]
    apply(one.changes({"x#y": large}))
    del kept[b"s/i/x#y#1"]
    with pytest.raises(ValueError, match="not whole"):
        StateRecords("s/i/").load(kept)


def test_records_are_read_as_they_were_written() -> None:
    """The encoder and the decoder of `pipelines.canonical`, with every type, nulls and the largest values."""
    registry = PlaceRegistry()
    events = pl.DataFrame(
        {
            "off": range(7), "t": range(START, START + 7), "wm": [NEVER, *range(6)], "late": [True, False] * 3 + [True],
            "id": [0, 1, 2**53 + 1, 2**63, 2**64 - 1, 5, 6], "place": [registry.code(p) for p in PLACES],
            "a": [None, -9, 9, 2**62, -(2**62), 0, 1], "kind": [None, "", '"', "a\nb", "\\", "车", "\x00"],
            "on": [1, 0, None, 1, 0, 1, 0],
        },
        schema_overrides={"id": pl.UInt64, "place": pl.UInt32},
    )  # fmt: skip
    lines = canonical.encoded(events, STREAM, pl.Series(registry.ids))
    assert len(lines) == 7 and orjson.loads(lines[0])["wm"] is None
    found = canonical.decoded([*lines, canonical.tick(START)], range(8), STREAM)
    assert found["t"][7] is None and found["wm"][7] == START
    one = events.with_columns(pl.lit(0, dtype=pl.UInt32).alias("place"))
    assert [orjson.loads(x)["site"] for x in canonical.encoded(one, STREAM, pl.Series(["p1"]))] == ["p1"] * 7
    assert canonical.encoded(events.clear(), STREAM, pl.Series(["p1"])) == []
    named = events.with_columns(pl.Series("site", PLACES)).select(found.columns)
    assert found.head(7).equals(named)
