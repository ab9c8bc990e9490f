"""Rules 13 to 16 in plain Python, event by event: every rollup, every node and kind of measure, over logs made to be hard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from pipelines import canonical
from pipelines.engines import polars_engine
from pipelines.expr import And, Arith, Col, Compare, Const, IsNull, Node, Not, Or
from pipelines.rollup import PACK, Measure, Rollup
from tests.engines.logs import Grouped, Log, by_polars, columns_of, compared, logs, rollups

Event = dict[str, Any]
CITY = "plain"
ARITH: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__, "-": int.__sub__, "*": int.__mul__, "//": int.__floordiv__,
}  # fmt: skip
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def value(node: Node, event: Event) -> Any:
    """None is null; `and` and `or` are those of three values."""
    match node:
        case Col(name):
            return event[name]
        case Const(given):
            return given
        case Arith(op, left, right):
            a, b = value(left, event), value(right, event)
            return None if a is None or b is None else ARITH[op](a, b)
        case Compare(op, left, right):
            a, b = value(left, event), value(right, event)
            return None if a is None or b is None else COMPARE[op](a, b)
        case IsNull(of):
            return value(of, event) is None
        case And(left, right):
            a, b = value(left, event), value(right, event)
            return False if a is False or b is False else None if a is None or b is None else True
        case Or(left, right):
            a, b = value(left, event), value(right, event)
            return True if a is True or b is True else None if a is None or b is None else False
        case Not(of):
            a = value(of, event)
            return None if a is None else not a


def adds(measure: Measure, rollup: Rollup, event: Event, start: int) -> int | None:
    if measure.where is not None and value(measure.where, event) is not True:
        return None
    if measure.of is None:
        return 1
    found: int | None = value(measure.of, event)
    if found is not None and measure.kind in ("first", "last"):
        assert isinstance(measure.of, Col)
        return (event["t"] - start) * PACK + found - rollup.range_minimum(measure.of.name)
    return found


def folded(kind: str, values: list[int | None]) -> int | None:
    some = [v for v in values if v is not None]
    if kind in ("count", "sum"):
        return sum(some)
    return (min if kind in ("min", "first") else max)(some, default=None)


def bucket(rollup: Rollup, event: Event) -> int:
    assert rollup.histogram is not None
    found, bounds = value(rollup.histogram.of, event), rollup.histogram.bounds
    return -1 if found is None else next((n for n, bound in enumerate(bounds) if found <= bound), len(bounds))


def by_hand(log: Log, rollup: Rollup) -> Grouped:
    topic, pane = canonical.topic(CITY, log.stream.name), rollup.pane_ms
    key, _ = columns_of(rollup)
    groups: dict[tuple[Any, ...], list[Event]] = {}
    counts: dict[int, int] = {}
    for n, records in enumerate(log.partitions):
        for off, event in enumerate(map(orjson.loads, records)):
            start = event.get("t", event["wm"])
            start = start // pane * pane
            if "t" not in event:
                counts.setdefault(start, 0)
                continue
            if rollup.where is not None and value(rollup.where, event) is not True:
                continue
            late = event["late"]
            named = {"place": event[log.stream.place], "pane_start": start, "late": late}
            named |= {"part": canonical.part_of(topic, n), "off": off} if late else {"part": "", "off": -1}
            if rollup.histogram is not None:
                named["bucket"] = bucket(rollup, event)
            groups.setdefault(tuple(named[k] for k in key), []).append(event)
            if not late:
                counts[start] = counts.get(start, 0) + 1
    rows = {}
    for name, events in groups.items():
        start = name[key.index("pane_start")]
        measured = [folded(m.kind, [adds(m, rollup, e, start) for e in events]) for m in rollup.measures]
        rows[name] = (*measured, len(events), max(e["t"] for e in events))
    return Grouped(rows, sorted(counts.items()))


def checked(seed: int, events: int) -> tuple[int, int, int]:
    total = (0, 0, 0)
    for log in logs(seed, events):
        for rollup in (r for r in rollups() if r.stream == log.stream):
            found = compared({rollup.name: by_hand(log, rollup)}, by_polars(log, CITY), log.closing)
            total = (total[0] + found[0], total[1] + found[1], total[2] + found[2])
    return total


@pytest.mark.parametrize("seed", [11, 12])
def test_rows_and_manifests(seed: int) -> None:
    rows, late, manifests = checked(seed, 1500)
    print(f"\n{rows:,} rows ({late:,} late) and {manifests:,} manifests equal")
    assert rows > 3_000 and late > 100 and manifests > 300


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a pane told as its last."""
    monkeypatch.setitem(polars_engine.MERGE, "first", "max")  # type: ignore[misc]
    with pytest.raises(AssertionError, match="odd"):
        checked(11, 300)
