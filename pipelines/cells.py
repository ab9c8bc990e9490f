"""Cells: from the panes of a window to a number at each place, level by level (rules 18, 20, 21). Pure frames in and out.

A cell frame has one row per (place, window) of one level: `code` UInt32, `window_start`, `window_end` Int64, the
indicator's partials, `samples`, `got` and `expected` (null: no period declared), `as_of`, `value`, `reason`, `caution`
and, where the indicator has one, `detail` (a struct).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import polars as pl

from pipelines.indicator import Derived, Indicator, Panes
from pipelines.place_tree import Ints, PlaceTree

KEY = ["code", "window_end"]
NO_TEXT = pl.lit(None, dtype=pl.String)


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """What is computed of the partials at every level, and how parents combine those of their children."""

    value: pl.Expr
    reason: pl.Expr = NO_TEXT
    caution: pl.Expr = NO_TEXT
    detail: tuple[pl.Expr, ...] = ()
    combine: Literal["sum", "max"] = "sum"
    reduce: bool = False
    min_samples: int = 1
    steps: tuple[tuple[pl.Expr, ...], ...] = ()

    def applied(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Cells with partials, and what the formula makes of them."""
        passing = [e.meta.output_name() for step in self.steps for e in step]
        for step in self.steps:
            cells = cells.with_columns(step)
        return cells.with_columns(self.columns).drop(passing)

    @property
    def columns(self) -> list[pl.Expr]:
        return [
            self.value.cast(pl.Float64).alias("value"),
            self.reason.cast(pl.String).alias("reason"),
            self.caution.cast(pl.String).alias("caution"),
            *([pl.struct(self.detail).alias("detail")] if self.detail else []),
        ]


def formula(indicator: Indicator, kind: Panes) -> Formula:
    caution = NO_TEXT if kind.caution is None else kind.caution
    return Formula(
        kind.value, kind.reason, caution, kind.detail, kind.combine, kind.reduce, indicator.min_samples, kind.steps
    )


def site_aggregates(members: Sequence[Indicator], spread: pl.DataFrame) -> pl.DataFrame:
    """The aggregates of indicators that share a rollup and a window, in one group-by; named `<indicator>/<aggregate>`."""
    kinds = [(i.id, i.kind) for i in members if isinstance(i.kind, Panes)]
    columns = [e.name.prefix(f"{name}/") for name, k in kinds if not k.by_bucket for e in k.aggregate]
    n, as_of, got = pl.col("n"), pl.col("as_of"), pl.len()
    if any(k.lookback_ms for _, k in kinds):
        inside = pl.col("pane_start") >= pl.col("window_start")
        n, as_of, got = n.filter(inside), as_of.filter(inside), inside.sum()
    if "bucket" in spread.columns:
        got = pl.col("pane_start").n_unique()
    return spread.group_by(["place", "window_end"]).agg(
        *columns, n.sum().alias("samples"), as_of.max().alias("as_of"), got.cast(pl.Int64).alias("got")
    )


