"""Indicators: one number with one id, its kind (rule 18), windows, formula, method, thresholds and a worked case.

A formula is a Polars expression and exists once. Integers are summed, over panes and over children; what is not
additive is computed from the sums at the end (`value`) or at the site before its children are added (`partial`).
An indicator checks itself when it is built: its worked case must give the number that the standard's text gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal

import polars as pl

from pipelines.rollup import Rollup
from pipelines.streams import Stream
from pipelines.windows import Window

Domain = Literal["traffic", "environment", "safety", "government", "health", "elderly", "fiscal", "living", "city"]
Grade = Literal["V", "S", "P"]
"""Evidence: read in the primary document, a secondary source, our proposal."""
Good = Literal["up", "down", "none"]
NANO: Final = 1_000_000_000
"""Values that are reduced are rounded half-even to 1e-9 and summed as Int64 (rule 18)."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Bounds between the bands of a value, ascending, with where they come from. A city may override the values."""

    values: tuple[float, ...]
    grade: Grade
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Panes:
    """Kinds merge, reduce, as-of and histogram: a number from the pane rows of a window, then from child places.

    For each (place, window): `aggregate` are Polars aggregations over the rows of its panes; they see the rollup's
    measures, `n`, `pane_start`, `window_start`, `window_end`, `bucket` (histogram) and the place attributes named in
    `attributes` that were valid at the pane (null where the city does not know them). `partial` makes Int64 numbers of
    them, null where the place contributes nothing (default: the aggregates themselves). Parents combine the partials
    of their children by `combine`. `value` (Float64), `reason` (text or null: why the value is null although there are
    samples) and `detail` (a struct) are computed from the partials alike at every level.
    """

    rollup: Rollup
    aggregate: tuple[pl.Expr, ...]
    value: pl.Expr
    partial: tuple[pl.Expr, ...] = ()
    combine: Literal["sum", "max"] = "sum"
    num: str | None = "num"
    den: str | None = "den"
    reason: pl.Expr = field(default_factory=lambda: pl.when(pl.col("den").fill_null(0) == 0).then(pl.lit("no_weight")))
    caution: pl.Expr | None = None
    """Text or null: why a reading that keeps its value is `degraded`."""
    detail: tuple[pl.Expr, ...] = ()
    attributes: tuple[str, ...] = ()
    reduce: bool = False
    """A parent is a function over its children's values: `samples` counts children with a value (rule 21)."""
    levels: tuple[str, ...] = ()
    """Place kinds that are published; empty: all of the stream's."""
    lookback_ms: int = 0
    by_bucket: bool = False
    """Partials are kept per histogram bucket; `value`, `reason` and `detail` are then aggregations over (bucket, partials)
    of one cell, in the order of the buckets."""
    steps: tuple[tuple[pl.Expr, ...], ...] = ()
    """Columns that are computed of the partials at every level, step by step, before `value`, `reason`, `caution` and
    `detail`, which see them: a long formula is then evaluated once. Not with `by_bucket`."""

    def __post_init__(self) -> None:
        if self.by_bucket and self.steps:
            raise ValueError(f"a formula over rollup {self.rollup.name!r} has steps and by_bucket; use one of them")


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Kind lifecycle (rule 22): `facts` turns merged cases into decisions, which are then counted in windows.

    Input of `facts`: a frame with `case_id, place`, a Int64 time (or null) for every milestone of the stream, its merged
    attributes, and the city's zone. Output: `case_id, place, t` (decision time, ms), `num, den` (Int64), `as_of` (the
    newest milestone that the decision used) and, optionally, `coarse` (Boolean: decided from times too coarse for the
    limit: the reading is `degraded`).
    """

    stream: Stream
    facts: Callable[[pl.DataFrame, str], pl.DataFrame]
    value: pl.Expr
    pane_ms: int = 60_000


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """Kind stock (rule 23): what is open at the end of each window, its last millisecond included.

    `intervals` turns merged cases into `case_id, place, opened, closed` (null = still open) and `marked` (the instant
    from which the open case counts in the numerator, e.g. its due time; null = never), `as_of`.
    """

    stream: Stream
    intervals: Callable[[pl.DataFrame, str], pl.DataFrame]
    value: pl.Expr


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """Kind derived: from other readings of the same place and window. `value` and `reason` see, for an input `a.b`,
    the columns `a.b` (value), `a.b:num`, `a.b:den`."""

    of: tuple[str, ...]
    value: pl.Expr
    levels: tuple[str, ...] = ()
    detail: tuple[pl.Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One input of a composite: piecewise linear score, from (value, score) points ascending in value, and its weight."""

    indicator: str
    weight: int
    score: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Composite:
    """As-of composite (rule 24): null when more than `missing_share` of the weight is missing at T."""

    parts: tuple[Part, ...]
    lag_ms: int
    validity_ms: int
    missing_share: float = 0.3
    levels: tuple[str, ...] = ("district", "city")


Kind = Panes | Cases | Stock | Derived | Composite


@dataclass(frozen=True, slots=True)
class Case:
    """A worked case. For panes: rows of one window of one place (`measure: value`, with `pane_start` counted from the
    window's start) and its attributes; for cases and stocks: merged cases; for derived: the inputs' columns; for a
    composite: the values of its parts. `gives` is the value, to 1e-9; None = null."""

    rows: tuple[Mapping[str, Any], ...]
    gives: float | None
    source: str
    window_end: int = 1_772_409_600_000
    """2026-03-02T00:00:00Z, 08:00 in Shanghai: the end of the worked window."""


