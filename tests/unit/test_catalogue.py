"""The catalogue as a whole: names, grades, levels, graph, worked cases, ranges, cities, growth by one file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import pipelines
from pipelines import catalogue
from pipelines.catalogue import CATALOGUE, CatalogueError, check, for_city, indicator, levels, reference, rollups
from pipelines.city import City
from pipelines.expr import And, Arith, Col, Compare, Const, IsNull, Node, Not, Or
from pipelines.indicator import Cases, Composite, Derived, Indicator, Panes, Stock, composite
from pipelines.rollup import PACK, Rollup
from pipelines.streams import HOUR_MS, MINUTE_MS, Flag, Int, Text
from pipelines.windows import Day, Slide

INT64 = 2**63 - 1
NAMES = {
    "traffic.tti": ("行程时间比", "Travel time index"),
    "traffic.dtp": ("延误时间比", "Delay time proportion"),
    "traffic.tpi": ("交通运行指数", "Traffic performance index"),
    "traffic.segment_state": ("路段运行状态", "Segment state"),
    "traffic.congested_mileage": ("拥堵里程比例", "Congested mileage ratio"),
    "traffic.speed": ("路网平均速度", "Network mean speed"),
    "traffic.flow": ("流率", "Flow rate"),
    "traffic.occupancy": ("占有率", "Detector occupancy"),
    "parking.occupancy": ("停车占有率", "Parking occupancy"),
    "aqi.realtime": ("AQI实时报", "AQI real-time"),
    "water.depth": ("道路积水深度", "Road water depth"),
    "water.rise": ("积水上涨速率", "Water rise rate"),
    "http.error_ratio": ("服务错误率", "Service error ratio"),
    "http.p95": ("95分位响应时间", "p95 latency"),
    "http.apdex": ("应用性能指数", "Apdex"),
    "city.vital_sign": ("城市体征指数", "Composite city vital sign"),
}
ALSO = {
    "aqi.realtime_2012", "aqi.realtime_2012_literal", "rain.3h", "rain.6h", "rain.12h", "accident.settled_5min",
    "approval.one_second", "licence.same_day", "case.zero_visit", "case.overdue", "hotline.answer_15s",
    "hotline.feedback_in_time",
}  # fmt: skip
# Where reference 4.7 gives no parent.
SITES_ONLY = {
    "traffic.segment_state": ("site",),
    "traffic.flow": ("lane", "site"),
    "water.rise": ("site",),
    "rain.3h": ("site",),
    "rain.6h": ("site",),
    "rain.12h": ("site",),
}
EVERY_MINUTE, FIVE_MINUTES = MINUTE_MS, 5 * MINUTE_MS
WINDOWS = {
    "traffic.tti": Slide(FIVE_MINUTES, FIVE_MINUTES),
    "traffic.tpi": Slide(15 * MINUTE_MS, 15 * MINUTE_MS),
    "traffic.congested_mileage": Slide(15 * MINUTE_MS, 15 * MINUTE_MS),
    "traffic.speed": Slide(FIVE_MINUTES, FIVE_MINUTES),
    "traffic.flow": Slide(FIVE_MINUTES, FIVE_MINUTES),
    "aqi.realtime": Slide(HOUR_MS, HOUR_MS),
    "water.depth": Slide(FIVE_MINUTES, EVERY_MINUTE),
    "water.rise": Slide(10 * MINUTE_MS, EVERY_MINUTE),
    "rain.12h": Slide(12 * HOUR_MS, 10 * MINUTE_MS),
    "http.p95": Slide(FIVE_MINUTES, EVERY_MINUTE),
    "licence.same_day": Day(),
    "city.vital_sign": Slide(FIVE_MINUTES, FIVE_MINUTES),
}
CITY = City("t", "试", "Test", "Asia/Shanghai")


def test_ids_names_and_methods() -> None:
    ids = [i.id for i in CATALOGUE]
    assert set(ids) >= NAMES.keys() | ALSO
    for names in (ids, [i.zh for i in CATALOGUE], [i.en for i in CATALOGUE]):
        assert len(set(names)) == len(names)
    assert {name: (indicator(name).zh, indicator(name).en) for name in NAMES} == NAMES
    assert {name: indicator(name).window for name in WINDOWS} == WINDOWS
    for each in CATALOGUE:
        assert each.method_id and each.unit and each.case.source, each.id


def test_thresholds_are_graded_and_ascend() -> None:
    for each in CATALOGUE:
        grade, values = each.thresholds.grade, each.thresholds.values
        assert grade in ("V", "S", "P") and each.thresholds.source, each.id
        assert list(values) == sorted(set(values)), each.id
        if each.thresholds.source.startswith(("ours", "our ", "none")):
            assert grade == "P", each.id
    assert indicator("traffic.tpi").thresholds.values == (2, 4, 6, 8)
    assert indicator("aqi.realtime").thresholds.values == (50, 100, 150, 200, 300)
    assert indicator("rain.3h").thresholds.values == (50, 100)


def test_parents_exist_only_where_the_reference_says_so() -> None:
    known = {i.id: i for i in CATALOGUE}
    found = {i.id: levels(i, known) for i in CATALOGUE}
    for name, expected in SITES_ONLY.items():
        assert found[name] == expected
    for name, places in found.items():
        if name not in SITES_ONLY:
            assert places[-2:] == ("district", "city"), name


@pytest.mark.parametrize("each", CATALOGUE, ids=lambda i: i.id)
def test_a_broken_formula_breaks_its_worked_case(each: Indicator) -> None:
    kind = each.kind
    match kind:
        case Panes() | Cases() | Stock() | Derived():
            broken: object = replace(kind, value=kind.value * 1.001 + 1e-3)
        case Composite(parts=parts):
            broken = replace(
                kind, parts=(replace(parts[0], score=tuple((x, y / 2) for x, y in parts[0].score)), *parts[1:])
            )
    with pytest.raises(ValueError, match=f"indicator '{each.id}': its worked case gives"):
        replace(each, kind=broken)
    assert replace(each).id == each.id


def test_composite_of_the_city() -> None:
    kind = indicator("city.vital_sign").kind
    assert isinstance(kind, Composite)
    assert sum(p.weight for p in kind.parts) == 100
    for part in kind.parts:
        bends = [x for x, _ in part.score]
        assert bends == sorted(set(bends)) and {y for _, y in part.score} >= {0, 100}
        assert set(indicator(part.indicator).thresholds.values) & set(bends), part.indicator
        direction = 1 if indicator(part.indicator).good == "up" else -1
        scores = [y * direction for _, y in part.score]
        assert scores == sorted(scores), part.indicator
    best = {p.indicator: p.score[0 if p.score[0][1] == 100 else -1][0] for p in kind.parts}
    assert composite(kind, best)[0] == 100
    only_30_missing = {k: v for k, v in best.items() if k not in ("traffic.tpi", "http.error_ratio")}
    assert composite(kind, only_30_missing)[0] == 100
    assert composite(kind, {k: v for k, v in only_30_missing.items() if k != "http.apdex"})[0] is None


def top(node: Node | None, rollup: Rollup) -> int:
    """The largest value of a measure's expression at the declared ranges of the columns."""
    match node:
        case None | Compare() | IsNull() | And() | Or() | Not():
            return 1
        case Const(value):
            return int(value)
        case Col(name):
            column = rollup.stream.column(name)
            assert isinstance(column, Int)
            assert column.low >= 0
            return column.high
        case Arith(op, left, right):
            assert op == "*"
            return top(left, rollup) * top(right, rollup)