def grid(places: Ints, start: Ints, end: Ints, tree: PlaceTree, pane_ms: int) -> pl.DataFrame:
    """The site cells that exist, with the panes that completeness expects (null without a declared period)."""
    period = tree.periods()[places]
    unit = period.clip(min=pane_ms)
    return (
        pl.DataFrame(
            {
                "code": pl.Series(places, dtype=pl.UInt32),
                "window_start": pl.Series(start, dtype=pl.Int64),
                "window_end": pl.Series(end, dtype=pl.Int64),
                "expected": pl.Series(-((start - end) // unit), dtype=pl.Int64),
                "declared": pl.Series(period > 0),
            }
        )
        .with_columns(pl.when("declared").then("expected").alias("expected"))
        .drop("declared")
    )


def join_aggregates(cells: pl.DataFrame, aggregates: pl.DataFrame) -> pl.DataFrame:
    """Existing cells with what their panes gave; cells without panes have nulls and 0 samples."""
    joined = cells.join(aggregates, left_on=KEY, right_on=["place", "window_end"], how="left", maintain_order="left")
    return joined.with_columns(
        pl.col("samples").fill_null(0),
        pl.min_horizontal(pl.col("got").fill_null(0), "expected").alias("got"),
    )


def conclude(cells: pl.DataFrame, min_samples: int = 1) -> pl.DataFrame:
    """No value without samples, with a reason, or when it is not finite (rule 21)."""
    few = pl.when(pl.col("samples") > 0).then(pl.lit("too_few_samples"))
    cells = cells.with_columns(pl.when(pl.col("samples") < min_samples).then(few).otherwise("reason").alias("reason"))
    usable = (pl.col("samples") > 0) & pl.col("reason").is_null() & pl.col("value").is_finite()
    return cells.with_columns(pl.when(usable).then("value").alias("value"))


def climb(tree: PlaceTree, how: Formula, sites: pl.DataFrame, partials: Sequence[str]) -> list[pl.DataFrame]:
    """Cells of every level: parents combine their children's partials (rule 18)."""
    levels = [conclude(how.applied(sites), how.min_samples)]
    for level in range(len(tree.levels) - 1):
        combined = [pl.col(p).sum() if how.combine == "sum" else pl.col(p).max() for p in partials]
        above = _parents(tree, level, levels[-1], how.reduce, combined)
        levels.append(conclude(how.applied(above), how.min_samples))
    return levels


def climb_buckets(
    tree: PlaceTree, how: Formula, sites: pl.DataFrame, buckets: pl.DataFrame, ratio: Sequence[str]
) -> list[pl.DataFrame]:
    """The same for histograms: `buckets` has the partials of each (code, window_end, bucket) of the sites; `ratio` names
    the partials that are kept, summed over the buckets."""
    partials = [c for c in buckets.columns if c not in (*KEY, "bucket")]
    sums = [pl.col(c).sum() for c in ratio]
    levels: list[pl.DataFrame] = []
    for level in range(len(tree.levels)):
        cells = sites
        if level:
            parents = tree.parents(level - 1).gather(buckets["code"]).alias("code")
            buckets = buckets.with_columns(parents).group_by([*KEY, "bucket"]).agg(pl.col(p).sum() for p in partials)
            cells = _parents(tree, level - 1, levels[-1], how.reduce, [])
        values = buckets.sort("bucket").group_by(KEY).agg(*how.columns, *sums)
        levels.append(conclude(cells.join(values, on=KEY, how="left", maintain_order="left"), how.min_samples))
    return levels


def _parents(tree: PlaceTree, level: int, below: pl.DataFrame, reduce: bool, combined: list[pl.Expr]) -> pl.DataFrame:
    """The cells one level up: one exists iff one of its children's does (rule 20)."""
    valued = pl.col("value").is_not_null().sum().cast(pl.Int64)
    return (
        below.with_columns(tree.parents(level).gather(below["code"]).alias("code"))
        .group_by(KEY, maintain_order=True)
        .agg(
            pl.col("window_start").first(),
            *combined,
            (valued if reduce else pl.col("samples").sum()).alias("samples"),
            valued.alias("got"),
            pl.len().cast(pl.Int64).alias("expected"),
            pl.col("as_of").max(),
        )
    )


def derive(kind: Derived, inputs: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Cells of a derived indicator at one level, from its inputs' cells there. A cell exists iff one input's does."""
    frame: pl.DataFrame | None = None
    for name, cells in inputs.items():
        ratio = [pl.col(c).alias(f"{name}:{c}") for c in ("num", "den") if c in cells.columns]
        one = cells.select(
            *KEY,
            pl.col("window_start").alias("window_start"),
            pl.col("value").alias(name),
            *ratio,
            pl.col("as_of").alias(f"{name}:as_of"),
            pl.col("reason").alias(f"{name}:reason"),
        )
        frame = one if frame is None else frame.join(one, on=[*KEY, "window_start"], how="full", coalesce=True)
    assert frame is not None
    names = list(inputs)
    valued = pl.sum_horizontal(pl.col(n).is_not_null().cast(pl.Int64) for n in names)
    cells = frame.with_columns(
        valued.alias("samples"),
        valued.alias("got"),
        pl.lit(len(names), dtype=pl.Int64).alias("expected"),
        pl.max_horizontal(f"{n}:as_of" for n in names).alias("as_of"),
        kind.value.cast(pl.Float64).alias("value"),
        NO_TEXT.alias("caution"),
        *([pl.struct(kind.detail).alias("detail")] if kind.detail else []),
    )
    finite = pl.col("value").is_finite().fill_null(False)
    return cells.with_columns(
        pl.when(finite).then("value").alias("value"),
        pl.when(finite).then(None).otherwise(pl.coalesce(f"{n}:reason" for n in names)).alias("reason"),
    )


def detail_json(details: pl.Series | None, reasons: pl.Series) -> pl.Series:
    """Canonical JSON (sorted keys, nulls left out) of each cell's detail and reason; `{}` for most."""
    if details is None:
        if reasons.null_count() == len(reasons):
            return pl.Series(["{}"], dtype=pl.String).new_from_index(0, len(reasons))
        text = pl.concat_str(pl.lit('{"reason":"'), pl.lit(reasons), pl.lit('"}'))
        return pl.select(pl.when(pl.lit(reasons).is_null()).then(pl.lit("{}")).otherwise(text)).to_series()
    if isinstance(details.dtype, pl.Struct):
        fields = {field.name: _json_field(details, field) for field in details.dtype.fields}
        fields["reason"] = pl.select('"reason":"' + pl.lit(reasons) + '"').to_series()
        members = pl.concat_str(*(fields[name] for name in sorted(fields)), separator=",", ignore_nulls=True)
        return pl.select(pl.concat_str(pl.lit("{"), members, pl.lit("}"))).to_series()
    out = []
    for detail, reason in zip(details.to_list(), reasons.to_list(), strict=True):
        out.append(orjson.dumps(detail | ({"reason": reason} if reason else {}), option=orjson.OPT_SORT_KEYS).decode())
    return pl.Series(out, dtype=pl.String)


def _json_field(details: pl.Series, field: pl.Field) -> pl.Series:
    """`"name":value` of one field of a struct in each row, null where it is null."""
    values = details.struct.field(field.name)
    written = values.to_frame().select(pl.struct(_sorted(pl.col(field.name), field.dtype).alias(field.name)))
    inside = written.to_series().struct.json_encode().str.strip_prefix("{").str.strip_suffix("}")
    return inside.zip_with(values.is_not_null(), pl.Series([None], dtype=pl.String))


def _sorted(value: pl.Expr, dtype: Any) -> pl.Expr:
    """A struct with its fields in the order of their names, at every depth."""
    if not isinstance(dtype, pl.Struct):
        return value
    fields = sorted(dtype.fields, key=lambda field: field.name)
    inner = pl.struct(_sorted(value.struct.field(f.name), f.dtype).alias(f.name) for f in fields)
    return pl.when(value.is_not_null()).then(inner)
