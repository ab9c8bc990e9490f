"""The whole path, events -> engine -> brain, with every pane indicator of the catalogue, against plain Python over the
raw events: what the reference model leaves out (as-of, reduce, histogram and derived kinds; rules 18 to 21)."""

from __future__ import annotations

import math
import random

import polars as pl
import pytest

from pipelines import catalogue
from pipelines.brain import Brain
from pipelines.city import City, District, Site
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.indicator import Panes
from pipelines.model import PlaceRegistry, Stamped
from pipelines.streams import HOUR_MS, Int
from tests.unit.plain_formulas import ATTRIBUTES, ORACLES, ORIGIN, PLACES, Event, generate

HOURS = {"link": 2, "det": 1, "air": 26, "lvl": 1, "rain": 13, "park": 1, "http": 1}


def readings(name: str, events: list[Event], hours: int) -> pl.DataFrame:
    """What the brain makes of a stream's events at four places of one district, in one step."""
    stream = catalogue.stream(name)
    parent = "crossing" if len(stream.levels) > 3 else None
    sites = tuple(Site(name, f"s{p}", "d", parent, ATTRIBUTES[p], 0, stream.period_ms) for p in range(PLACES))
    city = City("t", "试", "Test", "UTC", (District("d", "区", "District"),), sites)
    indicators = catalogue.for_city(city)
    registry = PlaceRegistry()
    for site in sites:
        registry.code(site.id)
    kinds = {c.name: pl.Int64 if isinstance(c, Int) else pl.String for c in stream.columns}
    schema = {"t": pl.Int64, "place": pl.UInt32, **kinds}
    frame = pl.DataFrame([{k: e.get(k) for k in schema} for e in events], schema=schema).with_columns(
        pl.int_range(pl.len()).alias("off"), pl.col("t").alias("wm"), pl.lit(False).alias("late")
    )
    mine = [i for i in indicators if isinstance(i.kind, Panes) and i.kind.rollup.stream.name == name]
    engine, end = PolarsEngine(catalogue.rollups(mine), ["p"]), ORIGIN + hours * HOUR_MS
    engine.add(Stamped(name, "p", frame, 0, end, False))
    return Brain(city, indicators, {name: registry}).step(engine.take(), [], {name: end}, 1).readings


def compare(found: pl.DataFrame, events: list[Event]) -> tuple[int, list[object]]:
    """(readings compared, differences): readings of windows that no generated event precedes are left out."""
    sites = [[e for e in events if e["place"] == p] for p in range(PLACES)]
    compared, wrong = 0, []
    columns = ("indicator", "place_kind", "place", "window_start", "window_end", "value")
    rows = found.filter(pl.col("indicator").is_in(list(ORACLES)) & (pl.col("window_start") >= ORIGIN - HOUR_MS))
    for name, kind, place, start, end, value in rows.select(columns).iter_rows():
        members = [sites[int(place[1:])]] if place.startswith("s") and kind in ("site", "lane") else sites
        expected = ORACLES[name](members, start, end)
        compared += 1
        if value is None or expected is None:
            equal = value is None and expected is None
        else:
            equal = math.isclose(value, float(expected), rel_tol=1e-9, abs_tol=1e-6)
        if not equal:
            wrong.append((name, kind, place, start, end, value, expected))
    return compared, wrong


@pytest.mark.parametrize("name", HOURS)
def test_readings_equal_plain_python(name: str) -> None:
    events = generate(name, random.Random(7), HOURS[name])
    found = readings(name, events, HOURS[name])
    compared, wrong = compare(found, events)
    print(f"{name}: {compared} readings compared, states {dict(found['state'].value_counts().iter_rows())}")
    assert not wrong, wrong[:3]
    assert compared >= 60
    assert found.filter(pl.col("value").is_not_null()).height >= 60
    # Negative control: without one site's events of the last hour.
    fewer = [e for e in events if e["place"] != 1 or not 0 <= e["t"] - (ORIGIN + (HOURS[name] - 1) * HOUR_MS) < HOUR_MS]
    _, wrong = compare(readings(name, fewer, HOURS[name]), events)
    assert wrong


def test_derived_readings_follow_their_input() -> None:
    events = generate("link", random.Random(3), 1)
    found = readings("link", events, 1)
    cells = {}
    for name in ("traffic.tti", "traffic.dtp", "traffic.segment_state"):
        rows = found.filter(indicator=name).select("place_kind", "place", "window_end", "value")
        cells[name] = {(kind, place, end): value for kind, place, end, value in rows.iter_rows()}
    tti, dtp, code = cells.values()
    assert tti.keys() == dtp.keys()
    assert code.keys() == {key for key in tti if key[0] == "site"}
    for key, value in tti.items():
        assert (dtp[key] is None) == (value is None)
        if value is not None:
            assert math.isclose(dtp[key], 1 - 1 / value, abs_tol=1e-12)
    print(f"{len(dtp)} delays and {len(code)} states follow their travel time index")
    # Beside the edges, which are compared in integers, the code is that of V / V_f = 1 / TTI.
    known = [(code[key], 1 / tti[key]) for key in code if code[key] is not None]
    for state, speed in known:
        if min(abs(speed - edge) for edge in (0.7, 0.5, 0.4, 0.3)) > 1e-9:
            assert state == 1 + sum(speed <= edge for edge in (0.7, 0.5, 0.4, 0.3))
    assert len(known) >= 30


def test_states_and_reasons() -> None:
    park = readings("park", generate("park", random.Random(7), 1), 1).filter(indicator="parking.occupancy")
    above = park.filter(pl.col("detail").str.contains("above_capacity"))
    assert len(above) and (above["value"] > 100).all() and (above["state"] == "degraded").all()
    air = readings("air", generate("air", random.Random(7), 26), 26).filter(indicator="aqi.realtime")
    lacking = air.filter(pl.col("detail").str.contains('"reason":"NA"'))
    assert len(lacking) and lacking["value"].null_count() == len(lacking)
    bad = air.filter(pl.col("value") > 50)
    assert len(bad) and bad["detail"].str.contains(r'"primary":\["').all()
    link = readings("link", generate("link", random.Random(7), 1), 1).filter(indicator="traffic.tti", place="s3")
    assert len(link) and link["detail"].str.contains("no_attribute").all()
