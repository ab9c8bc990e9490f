"""Every pane formula against plain Python over the raw events (`plain_formulas.py`), at the site and at its parent.

Events go through the engine's rollup and the windows, so a wrong measure shows here too.
"""

from __future__ import annotations

import importlib
import math
import random
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from pipelines.catalogue import CATALOGUE, indicator
from pipelines.catalogue.rollups import unpacked
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.indicator import Indicator, Panes, nanos
from pipelines.model import Stamped
from pipelines.streams import HOUR_MS, Int
from pipelines.windows import Slide, spread
from tests.unit.plain_formulas import ATTRIBUTES, ORACLES, ORIGIN, PLACES, Event, generate


def rows(of: Panes, events: list[Event]) -> pl.DataFrame:
    """The engine's rows of the rollup, with the places' attributes."""
    stream = of.rollup.stream
    kinds = {c.name: pl.Int64 if isinstance(c, Int) else pl.String for c in stream.columns}
    fixed = {"t": pl.Int64, "place": pl.UInt32, **kinds}
    frame = pl.DataFrame([{k: e.get(k) for k in fixed} for e in events], schema=fixed).with_columns(
        pl.int_range(pl.len()).alias("off"), pl.col("t").alias("wm"), pl.lit(False).alias("late")
    )
    engine = PolarsEngine([of.rollup], ["p"])
    engine.add(Stamped(stream.name, "p", frame, 0, 0, True))
    (grouped,) = engine.finish()
    known = [{a: ATTRIBUTES[p].get(a) for a in of.attributes} | {"place": p} for p in range(PLACES)]
    schema = dict.fromkeys(of.attributes, pl.Int64) | {"place": pl.UInt32}
    return grouped.rows.join(pl.DataFrame(known, schema=schema), on="place", how="left")


def levels(of: Panes, spreaded: pl.DataFrame) -> dict[tuple[str, int], float | None]:
    """Values of the sites ('0', '1', ...) and their parent ('all') by window end."""
    out: dict[tuple[str, int], float | None] = {}
    key = ["window_end", "bucket"] if of.by_bucket else ["window_end"]
    sites = spreaded.group_by("place", *key).agg(of.aggregate).with_columns(of.partial)
    names = [e.meta.output_name() for e in of.partial or of.aggregate]
    fold = [pl.col(n).sum() if of.combine == "sum" else pl.col(n).max() for n in names]
    parent = sites.group_by(key).agg(fold).with_columns(pl.lit(99, dtype=pl.UInt32).alias("place"))
    for cells in (sites.select("place", *key, *names), parent.select("place", *key, *names)):
        columns = [of.value.cast(pl.Float64).alias("value"), of.reason.cast(pl.String).alias("reason")]
        if of.by_bucket:
            valued = cells.sort("bucket").group_by("place", "window_end").agg(columns)
        else:
            for step in of.steps:
                cells = cells.with_columns(step)
            valued = cells.with_columns(columns)
        for place, end, value, reason in valued.select("place", "window_end", "value", "reason").iter_rows():
            usable = value is not None and reason is None and math.isfinite(value)
            out["all" if place == 99 else str(place), end] = value if usable else None
    return out


SHIPPED = ("air", "city", "detectors", "government", "incidents", "parking", "services", "traffic", "water")
"""The files of the catalogue whose formulas must have a plain one."""
EXACT = 1e-9
TOLERANCE = {"traffic.tpi": 1e-6}


def compare(each: Indicator, seed: int = 1, shuffled: bool = False) -> tuple[int, int, list[Any]]:
    """(values compared, of them not null, differences) of an indicator against its oracle."""
    of, window, rng = each.kind, each.window, random.Random(seed)
    assert isinstance(of, Panes) and isinstance(window, Slide)
    hours = {"air": 30, "rain": 14, "link": 3}.get(of.rollup.name, 1)
    events = generate(of.rollup.stream.name, rng, hours)
    ends = list(range(ORIGIN + window.step_ms, ORIGIN + hours * HOUR_MS + 1, window.step_ms))[-40:]
    panes = rows(of, events)
    if shuffled:
        panes = panes.sample(fraction=1, shuffle=True, seed=seed)
    found = levels(of, spread(panes, window, ends, "UTC", of.lookback_ms))
    sites = [[e for e in events if e["place"] == p] for p in range(PLACES)]
    compared = valued = 0
    wrong = []
    own = [("all", sites)] if each.id != "water.rise" else []
    for name, members in [*own, *((str(p), [s]) for p, s in enumerate(sites))]:
        for end in ends:
            expected, got = ORACLES[each.id](members, end - window.size_ms, end), found.get((name, end))
            compared += 1
            valued += got is not None
            equal = (
                expected is None
                if got is None
                else expected is not None
                and math.isclose(got, float(expected), rel_tol=EXACT, abs_tol=TOLERANCE.get(each.id, EXACT))
            )
            if not equal:
                wrong.append((name, end, expected, got))
    return compared, valued, wrong