def test_measures_stay_in_int64() -> None:
    """Sums over a day of events at the top of their ranges at 1,000 places, ten times as often as declared."""
    checked = 0
    for rollup in rollups(CATALOGUE):
        for measure in rollup.measures:
            if measure.kind in ("first", "last"):
                assert isinstance(measure.of, Col)
                assert rollup.pane_ms * PACK + top(measure.of, rollup) <= INT64
            elif rollup.name == "air":
                # covered_ms is at most what passed: 2,500 station-hours wholly covered, at 1 g/m3.
                assert top(measure.of, rollup) * 2_500 <= INT64
            else:
                assert top(measure.of, rollup) * 1_000_000 <= INT64, (rollup.name, measure.name)
            checked += 1
    print(f"{checked} measures within Int64")
    assert checked >= 23


def test_sums_of_a_full_scale_city_stay_in_int64() -> None:
    capacity = 2_000 * 6 // 4  # vehicles in 15 min on six lanes
    for links, metres in ((6_000, 5_000), (50_000, 1_000)):
        assert links * capacity * metres * 10**6 <= INT64  # TPI: sum of w * DTP in 1e-6 vehicle-metres
        assert links * capacity * 36_000_000 * 100 <= INT64  # TTI, and the percentages of a level
    assert 50_000 * capacity * 1_000 * 10**9 > INT64  # why not in 1e-9
    # One link at the top of every declared range, an event a minute: w * DTP * 1e9 before it is cut to 1e-6.
    assert INT64 >= 15 * 10_000 * 61_000 * 10**9
    assert INT64 >= 50_000 * 2_400 * 10**9  # flow: 50,000 lanes at 2,400 veh/h
    assert INT64 >= 20_000 * 500 * 10**9  # AQI: 20,000 stations at 500 ug/m3
    assert INT64 >= 9_000 * 10**6 * 10**9  # and 9,000 at the top of the declared range


