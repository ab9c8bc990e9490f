"""What the server prepares for the screen: its list of panels, the lines of the last day, the outlines of the districts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands.inputs import city_of
from dashboards.panels import OVERVIEW, SCREENS, Panel, Screen, charted, described
from dashboards.series import KEPT_MS, MOST, Series
from pipelines import catalogue
from pipelines.pack_checks import PackError
from pipelines.pack_map import read_map
from tests.unit.dashboard_fakes import START, Changed, city, episode, reading, readings

KNOWN = {i.id for i in catalogue.for_city(city_of("demo"))}
SQUARE = [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]


# --- panels
def test_every_panel_can_be_drawn_and_shows_what_there_is() -> None:
    shown = described(KNOWN)
    panels = [panel for screen in shown for panel in screen["panels"]]
    assert len({p["id"] for p in panels}) == len(panels) == sum(len(s.panels) for s in SCREENS)
    assert {name for p in panels for name in p["indicators"]} <= KNOWN
    assert all({name for p in s.panels for name in p.indicators} <= KNOWN for s in SCREENS), (
        "a name that no indicator has"
    )


def test_what_a_city_does_not_have_is_left_out() -> None:
    one = described({"traffic.tpi"})[0]["panels"]
    assert [p["indicators"] for p in one if p["kind"] == "kpi"] == [["traffic.tpi"]]
    assert {p["kind"] for p in one} >= {"alerts", "sources", "timeline", "map"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"area": (20, 1, 6, 1)}, "leaves the grid"),
        ({"area": (0, 1, 6, 1)}, "before the grid"),
        ({"area": (7, 2, 2, 2)}, "lie upon each other"),
        ({"kind": "pie"}, "is none of kpi"),
        ({"kind": "line", "indicators": ("a", "b", "c")}, "has 3 lines"),
    ],
)
def test_a_panel_that_cannot_be_drawn_is_refused(changes: dict[str, Any], said: str) -> None:
    first, *rest = OVERVIEW.panels
    with pytest.raises(ValueError, match=said):
        described(KNOWN, [Screen("x", "x", "x", (replace(first, **changes), *rest))])


def test_a_panel_is_one_entry() -> None:
    new = Panel("overview.new", "ranking", "新", "New", (13, 10, 6, 2), ("http.p95",))
    more = replace(OVERVIEW, panels=(*OVERVIEW.panels[:-1], new))
    assert described(KNOWN, [more])[0]["panels"][-1]["id"] == "overview.new"


# --- series
def test_a_line_keeps_a_day_and_takes_corrections() -> None:
    series, hour = Series({"speed"}), 3_600_000
    first = [reading(end=START + n * hour, value=float(n)) for n in range(30)]
    assert len(series.add(readings(*first))["speed"]) == 30
    line = dict(series.items())["speed"]
    assert [p[1] for p in line] == [float(n) for n in range(5, 30)] and line[-1][0] - line[0][0] <= KEPT_MS
    corrected = series.add(readings(reading(end=START + 20 * hour, value=99.0, revision=2)))
    assert corrected == {"speed": [(START + 20 * hour, 99.0, 2)]} and (START + 20 * hour, 99.0, 2) in line
    assert series.add(readings(reading(end=START + 20 * hour, value=1.0, revision=1))) == {}, "an older revision"
    assert series.add(readings(reading(end=START, value=1.0, revision=9))) == {}, "older than a day"
    assert series.add(readings(reading("tti"), reading(place="d01"))) == {}, "no line of the screen"
    series.add(readings(*(reading(end=START + 29 * hour + n, value=1.0) for n in range(2 * MOST))))
    assert len(dict(series.items())["speed"]) == MOST


def test_snapshot_and_delta_have_the_lines() -> None:
    f = city()
    name = min(charted())
    f.board.draw(readings(reading(name, end=START - 600_000, value=1.0)))
    f.step([reading(name, end=START, value=2.0)])
    sent = json.loads(f.board.snapshot()[1])
    assert sent["series"] == {name: [[START - 600_000, 1.0, 1], [START, 2.0, 1]]}
    event = f.board.ring.after(0)
    assert event is not None and f'"series":{{"{name}":[[{START},2.0,1]]}}'.encode() in event.encoded


def test_what_began_in_the_last_day() -> None:
    f = city()
    f.step(
        changes=[Changed("back", 1, START, "firing", "retracted")],
        open_episodes=[episode("now"), episode("old", at=START - KEPT_MS - 1)],
    )
    assert json.loads(f.board.snapshot()[1])["begun"] == [["now", "2026-03-02T00:00:00.000Z", "II", "firing"]]


def test_an_alert_of_a_site_names_its_district() -> None:
    f = city()
    f.board.describe({}, lambda indicator, site: {("speed", "l1"): "d07"}.get((indicator, site)))
    f.step(
        open_episodes=[
            episode("a", place_kind="site", place="l1"),
            episode("b"),
            episode("c", place_kind="site", place="l2"),
        ]
    )
    assert {e["episode_id"]: e["district"] for e in f.board.alerts(True)} == {"a": "d07", "b": None, "c": None}


# --- outlines
def feature(name: object, coordinates: object = SQUARE, kind: str = "Polygon") -> dict[str, Any]:
    return {"type": "Feature", "id": name, "geometry": {"type": kind, "coordinates": coordinates}}


def written(folder: Path, *features: object) -> Path:
    path = folder / "districts.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_outlines_are_read(tmp_path: Path) -> None:
    assert read_map(tmp_path / "districts.geojson", ["a"]) == ""
    foreign = {**feature("b", [SQUARE], "MultiPolygon"), "properties": {"id": "b", "note": "x"}}
    del foreign["id"]
    found = json.loads(read_map(written(tmp_path, feature("a"), foreign), ["a", "b"]))
    assert [(f["id"], f["properties"], f["geometry"]["type"]) for f in found["features"]] == [
        ("a", {"name": "a"}, "Polygon"), ("b", {"name": "b"}, "MultiPolygon"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([feature("A")], "unknown district 'A'; known are a, b.*"),
        ([feature("a")], "lacks the districts b"),
        ([feature("a"), feature("a"), feature("b")], "'a' is there twice"),
        ([feature("a", [0, 0], "Point"), feature("b")], "geometry is 'Point'"),
        ([feature("a", [[[0, 0], [500_000, 4_000_000], [1, 1], [0, 0]]]), feature("b")], "EPSG:4326"),
        ([feature("a", [[[0, 0], [1, "x"], [1, 1], [0, 0]]]), feature("b")], "no \\[longitude, latitude\\]"),
        ([feature("a", []), feature("b")], "coordinates are"),
        ([feature("a", [[[0, 0], [1, 1]]]), feature("b")], "has 2 points"),
        (["a"], "unknown district 'None'"),
    ],
)
def test_wrong_outlines_are_told(tmp_path: Path, features: list[object], said: str) -> None:
    with pytest.raises(PackError, match=said):
        read_map(written(tmp_path, *features), ["a", "b"])


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is no JSON"), ("[]", "FeatureCollection"), ('{"type":"Feature"}', "FeatureCollection")]
)
def test_what_is_no_geojson_is_told(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "districts.geojson"
    path.write_text(content)
    with pytest.raises(PackError, match=said):
        read_map(path, ["a"])
