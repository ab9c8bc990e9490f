"""Compares two outputs, or two frames, by rule 32: what must be equal, what may differ, and what differs first.

Rows exactly (but `step`); readings by key exactly, but `value` to 1 ulp and `revision` not at all; episodes by id on
level, state, started_at and ended_at, retracted ones aside; dead letters by (source, position) but `seen_at`.
Transitions are the history of how a result came about and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

PRESENT: Final = "present"
MISSING: Final = "missing"
PART: Final = 250_000
"""Rows of one side that are compared at a time, or one point in time if that has more."""
READING_KEY: Final = ("indicator", "method_id", "place_kind", "place", "window_start", "window_end")
READING_VALUES: Final = ("unit", "value", "state", "completeness", "samples", "num", "den", "detail", "as_of")
ROW_KEY: Final = ("pane_start", "place", "bucket", "part", "off")
EPISODE_VALUES: Final = ("level", "state", "started_at", "ended_at")


class NothingCompared(ValueError):
    """Two outputs without a single common kind of content: a comparison that compares nothing proves nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How the frames of one table are compared. `outer` and `time` are columns by which files are read in parts."""

    key: tuple[str, ...]
    values: tuple[str, ...]
    ulp: frozenset[str] = frozenset()
    aside: pl.Expr | None = None
    outer: str | None = None
    time: str | None = None


READINGS: Final = Rule(READING_KEY, READING_VALUES, frozenset(("value",)), outer="indicator", time="window_start")
EPISODES: Final = Rule(("episode_id",), EPISODE_VALUES, aside=pl.col("state") == "retracted")
DEAD_LETTERS: Final = Rule(("source", "position"), ("stream", "reason", "detail", "payload"))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference. `column` is '' when a row is on one side only: then a and b are 'present' or 'missing'."""

    table: str
    key: tuple[Any, ...]
    column: str
    a: object
    b: object

    def __str__(self) -> str:
        where = f"{self.table} {' / '.join(map(str, self.key))}"
        return f"{where}: {self.column or 'row'}: {self.a!r} / {self.b!r}"