def test_rollups_are_one_a_stream() -> None:
    found = rollups(CATALOGUE)
    streams = [r.stream.name for r in found]
    assert len(set(streams)) == len(streams)
    assert set(streams) >= {"air", "det", "http", "link", "lvl", "park", "rain"}
    for each in CATALOGUE:
        if isinstance(each.kind, Panes) and isinstance(each.window, Slide):
            assert each.window.step_ms % each.kind.rollup.pane_ms == 0, each.id
            assert each.window.size_ms % each.kind.rollup.pane_ms == 0, each.id
            assert each.kind.lookback_ms % each.kind.rollup.pane_ms == 0, each.id
    first = found[0]
    other = replace(indicator("traffic.tti"), id="x")
    object.__setattr__(other, "kind", replace(other.kind, rollup=replace(first, name="link", pane_ms=HOUR_MS)))
    with pytest.raises(CatalogueError, match="another rollup 'link'"):
        rollups([indicator("traffic.tti"), other])


def test_a_city_sets_thresholds_weights_and_parameters() -> None:
    city = replace(
        CITY,
        thresholds={"traffic.tpi": (1.0, 3.0, 5.0, 9.0)},
        weights={"traffic.tpi": 0, "aqi.realtime": 60},
        parameters={"http.apdex": {"t_ms": 250}, "parking.occupancy": {"validity_min": 60}},
    )
    tuned = {i.id: i for i in for_city(city)}
    assert [i.id for i in for_city(city)] == list(catalogue.IDS) == [i.id for i in for_city(CITY)]
    assert tuned["traffic.tpi"].thresholds.values == (1, 3, 5, 9)
    assert tuned["traffic.tpi"].thresholds.grade == "P"
    assert tuned["http.apdex"].method_id == "Apdex, T=250 ms"
    assert tuned["parking.occupancy"].window == Slide(HOUR_MS, MINUTE_MS)
    kind = tuned["city.vital_sign"].kind
    assert isinstance(kind, Composite)
    assert {p.indicator: p.weight for p in kind.parts}["aqi.realtime"] == 60
    assert kind.parts[0].score == ((0, 100), (1, 90), (3, 75), (5, 50), (9, 25), (10, 0))
    untouched = [i for i, j in zip(for_city(CITY), CATALOGUE, strict=True) if i is not j]
    assert not untouched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"http.apdex": {"t_m": 250}}}, r"has no 't_m'; known are t_ms\. Did you mean 't_ms'\?"),
        ({"parameters": {"http.apdex": {"t_ms": "250"}}}, "t_ms is '250'; it must be int"),
        ({"parameters": {"http.apdex": {"t_ms": True}}}, "t_ms is True; it must be int"),
        ({"parameters": {"http.apdex": {"t_ms": 300}}}, "1200000 us is no bound of the histogram; the nearest are"),
        (
            {"parameters": {"traffic.tti": {"x": 1}}},
            r"\[parameters\] names 'traffic.tti'; known are http.apdex, parking",
        ),
        ({"parameters": {"parking.occupancy": {"validity_min": 0}}}, "it must be from 2 to 1440"),
        ({"thresholds": {"traffic.tpi": (1.0,)}}, "thresholds of traffic.tpi: 1 given, 4 needed"),
        ({"thresholds": {"traffic.tpi": (4.0, 3.0, 2.0, 1.0)}}, "must ascend"),
        ({"thresholds": {"traffic.tpi": (2.0, 4.0, 6.0, 11.0)}}, "leave the ends of its score"),
        ({"thresholds": {"traffic.tpj": (1.0,)}}, r"names 'traffic.tpj'; .* Did you mean 'traffic.tpi'\?"),
        ({"weights": {"rain.3h": 5}}, r"\[weights\] names 'rain.3h'; known are accident.settled_5min"),
    ],
)
def test_what_a_city_cannot_set(change: dict[str, dict[str, object]], message: str) -> None:
    city = replace(CITY, **change)  # type: ignore[arg-type]
    with pytest.raises(CatalogueError, match=message):
        for_city(city)