def test_every_shipped_pane_formula_has_an_oracle() -> None:
    """Files that are added to the catalogue have their worked cases; who wants more writes a plain formula too."""
    shipped = [i for name in SHIPPED for i in importlib.import_module(f"pipelines.catalogue.{name}").INDICATORS]
    assert set(ORACLES) == {i.id for i in shipped if isinstance(i.kind, Panes)}
    print(
        f"{len(ORACLES)} plain formulas; without one: {sorted({i.id for i in CATALOGUE} - {i.id for i in shipped}) or 'none'}"
    )


@pytest.mark.parametrize("name", ORACLES)
def test_formula_equals_plain_python(name: str) -> None:
    compared, valued, wrong = compare(indicator(name))
    print(f"{name}: {compared} values compared, {valued} not null")
    assert not wrong, wrong[:3]
    assert valued >= 20


@pytest.mark.parametrize("name", ORACLES)
def test_order_of_panes_does_not_matter(name: str) -> None:
    _, _, wrong = compare(indicator(name), seed=2, shuffled=True)
    assert not wrong, wrong[:3]


def broken() -> dict[str, tuple[str, dict[str, Any]]]:
    """Formulas as one might write them wrongly."""
    time, free, weight = pl.col("time"), pl.col("free"), pl.col("weight")
    lvl = indicator("water.depth").kind
    assert isinstance(lvl, Panes)
    n, failed = pl.col("n"), pl.col("failed")
    return {
        "unfloored index": ("traffic.tti", {"value": pl.col("num") / pl.col("den")}),
        "unfloored delay": ("traffic.tpi", {"partial": (
            pl.when(weight > 0).then(nanos((time - free) / time) * weight // 1000).alias("num"),
            pl.when(weight > 0).then(weight).alias("den"), pl.col("known"))}),
        "speed of the mean": ("traffic.speed", {"aggregate": (
            pl.col("length_m").sum().alias("num"), pl.col("veh_tt").sum().alias("den"),
            pl.len().cast(pl.Int64).alias("known"))}),
        "levels closed below": ("traffic.congested_mileage", {"partial": (
            ((2 * free < time).cast(pl.Int64) * pl.col("length")).alias("num"),
            pl.when(time > 0).then(pl.col("length")).alias("den"), pl.col("known"))}),
        "rate of the site, not of lanes": ("traffic.flow", {"partial": (
            (pl.col("veh") * 3_600_000 * 10**9 // (300_000)).alias("rate"),)}),
        "no despike": ("water.depth", {"aggregate": (unpacked(lvl.rollup, "depth").max().alias("num"),)}),
        "failures satisfied": ("http.apdex", {"aggregate": ((2 * n).sum().alias("num"), (2 * n).sum().alias("den"))}),
        "untimed failures ignored": ("http.error_ratio", {"aggregate": (
            pl.when(pl.col("bucket") >= 0).then(failed).sum().alias("num"), n.sum().alias("den"))}),
        "lots out of service count": ("parking.occupancy", {"partial": (
            pl.col("occupied").alias("num"), pl.col("total").alias("den"))}),
    }  # fmt: skip


@pytest.mark.parametrize("why", broken())
def test_negative_control(why: str) -> None:
    name, change = broken()[why]
    each = indicator(name)
    object.__setattr__(wrong_copy := _unchecked(each), "kind", replace(each.kind, **change))
    _, _, wrong = compare(wrong_copy)
    assert wrong, f"{why} was not seen"


def _unchecked(each: Indicator) -> Indicator:
    """A copy that skips the worked case, which would refuse the broken formula before the oracle sees it."""
    copy = object.__new__(Indicator)
    for field in Indicator.__dataclass_fields__:
        object.__setattr__(copy, field, getattr(each, field))
    return copy