@dataclass(frozen=True, slots=True)
class Compared:
    """One table: keys on both sides, keys on one side, values that differ; the first differences by key."""

    table: str
    compared: int
    only_a: int = 0
    only_b: int = 0
    different: int = 0
    first: tuple[Mismatch, ...] = ()

    @property
    def equal(self) -> bool:
        return not (self.only_a or self.only_b or self.different)

    def plus(self, other: Compared, limit: int) -> Compared:
        return Compared(
            self.table,
            self.compared + other.compared,
            self.only_a + other.only_a,
            self.only_b + other.only_b,
            self.different + other.different,
            (self.first + other.first)[:limit],
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """The result of comparing two outputs; falsy when they are equal."""

    tables: tuple[Compared, ...] = field(default=())

    @property
    def equal(self) -> bool:
        return all(t.equal for t in self.tables)

    @property
    def compared(self) -> int:
        return sum(t.compared for t in self.tables)

    def __bool__(self) -> bool:
        return not self.equal

    def __str__(self) -> str:
        lines = []
        for t in self.tables:
            verdict = "equal" if t.equal else f"{t.different} differ, {t.only_a} only in A, {t.only_b} only in B"
            lines.append(f"{t.table}: {t.compared} compared, {verdict}")
            lines += [f"  {mismatch}" for mismatch in t.first]
        return "\n".join(lines)


def compare(table: str, rule: Rule, a: pl.DataFrame, b: pl.DataFrame, first: int = 20) -> Compared:
    """Compares two frames of one table; each key must be there once (ValueError), so give newest revisions."""
    key = list(rule.key)
    wanted = [*key, *rule.values]
    for side, frame in (("A", a), ("B", b)):
        if missing := [c for c in wanted if c not in frame.columns]:
            raise ValueError(f"{table}: {side} has no column {missing[0]!r}; it has {', '.join(frame.columns)}")
    if rule.aside is not None:
        a, b = a.filter(~rule.aside), b.filter(~rule.aside)
    a, b = a.select(_plain(a, wanted)), b.select(_plain(b, wanted))
    for side, frame in (("A", a), ("B", b)):
        if frame.height != (keys := frame.select(key).n_unique()) and frame.height:
            raise ValueError(f"{table}: {side} has {frame.height} rows but {keys} keys; compare newest revisions only")
    both = a.join(b, on=key, how="inner", suffix="\nb", validate="1:1")
    result = Compared(table, both.height)
    for frame, other, sides in ((a, b, (PRESENT, MISSING)), (b, a, (MISSING, PRESENT))):
        alone = frame.join(other, on=key, how="anti")
        found = tuple(Mismatch(table, row, "", *sides) for row in alone.select(key).sort(key).head(first).iter_rows())
        n = alone.height
        result = result.plus(Compared(table, 0, *((n, 0) if sides[0] == PRESENT else (0, n)), first=found), first)
    for column in rule.values:
        x, y = both[column], both[f"{column}\nb"]
        unequal = ~_within_ulp(x, y) if column in rule.ulp else x.ne_missing(y)
        bad = both.filter(unequal)
        if bad.height:
            shown = bad.sort(key).head(first).select(*key, column, f"{column}\nb").iter_rows()
            found = tuple(Mismatch(table, row[:-2], column, row[-2], row[-1]) for row in shown)
            result = result.plus(Compared(table, 0, different=bad.height, first=found), first)
    return result


def compare_readings(a: pl.DataFrame, b: pl.DataFrame, first: int = 20) -> list[Mismatch]:
    """The first differences of two frames of newest readings; NothingCompared when no key is on both sides."""
    return _some(compare("readings", READINGS, a, b, first))


def compare_rows(rollup: str, a: pl.DataFrame, b: pl.DataFrame, first: int = 20) -> list[Mismatch]:
    """The first differences of two frames of rows of a rollup; NothingCompared when no key is on both sides."""
    return _some(compare(f"rows_{rollup}", rows_rule(a), a, b, first))


def compare_episodes(a: pl.DataFrame, b: pl.DataFrame, first: int = 20) -> list[Mismatch]:
    """The first differences of two frames of newest episodes. Two runs without an episode are equal."""
    return list(compare("episodes", EPISODES, a, b, first).first)


def rows_rule(frame: pl.DataFrame) -> Rule:
    """Rows are compared in every column but `step`."""
    key = tuple(k for k in ROW_KEY if k != "bucket" or k in frame.columns)
    return Rule(key, tuple(c for c in frame.columns if c not in (*ROW_KEY, "step")), time="pane_start")


def difference(a: Path, b: Path, first: int = 20) -> Difference:
    """Compares two folders written by `sinks.export`.

    Raises FileNotFoundError when a side is no output, and NothingCompared when no reading and no row was compared.
    """
    for side in (a, b):
        if not (side / "readings.parquet").is_file():
            raise FileNotFoundError(f"{side} is no output: it has no readings.parquet; give a folder of `replay --out`")
    tables = [
        _files("readings", READINGS, a / "readings.parquet", b / "readings.parquet", first),
        _files("episodes", EPISODES, a / "episodes.parquet", b / "episodes.parquet", first),
    ]
    names = sorted({p.name for side in (a, b) for p in (side / "rows").glob("*.parquet")})
    for name in names:
        x, y = a / "rows" / name, b / "rows" / name
        table = f"rows_{name.removesuffix('.parquet')}"
        if x.is_file() and y.is_file():
            tables.append(_files(table, rows_rule(pl.scan_parquet(x).head(0).collect()), x, y, first))
        else:
            there, sides = (x, (PRESENT, MISSING)) if x.is_file() else (y, (MISSING, PRESENT))
            n = int(pl.scan_parquet(there).select(pl.len()).collect().item())
            counts = {"only_a": n} if there is x else {"only_b": n}
            tables.append(Compared(table, 0, **counts, first=(Mismatch(table, ("file",), "", *sides),) if n else ()))
    tables.append(compare("dead_letters", DEAD_LETTERS, _letters(a), _letters(b), first))
    if not any(t.compared for t in tables if t.table == "readings" or t.table.startswith("rows_")):
        raise NothingCompared(f"{a} and {b} have no reading and no row in common; nothing was compared")
    return Difference(tuple(tables))


def _some(compared: Compared) -> list[Mismatch]:
    if not compared.compared:
        raise NothingCompared(
            f"{compared.table}: no key is on both sides ({compared.only_a} only in A, {compared.only_b} only in B)"
        )
    return list(compared.first)


def _files(table: str, rule: Rule, a: Path, b: Path, first: int) -> Compared:
    """Compares two Parquet files part by part, so that memory is bounded by the largest part."""
    x, y = pl.scan_parquet(a), pl.scan_parquet(b)
    result = Compared(table, 0)
    for part in _parts(rule, x, y):
        result = result.plus(compare(table, rule, x.filter(part).collect(), y.filter(part).collect(), first), first)
    return result


def _parts(rule: Rule, a: pl.LazyFrame, b: pl.LazyFrame) -> Iterator[pl.Expr]:
    """Conditions that together cover both sides: ranges of time (of one `outer` value), few rows each."""
    if rule.time is None:
        yield pl.lit(True)
        return
    by = [rule.time] if rule.outer is None else [rule.outer, rule.time]
    counts = pl.concat([side.group_by(by).agg(pl.len().alias("n")) for side in (a, b)])
    rows = counts.group_by(by).agg(pl.col("n").max()).sort(by).collect().iter_rows()
    first: tuple[Any, ...] | None = None
    last: tuple[Any, ...] = ()
    n = 0
    for *at, here in rows:
        if first is not None and (at[:-1] != list(first[:-1]) or n + here > PART):
            yield _between(by, first, last)
            first, n = None, 0
        first, last, n = first or tuple(at), tuple(at), n + here
    if first is not None:
        yield _between(by, first, last)


def _between(by: list[str], first: tuple[Any, ...], last: tuple[Any, ...]) -> pl.Expr:
    """A range, which the statistics of the file answer without reading what lies outside."""
    part = pl.col(by[-1]).is_between(
        pl.lit(first[-1]).dt.cast_time_unit("ms"), pl.lit(last[-1]).dt.cast_time_unit("ms")
    )
    return part if len(by) == 1 else (pl.col(by[0]) == first[0]) & part


def _letters(side: Path) -> pl.DataFrame:
    file = side / "dead_letters.ndjson"
    names = (*DEAD_LETTERS.key, *DEAD_LETTERS.values)
    schema = dict.fromkeys(names, pl.String)
    if not file.is_file() or not file.stat().st_size:
        return pl.DataFrame(schema=schema)
    return pl.read_ndjson(file, schema_overrides=schema).select(names)


def _plain(frame: pl.DataFrame, names: list[str]) -> list[pl.Expr]:
    """Texts as String and times as Int64 ms, so that frames and files compare."""
    out = []
    for name in names:
        dtype = frame.schema[name]
        if isinstance(dtype, pl.Categorical | pl.Enum):
            out.append(pl.col(name).cast(pl.String))
        elif isinstance(dtype, pl.Datetime):
            out.append(pl.col(name).dt.cast_time_unit("ms").to_physical())
        else:
            out.append(pl.col(name))
    return out


def _within_ulp(a: pl.Series, b: pl.Series) -> pl.Series:
    """Both null, or at most one representable double apart (0.0 and -0.0 are the same)."""
    x, y = (_ordinal(s.cast(pl.Float64).fill_null(0.0).to_numpy()) for s in (a, b))
    # The difference of two ordinals of opposite sign may wrap, but never into -1 .. 1.
    with np.errstate(over="ignore"):
        apart = x - y
    near = pl.Series((apart >= -1) & (apart <= 1))
    return (a.is_null() == b.is_null()) & near


def _ordinal(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Doubles as integers in the same order, neighbours one apart."""
    bits = values.view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)