def test_weights_of_zero_everywhere_are_refused() -> None:
    kind = indicator("city.vital_sign").kind
    assert isinstance(kind, Composite)
    with pytest.raises(CatalogueError, match="are all 0"):
        for_city(replace(CITY, weights={p.indicator: 0 for p in kind.parts}))


def test_a_zone_must_not_cut_the_panes_of_a_local_day() -> None:
    daily = replace(indicator("traffic.occupancy"), window=Day())
    hourly = replace(indicator("aqi.realtime"), window=Day())
    for zone in ("Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin"):
        catalogue.whole_days(daily, zone)
    catalogue.whole_days(hourly, "Europe/Berlin")
    catalogue.whole_days(indicator("aqi.realtime"), "Asia/Kolkata")
    with pytest.raises(
        CatalogueError, match=r"panes of 1:00:00, which midnight in Asia/Kolkata cuts \(offset 5:30:00\)"
    ):
        catalogue.whole_days(hourly, "Asia/Kolkata")


def test_lookups_name_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"indicator 'traffic.tpl' is unknown; .*Did you mean 'traffic.tpi'\?"):
        indicator("traffic.tpl")
    with pytest.raises(LookupError, match=r"stream 'lnk' is unknown; .*Did you mean 'link'\?"):
        catalogue.stream("lnk")
    assert catalogue.stream("link").name == "link"


