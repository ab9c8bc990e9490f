"""Cells as readings: which are told, at which levels, with which words (rules 18, 21, 31)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl

from pipelines.cells import derive, detail_json
from pipelines.indicator import Derived, Indicator, Panes
from pipelines.model import NEVER, READINGS_SCHEMA
from pipelines.place_tree import Ints, PlaceTree
from pipelines.tables import Levels

WORDS = ("indicator", "method_id", "place_kind", "unit", "state")
NO_READINGS = pl.DataFrame(schema=READINGS_SCHEMA | dict.fromkeys(WORDS, pl.Categorical))


def readings_of_table(
    computed: Iterable[tuple[Indicator, Levels]],
    derived: Sequence[Indicator],
    tree: PlaceTree,
    revision: int,
    touched: pl.DataFrame | None,
    mark: str | None,
    final: int = NEVER,
    skip: int = 0,
) -> Iterator[pl.DataFrame]:
    """What a table computed as readings, and the `derived` indicators that read it: a frame for each indicator and level.

    Of windows up to `final` only the touched places (`place, window_end`) and their parents; all of them where `touched`
    is None. The lowest `skip` levels are left out. `mark`, a reason, makes readings with data `degraded` (rule 9)."""
    affected: list[Ints] = []
    if touched is not None:
        for level in range(len(tree.levels)):
            if level:
                parents = tree.parents(level - 1).gather(touched["place"]).alias("place")
                touched = touched.with_columns(parents).unique()
            affected.append(_keys(touched["place"], touched["window_end"]))
    for indicator, mine in _with_derived(computed, derived):
        allowed = indicator.kind.levels if isinstance(indicator.kind, Panes | Derived) else ()
        for level, kind in enumerate(tree.levels):
            if level < skip or (allowed and kind not in allowed):
                continue
            cells = mine[level]
            if affected:
                wanted = np.isin(_keys(cells["code"], cells["window_end"]), affected[level])
                wanted |= cells["window_end"].to_numpy() > final
                cells = cells.filter(pl.Series(wanted))
            if len(cells):
                places = tree.names(level).gather(cells["code"])
                yield readings_of_cells(indicator, kind, places, cells, revision, mark)


def _with_derived(
    computed: Iterable[tuple[Indicator, Levels]], derived: Sequence[Indicator]
) -> Iterator[tuple[Indicator, Levels]]:
    """What was computed, and each derived indicator as soon as its inputs are there; cells are held for those only."""
    held: dict[str, Levels] = {}
    seen: set[str] = set()
    for new in computed:
        if new[0].id in seen:  # the next portion of windows
            held, seen = {}, set()
        ready = [new]
        while ready:
            indicator, levels = ready.pop()
            seen.add(indicator.id)
            readers = [d for d in derived if indicator.id in d.inputs]
            if readers:
                held[indicator.id] = levels
            for reader in readers:
                if all(x in held for x in reader.inputs):
                    assert isinstance(reader.kind, Derived)
                    inputs = {x: held[x] for x in reader.inputs}
                    made = [derive(reader.kind, {x: inputs[x][k] for x in inputs}) for k in range(len(levels))]
                    ready.append((reader, made))
            yield indicator, levels


def readings_of_cells(
    indicator: Indicator, kind: str, places: pl.Series, cells: pl.DataFrame, revision: int, mark: str | None
) -> pl.DataFrame:
    """One level's cells with the columns of the table `readings` (rule 31)."""
    reason = pl.coalesce("reason", "caution") if mark is None else pl.when(pl.col("samples") > 0).then(pl.lit(mark))
    named = {c: getattr(indicator.kind, c, c) for c in ("num", "den")}
    ratio = {c: (pl.col(n) if n in cells.columns else pl.lit(None, dtype=pl.Int64)) for c, n in named.items()}
    some = pl.col("samples") > 0
    frame = cells.with_columns(reason.alias("_why"))
    detail = detail_json(frame["detail"] if "detail" in frame.columns else None, frame["_why"])
    return frame.select(
        _word(indicator.id).alias("indicator"),
        _word(indicator.method_id).alias("method_id"),
        _word(kind).alias("place_kind"),
        places.alias("place"),
        "window_start",
        "window_end",
        "value",
        _word(indicator.unit).alias("unit"),
        pl.when(pl.col("_why").is_not_null())
        .then(_word("degraded"))
        .when(some)
        .then(_word("ok"))
        .otherwise(_word("no_data"))
        .alias("state"),
        completeness(frame["got"], frame["expected"]),
        "samples",
        *(pl.when(some).then(ratio[c]).cast(pl.Int64).alias(c) for c in ("num", "den")),
        detail.alias("detail"),
        "as_of",
        pl.lit(revision, dtype=pl.Int64).alias("revision"),
    )


def _keys(codes: pl.Series, window_ends: pl.Series) -> Ints:
    """(place, window) as one integer: codes have fewer than 21 bits, times in ms 41."""
    keys: Ints = window_ends.to_numpy() << 21 | codes.to_numpy().astype(np.int64)
    return keys


def _word(text: str) -> pl.Expr:
    """A text that is the same in many rows; the store is sent its dictionary, not its copies."""
    return pl.lit(text, dtype=pl.Categorical)


def completeness(got: pl.Series, expected: pl.Series) -> pl.Series:
    """floor(10^4 * got / expected) / 10^4, null without an expectation (rule 21)."""
    floored = (10_000 * got // expected).fill_null(-1).to_numpy()
    # numpy divides; Polars multiplies by the reciprocal of a constant, which is one ulp off for some.
    return pl.Series("completeness", np.where(floored < 0, np.nan, floored / 10_000)).fill_nan(None)