@dataclass(frozen=True, slots=True, eq=False)
class Indicator:
    id: str
    method_id: str
    zh: str
    en: str
    unit: str
    domain: Domain
    window: Window
    kind: Kind
    thresholds: Thresholds
    case: Case
    good: Good = "none"
    min_samples: int = 1
    """Fewer samples than this give a null with reason `too_few_samples`."""
    target: float | None = None
    decimals: int = 1

    def __post_init__(self) -> None:
        if list(self.thresholds.values) != sorted(self.thresholds.values):
            raise ValueError(f"indicator {self.id!r}: thresholds {self.thresholds.values} must ascend")
        given = worked(self)
        expected = self.case.gives
        if (given is None) != (expected is None) or (
            given is not None and expected is not None and not math.isclose(given, expected, rel_tol=1e-9, abs_tol=1e-9)
        ):
            raise ValueError(
                f"indicator {self.id!r}: its worked case gives {given}, not {expected} ({self.case.source})"
            )

    @property
    def stream(self) -> Stream | None:
        """The stream it reads; None where it reads other readings."""
        match self.kind:
            case Panes(rollup=rollup):
                return rollup.stream
            case Cases(stream=stream) | Stock(stream=stream):
                return stream
            case Derived() | Composite():
                return None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Ids of the readings it reads."""
        match self.kind:
            case Derived(of=of):
                return of
            case Composite(parts=parts):
                return tuple(p.indicator for p in parts)
            case _:
                return ()


def nanos(value: pl.Expr) -> pl.Expr:
    """A Float64 value as Int64 billionths, rounded half-even (rule 18)."""
    return (value * NANO).round(0, mode="half_to_even").cast(pl.Int64)


def score(points: Sequence[tuple[float, float]], value: float) -> float:
    """The piecewise linear score of a value; flat beyond the ends."""
    if value <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if value <= x1:
            return y0 + (y1 - y0) * (value - x0) / (x1 - x0)
    return points[-1][1]


def worked(indicator: Indicator, zone: str = "Asia/Shanghai") -> float | None:
    """The value that the formula gives for the worked case."""
    case, kind = indicator.case, indicator.kind
    frame = pl.DataFrame(list(case.rows), infer_schema_length=None)
    match kind:
        case Panes():
            from pipelines.windows import start

            opened = start(indicator.window, case.window_end, zone)
            frame = frame.with_columns(
                pl.col("pane_start") + opened,
                pl.lit(opened).alias("window_start"),
                pl.lit(case.window_end).alias("window_end"),
                *([] if "n" in frame.columns else [pl.lit(1, dtype=pl.Int64).alias("n")]),
            )
            missing = [m.name for m in kind.rollup.measures if m.name not in frame.columns]
            frame = frame.with_columns(
                [pl.lit(0 if _summed(kind.rollup, m) else None, dtype=pl.Int64).alias(m) for m in missing]
            )
            frame = frame.with_columns(
                [pl.lit(None, dtype=pl.Int64).alias(a) for a in kind.attributes if a not in frame.columns]
            )
            if kind.by_bucket:
                cells = frame.group_by("bucket").agg(kind.aggregate).with_columns(kind.partial).sort("bucket")
                cells = cells.select(kind.value.alias("value"), kind.reason.alias("reason"))
            else:
                cells = frame.select(kind.aggregate).with_columns(kind.partial)
                for step in kind.steps:
                    cells = cells.with_columns(step)
                cells = cells.select(kind.value.alias("value"), kind.reason.alias("reason"))
            value, reason = cells.row(0)
            return None if reason is not None else _finite(value)
        case Cases():
            facts = kind.facts(_cases(frame, kind.stream), zone)
            return _share(facts.select(pl.col("num").sum(), pl.col("den").sum()), kind.value)
        case Stock():
            at = case.window_end - 1
            open_ = kind.intervals(_cases(frame, kind.stream), zone).filter(
                (pl.col("opened") <= at) & (pl.col("closed").is_null() | (pl.col("closed") > at))
            )
            counts = open_.select(
                (pl.col("marked") <= at).sum().cast(pl.Int64).alias("num"), pl.len().cast(pl.Int64).alias("den")
            )
            return _share(counts, kind.value)
        case Derived():
            return _finite(frame.select(kind.value.alias("value")).item())
        case Composite():
            given = {row["indicator"]: row["value"] for row in case.rows}
            return composite(kind, given)[0]


def composite(kind: Composite, given: Mapping[str, float | None]) -> tuple[float | None, dict[str, float]]:
    """Weighted mean of the scores of the parts that have a value, and the scores; null if too much weight is missing."""
    total = sum(p.weight for p in kind.parts)
    scores, weight, points = {}, 0, 0.0
    for part in kind.parts:
        value = given.get(part.indicator)
        if value is not None:
            scores[part.indicator] = score(part.score, value)
            weight += part.weight
            points += part.weight * scores[part.indicator]
    if not weight or total - weight > kind.missing_share * total:
        return None, scores
    return points / weight, scores


def _share(counts: pl.DataFrame, value: pl.Expr) -> float | None:
    return _finite(counts.select(value.alias("value")).item()) if counts["den"].item() else None


def _finite(value: float | int | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _summed(rollup: Rollup, name: str) -> bool:
    return next(m for m in rollup.measures if m.name == name).kind in ("count", "sum")


def _cases(frame: pl.DataFrame, stream: Stream) -> pl.DataFrame:
    """The worked cases with every column that merged cases have."""
    from pipelines.lifecycle import case_schema

    schema = case_schema(stream)
    return pl.DataFrame(
        {n: frame[n] if n in frame.columns else pl.Series(n, [None] * len(frame), dtype=t) for n, t in schema.items()}
    ).cast(schema)  # type: ignore[arg-type]