def test_the_graph_is_checked() -> None:
    dtp, tti, flow = indicator("traffic.dtp"), indicator("traffic.tti"), indicator("traffic.flow")
    ordered = [i.id for i in check(reversed(CATALOGUE))]
    assert all(ordered.index(name) < ordered.index(i.id) for i in CATALOGUE for name in i.inputs)
    assert len(ordered) == len(CATALOGUE)

    def reading(each: Indicator, *of: str, **change: object) -> Indicator:
        copy = object.__new__(Indicator)
        for field in Indicator.__dataclass_fields__:
            object.__setattr__(copy, field, change.get(field, getattr(each, field)))
        assert isinstance(each.kind, Derived)
        object.__setattr__(copy, "kind", replace(each.kind, of=of))
        return copy

    with pytest.raises(CatalogueError, match=r"reads 'traffic.tt', which is not in the catalogue; did you mean"):
        check([tti, reading(dtp, "traffic.tt")])
    with pytest.raises(CatalogueError, match="in a circle: "):
        check([reading(dtp, "b", id="a"), reading(dtp, "a", id="b")])
    with pytest.raises(CatalogueError, match=r"published at district, city, where its input 'traffic.flow' is not"):
        check([tti, flow, reading(dtp, "traffic.tti", "traffic.flow")])
    with pytest.raises(CatalogueError, match="has another window than its input"):
        check([tti, reading(dtp, "traffic.tti", window=Slide(HOUR_MS, HOUR_MS))])
    with pytest.raises(CatalogueError, match="two indicators have the id"):
        check([tti, tti])


def test_the_reference_page_names_everything() -> None:
    page = reference.render()
    for each in CATALOGUE:
        assert f"\n### `{each.id}` {each.zh} / {each.en}\n" in page
        assert each.method_id in page and each.case.source in page and each.thresholds.source in page
    assert page.count("\n### ") == len(CATALOGUE)
    assert "`t_ms = 500`" in page
    assert reference.render() == page


def test_streams_of_the_catalogue_are_the_shipped_ones_and_texts_are_bounded() -> None:
    names = [s.name for s in catalogue.STREAMS]
    assert len(set(names)) == len(names) >= 10
    kinds = {type(c) for s in catalogue.STREAMS for c in s.columns}
    assert {Int, Text, Flag} <= kinds


PAY = '''"""Tolls."""

import polars as pl

from pipelines.expr import Col, Compare, Const
from pipelines.indicator import Case, Indicator, Panes, Thresholds
from pipelines.rollup import Measure, Rollup
from pipelines.streams import MINUTE_MS, Int, Stream, Text
from pipelines.windows import Slide

PAY = Stream("toll", place="gate", columns=(Text("status", values=("ok", "user", "system")), Int("fen", "fen", 0, 10**9)),
             disorder_ms=10_000, period_ms=None, dedup=None, horizon_ms=0)
PAYMENTS = Rollup("toll", PAY, MINUTE_MS, (
    Measure("ok", "count", None, Compare("==", Col("status"), Const("ok"))),
    Measure("system", "count", None, Compare("==", Col("status"), Const("system")))))
STREAMS = (PAY,)
INDICATORS = (Indicator(
    id="toll.success", method_id="ok/(ok+system)", zh="通行费支付成功率", en="Toll success", unit="%", domain="fiscal",
    window=Slide(5 * MINUTE_MS, MINUTE_MS),
    kind=Panes(PAYMENTS, (pl.col("ok").sum().alias("num"), (pl.col("ok") + pl.col("system")).sum().alias("den")),
               100 * pl.col("num") / pl.col("den")),
    thresholds=Thresholds((98.0, 99.5), "P", "ours"),
    case=Case(({"pane_start": 0, "ok": 199, "system": 1},), 99.5, "199 of 200"), good="up"),)
'''
SHOW = """
from pipelines import catalogue
print(catalogue.indicator("toll.success").en, catalogue.stream("toll").place, len(catalogue.CATALOGUE))
"""


def test_one_new_file_adds_a_stream_and_an_indicator(tmp_path: Path) -> None:
    package = tmp_path / "pipelines"
    shutil.copytree(Path(pipelines.__path__[0]), package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "catalogue" / "toll.py").write_text(PAY, encoding="utf-8")
    shown = subprocess.run([sys.executable, "-c", SHOW], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.stdout.split() == ["Toll", "success", "gate", str(len(CATALOGUE) + 1)], shown.stderr
    (package / "catalogue" / "toll.py").write_text("INDICATOR = ()\n", encoding="utf-8")
    shown = subprocess.run([sys.executable, "-c", SHOW], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "must declare INDICATORS, a tuple of at least one Indicator" in shown.stderr
