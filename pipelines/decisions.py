"""Decisions over merged cases (rules 22, 23): what `Cases.facts` and `Stock.intervals` of an indicator are made of.

    within(TKT, "ring", "answer", 15_000)             share answered within 15 s, decided at min(answer, ring + 15 s)
    same_local_day(CASE, "submit", "deliver")         share delivered on the day of submission, decided at its end
    share_at(CASE, "deliver", flag)                   share of the delivered cases for which something holds
    open_between(CASE, "submit", ("approve", ...))    what is open, and from when an open case counts

Facts are `case_id, place, t, num, den, as_of, coarse`: one row for a case that counts, none for another. They are pure
functions of the merged case, so a correction replaces the rows of its case. `t` may lie in the future: the window that
holds it is not final before the watermark gets there, and a milestone in time changes the row first.

A milestone decides only if it is timed in time: an outcome at the deadline's millisecond is a success, a negative one
must come before the decision, and what happens after the decision changes nothing. Attributes are the case's own and
filter it whenever they become known (rule 17): filtering by what was known at the decision would drop exactly the slow
cases of a source that says only with its last milestone what kind of case it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipelines.lifecycle import case_schema
from pipelines.streams import Stream, Text
from pipelines.windows import LONGEST_DAY_MS, Day, ends

Facts = Callable[[pl.DataFrame, str], pl.DataFrame]
"""(merged cases in the columns of `case_schema`, the city's zone) -> facts or intervals."""
FACTS: Final = {
    "case_id": pl.String, "place": pl.String, "t": pl.Int64, "num": pl.Int64, "den": pl.Int64, "as_of": pl.Int64,
    "coarse": pl.Boolean,
}  # fmt: skip
INTERVALS: Final = {
    "case_id": pl.String, "place": pl.String, "opened": pl.Int64, "closed": pl.Int64, "marked": pl.Int64,
    "as_of": pl.Int64,
}  # fmt: skip
_ALL: Final = pl.lit(True)


@dataclass(frozen=True, slots=True)
class LimitBy:
    """A limit in ms that depends on an attribute. A case without it has no limit and is in no denominator."""

    attribute: str
    limits_ms: Mapping[str, int]


def within(
    stream: Stream,
    anchor: str,
    outcome: str,
    limit: int | LimitBy,
    *,
    negatives: tuple[str, ...] = (),
    negative: Literal["fails", "removes"] = "fails",
    where: pl.Expr = _ALL,
    coarse: str | None = None,
) -> Facts:
    """Share of cases whose outcome comes at most `limit` after the anchor, decided at min(outcome, anchor + limit).

    A negative milestone timed before that decision fails the case at its own time, or removes it. An outcome timed
    before its anchor (two clocks) is in time. `coarse` names a flag: its cases have times too coarse for the limit.
    """
    _check(stream, (anchor, outcome, *negatives), where, *(() if coarse is None else (coarse,)))
    if isinstance(limit, LimitBy):
        _check_limits(stream, limit)
        allowed = pl.col(limit.attribute).replace_strict(dict(limit.limits_ms), default=None, return_dtype=pl.Int64)
    elif isinstance(limit, int) and limit > 0:
        allowed = pl.lit(limit, dtype=pl.Int64)
    else:
        raise ValueError(
            f"stream {stream.name!r}: the limit from {anchor!r} is {limit!r}; it must be milliseconds above 0"
        )
    in_time = (pl.col(outcome) - pl.col(anchor) <= pl.col("allowed")).fill_null(False)
    decided = pl.min_horizontal(outcome, pl.col(anchor) + pl.col("allowed"))
    negated = pl.min_horizontal(negatives) if negatives else pl.lit(None, dtype=pl.Int64)

    def facts(cases: pl.DataFrame, zone: str) -> pl.DataFrame:
        cases = _anchored(stream, cases, anchor, where)
        cases = cases.with_columns(allowed.alias("allowed")).filter(pl.col("allowed").is_not_null())
        cases = cases.with_columns(in_time.alias("in_time"), decided.alias("decided"), negated.alias("negated"))
        lost = (pl.col("negated") < pl.col("decided")).fill_null(False)
        if negative == "removes":
            cases = cases.filter(~lost)
        used = pl.when(lost).then("negated").when("in_time").then(outcome)
        return _facts(
            cases,
            t=pl.when(lost).then("negated").otherwise("decided"),
            num=pl.col("in_time") & ~lost,
            as_of=pl.max_horizontal(anchor, used),
            coarse=pl.lit(False) if coarse is None else (pl.col(coarse) == 1).fill_null(False),
        )

    return facts


def same_local_day(stream: Stream, anchor: str, outcome: str, *, where: pl.Expr = _ALL) -> Facts:
    """Share of the cases anchored on a local day whose outcome is on that same day, decided in its last millisecond."""
    _check(stream, (anchor, outcome), where)

    def facts(cases: pl.DataFrame, zone: str) -> pl.DataFrame:
        cases = _anchored(stream, cases, anchor, where)
        cases = cases.with_columns(
            _day_ends(cases[anchor], zone).alias("anchor_day"), _day_ends(cases[outcome], zone).alias("outcome_day")
        )
        same = (pl.col("anchor_day") == pl.col("outcome_day")).fill_null(False)
        as_of = pl.max_horizontal(anchor, pl.when(same).then(pl.col(outcome)))
        return _facts(cases, t=pl.col("anchor_day") - 1, num=same, as_of=as_of)

    return facts


def share_at(stream: Stream, closing: str, flag: pl.Expr, *, where: pl.Expr = _ALL) -> Facts:
    """Share of the cases that reach `closing` for which `flag` holds; they belong to the window of that milestone.

    `flag` should look at nothing after the closing milestone: compare times (`first_seen`, other milestones) with it.
    A case for which it is null counts as one for which it does not hold.
    """
    _check(stream, (closing,), where, *flag.meta.root_names())

    def facts(cases: pl.DataFrame, zone: str) -> pl.DataFrame:
        cases = _anchored(stream, cases, closing, where)
        return _facts(cases, t=pl.col(closing), num=flag.fill_null(False), as_of=pl.col(closing))

    return facts


def first_seen(attribute: str, value: str | None = None) -> pl.Expr:
    """When a text attribute first had the value (or any): Int64 ms, null if never."""
    element = pl.element()
    if value is not None:
        element = element.filter(pl.element().struct.field("value") == value)
    return pl.col(f"{attribute}_seen").list.eval(element.struct.field("t")).list.min()


def open_between(
    stream: Stream, opened: str, closed: tuple[str, ...], *, marked: pl.Expr | None = None, where: pl.Expr = _ALL
) -> Facts:
    """Intervals from `opened` to the first of `closed` (null = still open), counted in the numerator from `marked` on.

    Open at T is opened <= T and not closed by T, so a case closed before or as it was opened is never open and has no
    interval: whoever counts openings and closings may subtract them. `marked` is an instant (null = never); before
    `opened` it means from the start. `as_of` is `opened`: of an open case nothing later was used.
    """
    _check(stream, (opened, *closed), where, *(() if marked is None else marked.meta.root_names()))
    instant = pl.lit(None, dtype=pl.Int64) if marked is None else marked

    def intervals(cases: pl.DataFrame, zone: str) -> pl.DataFrame:
        cases = _anchored(stream, cases, opened, where)
        cases = cases.with_columns(pl.min_horizontal(closed).alias("closed"), instant.alias("instant"))
        counted = cases.filter(pl.col("closed").is_null() | (pl.col("closed") > pl.col(opened)))
        return counted.select(
            "case_id",
            "place",
            pl.col(opened).alias("opened"),
            "closed",
            pl.when(pl.col("instant").is_not_null()).then(pl.max_horizontal(opened, "instant")).alias("marked"),
            pl.col(opened).alias("as_of"),
        ).cast(INTERVALS)  # type: ignore[arg-type]

    return intervals


def _anchored(stream: Stream, cases: pl.DataFrame, milestone: str, where: pl.Expr) -> pl.DataFrame:
    """The cases that have their opening milestone (the others are in no denominator), this one, and pass the filter."""
    return cases.filter(pl.col(str(stream.opening)).is_not_null(), pl.col(milestone).is_not_null(), where)


def _facts(
    cases: pl.DataFrame, t: pl.Expr, num: pl.Expr, as_of: pl.Expr, coarse: pl.Expr | None = None
) -> pl.DataFrame:
    return cases.select(
        "case_id",
        "place",
        t.alias("t"),
        num.alias("num"),
        pl.lit(1).alias("den"),
        as_of.alias("as_of"),
        (pl.lit(False) if coarse is None else coarse).alias("coarse"),
    ).cast(FACTS)  # type: ignore[arg-type]


def _day_ends(times: pl.Series, zone: str) -> pl.Series:
    """The midnight that ends the local day of each time, as the calendar windows have it; null for null."""
    known = times.drop_nulls()
    if known.is_empty():
        return pl.Series([None] * len(times), dtype=pl.Int64)
    first, last = int(known.min()), int(known.max())  # type: ignore[arg-type]
    midnights = pl.Series(ends(Day(), first, last + LONGEST_DAY_MS, zone), dtype=pl.Int64)
    after = np.searchsorted(midnights.to_numpy(), times.fill_null(first).to_numpy(), side="right")
    return midnights.gather(pl.Series(after)).zip_with(times.is_not_null(), pl.Series([None], dtype=pl.Int64))


def _check(stream: Stream, milestones: Iterable[str], where: pl.Expr, *columns: str) -> None:
    for name in milestones:
        if name not in stream.milestones:
            raise _unknown(stream, "milestone", name, stream.milestones)
    schema: dict[str, Any] = case_schema(stream)
    for name in (*where.meta.root_names(), *columns):
        if name not in schema:
            raise _unknown(stream, "column", name, tuple(schema))


def _check_limits(stream: Stream, limit: LimitBy) -> None:
    column = stream.column(limit.attribute)
    allowed = column.values if isinstance(column, Text) else ()
    for value, limit_ms in limit.limits_ms.items():
        if allowed and value not in allowed:
            raise _unknown(stream, f"{limit.attribute} value", value, allowed)
        if limit_ms <= 0:
            raise ValueError(
                f"stream {stream.name!r}: the limit of {limit.attribute} {value!r} is {limit_ms}; it must be above 0"
            )


def _unknown(stream: Stream, what: str, name: str, allowed: tuple[str, ...]) -> LookupError:
    near = difflib.get_close_matches(name, allowed, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return LookupError(f"stream {stream.name!r} has no {what} {name!r}; it has {', '.join(allowed)}.{hint}")
