"""City packs: what a deployer can get wrong is said with place, value and cure; the shipped packs load and differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipelines import catalogue
from pipelines.alerts import Level
from pipelines.automaton import Automaton, Change
from pipelines.catalogue.government import LICENCE_SAME_DAY
from pipelines.city import City
from pipelines.indicator import Cases, Composite, composite
from pipelines.lifecycle import case_schema
from pipelines.pack import PackError, read_city
from pipelines.streams import CASE

ROOT = Path(__file__).parent.parent.parent
FILES = {
    "city.toml": """
id = "a"
zh = "甲"
en = "A"
zone = "Asia/Shanghai"
districts = [{ id = "d1", zh = "一", en = "One" }, { id = "d2", zh = "二", en = "Two" }]
[weights]
"traffic.tpi" = 3
[thresholds]
"traffic.tpi" = [1, 2.5, 5, 9]
[parameters."http.apdex"]
t_ms = 250
""",
    "places.csv": """stream,id,parent,district,valid_from,period_s,length_m,free_kmh,capacity
link,l1,,d1,,60,1000,60,
link,l1,,d1,2026-06-01T00:00:00+08:00,60,1000,30,
park,p1,,d2,,,,,300
""",
    "rules.toml": """
[[rule]]
name = "jam"
version = 2
indicator = "traffic.tpi"
place_kind = "district"
keep_firing_for = "90s"
no_data = "raise"
correct_for = "3d"
levels = [{ level = "III", raise = 6, clear = 5.5, for = "15m" }, { level = "II", raise = 8, clear = 7 }]
""",
    "holidays.csv": "date,name\n2026-10-01,National Day\n",
}


def pack(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """The pack of FILES with texts replaced: (file, old, new); old '' replaces the whole file."""
    for name, text in FILES.items():
        for changed, old, new in changes:
            if changed == name:
                assert old in text, f"{old!r} is not in {name}"
                text = text.replace(old, new, 1) if old else new
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_pack_becomes_a_city(tmp_path: Path) -> None:
    city = read_city(pack(tmp_path), catalogue.IDS)
    assert (city.id, city.zh, city.zone, [d.id for d in city.districts]) == ("a", "甲", "Asia/Shanghai", ["d1", "d2"])
    first, later, lot = city.sites
    assert (first.stream, first.id, first.district, first.parent, first.valid_from) == ("link", "l1", "d1", None, 0)
    assert (first.period_ms, dict(first.attributes)) == (60_000, {"length_m": 1000, "free_ms": 60_000})
    assert (later.valid_from, later.attributes["free_ms"]) == (1_780_243_200_000, 120_000)
    assert (lot.period_ms, dict(lot.attributes)) == (None, {"capacity": 300})
    (rule,) = city.rules
    assert (rule.name, rule.version, rule.keep_firing_for_ms, rule.no_data) == ("jam", 2, 90_000, "raise")
    assert rule.correct_for_ms == 3 * 86_400_000
    assert [(x.level, x.raise_, x.clear, x.for_ms) for x in rule.levels] == [
        (Level.III, 6.0, 5.5, 900_000),
        (Level.II, 8.0, 7.0, 0),
    ]
    assert (city.weights, city.thresholds) == ({"traffic.tpi": 3}, {"traffic.tpi": (1.0, 2.5, 5.0, 9.0)})
    assert (city.parameters, city.holidays) == ({"http.apdex": {"t_ms": 250}}, {"2026-10-01"})


def test_only_city_toml_is_needed(tmp_path: Path) -> None:
    (tmp_path / "city.toml").write_bytes(b"\xef\xbb\xbf" + FILES["city.toml"].encode())
    city = read_city(tmp_path, catalogue.IDS)
    assert (city.sites, city.rules, city.holidays) == ((), (), frozenset())


CITY, PLACES, RULES, HOLIDAYS = "city.toml", "places.csv", "rules.toml", "holidays.csv"
WRONG: list[tuple[str, str, str, str]] = [
    (CITY, 'zone = "', 'zome = "', r"city\.toml: unknown key 'zome'; known are id, zh, .*Did you mean 'zone'"),
    (CITY, 'zone = "Asia/Shanghai"', "", r"city\.toml: 'zone' is missing"),
    (CITY, "Asia/Shanghai", "Asia/Shangai", r"zone 'Asia/Shangai' is unknown.*Did you mean 'Asia/Shanghai'"),
    (CITY, 'zone = "Asia/Shanghai"', "zone = 8", r"zone is 8; it must be a text"),
    (CITY, 'id = "a"', 'id = ""', r"city\.toml: id is ''; it must be a text"),
    (CITY, 'id = "a"', "id = ", r"city\.toml: .*line 2"),
    (CITY, '{ id = "d2"', '{ id = "d1"', r"district 2: id 'd1' is taken"),
    (CITY, 'zh = "二", ', "", r"district 2: 'zh' is missing"),
    (CITY, 'zh = "二"', 'zhh = "二"', r"district 2: unknown key 'zhh'.*Did you mean 'zh'"),
    (CITY, "districts = [", "districts = 1 #", r"districts is 1; it must be a list"),
    (CITY, '"traffic.tpi" = 3', '"trafic.tpi" = 3', r"\[weights\]: unknown indicator 'trafic.tpi'.*'traffic.tpi'"),
    (CITY, '"traffic.tpi" = 3', "traffic.tpi = 3", r'\[weights\] traffic.tpi must stand in quotes: "traffic.tpi"'),
    (CITY, '"traffic.tpi" = 3', '"traffic.tpi" = -1', r"\[weights\] traffic.tpi is -1; .* whole number from 0"),
    (CITY, '"traffic.tpi" = 3', '"traffic.tpi" = 0.5', r"\[weights\] traffic.tpi is 0.5; .* whole number from 0"),
    (CITY, "[1, 2.5, 5, 9]", "4", r"\[thresholds\] traffic.tpi is 4; it must be a list"),
    (CITY, "[1, 2.5, 5, 9]", '[1, "2"]', r"\[thresholds\] traffic.tpi is '2'; it must be a finite number"),
    (CITY, "[1, 2.5, 5, 9]", "[1, nan]", r"traffic.tpi is nan; it must be a finite number"),
    (CITY, "[1, 2.5, 5, 9]", "[1, 5, 2]", r"bounds must ascend"),
    (CITY, '[parameters."http.apdex"]', '[parameters."http.apex"]', r"\[parameters\]: unknown indicator 'http.apex'"),
    (PLACES, "stream,id", "steam,id", r"places\.csv:1: unknown column 'steam'.*Did you mean 'stream'"),
    (PLACES, "length_m", "lenght_m", r"unknown column 'lenght_m'.*Did you mean 'length_m'"),
    (PLACES, "parent,district", "parent,parent", r"places\.csv:1: 'district' is missing"),
    (PLACES, "parent,district,valid_from", "parent,district,parent", r"a column stands twice"),
    (PLACES, "", "", r"places\.csv:1: 'stream' is missing"),
    (PLACES, "park,p1", "parc,p1", r"places\.csv:4: unknown stream 'parc'; known are link, .*Did you mean 'park'"),
    (PLACES, "park,p1,,d2", "park,p1,,d3", r"places\.csv:4: unknown district 'd3'; known are d1, d2"),
    (PLACES, "park,p1", "park,", r"places\.csv:4: id is empty"),
    (PLACES, "park,p1,,d2,,,,,300", "park,p1,,d2,,,,,-3", r"places\.csv:4: capacity is '-3'; .* whole number above 0"),
    (PLACES, "park,p1,,d2,,,,,300", "park,p1,,d2,,,,,3.5", r"capacity is '3.5'; .* whole number above 0"),
    (PLACES, "park,p1,,d2,,,", "park,p1,,d2,,60s,", r"places\.csv:4: period_s is '60s'; .* whole number above 0"),
    (PLACES, "park,p1,,d2,,,,,300", "park,p1,,d2", r"places\.csv:4: the row does not have the 9 cells"),
    (PLACES, ",300", ",300,1", r"places\.csv:4: the row does not have the 9 cells"),
    (PLACES, "2026-06-01T00:00:00+08:00", "", r"places\.csv:3: link 'l1' stands here twice"),
    (PLACES, "2026-06-01T00:00:00+08:00", "June", r"places\.csv:3: valid_from 'June' is no time; write 2026-"),
    (PLACES, "+08:00", "", r"places\.csv:3: valid_from '2026-06-01T00:00:00' has no zone"),
    (RULES, "[[rule]]", "[[rules]]", r"rules\.toml: unknown key 'rules'.*Did you mean 'rule'"),
    (RULES, "[[rule]]", "[rule]", r"rules\.toml: rule is .*; it must be a list"),
    (
        RULES,
        "keep_firing_for",
        "keep_fireing_for",
        r"rule 1 \(jam\): unknown key 'keep_fireing_for'.*'keep_firing_for'",
    ),
    (RULES, "version = 2\n", "", r"rule 1 \(jam\): 'version' is missing"),
    (RULES, "version = 2", "version = 0", r"version is 0; it must be a whole number from 1"),
    (RULES, "traffic.tpi", "trafic.tpi", r"rule 1 \(jam\): unknown indicator 'trafic.tpi'.*'traffic.tpi'"),
    (RULES, '"district"', '"distrct"', r"unknown place_kind 'distrct'; known are site, .*Did you mean 'district'"),
    (RULES, '"90s"', "90", r"keep_firing_for: 90 is no duration; write a whole number and s, m, h or d"),
    (RULES, '"15m"', '"15min"', r"level III: for: '15min' is no duration"),
    (RULES, '"III"', '"V"', r"unknown level 'V'; known are I, II, III, IV"),
    (RULES, "clear = 5.5, ", "", r"level: 'clear' is missing; needed are level, raise, clear"),
    (RULES, "clear = 5.5", "clear = 6.5", r"clear 6.5 is above raise 6"),
    (RULES, "raise = 8", 'raise = "8"', r"level II: raise is '8'; it must be a finite number"),
    (RULES, "raise = 8, clear = 7", "raise = 5, clear = 5", r"II raises at 5, before the milder III"),
    (RULES, 'no_data = "raise"', 'no_data = "alarm"', r"no_data is 'alarm'; allowed are hold, raise, clear"),
    (RULES, "[[rule]]", FILES["rules.toml"] + "[[rule]]", r"rule 2: name 'jam' is taken"),
    (HOLIDAYS, "2026-10-01", "2026-13-01", r"holidays\.csv:2: '2026-13-01' is no date; write 2026-10-01"),
    (HOLIDAYS, "date,", "day,", r"holidays\.csv:1: unknown column 'day'"),
    (HOLIDAYS, "date,name\n2026-10-01,", "name\n", r"holidays\.csv:1: 'date' is missing"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), WRONG)
def test_wrong_packs_are_refused(file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=message):
        read_city(pack(tmp_path, (file, old, new)), catalogue.IDS)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for name in FILES:
        (pack(tmp_path) / name).write_bytes(
            b"date\n\xff\xfe\n" if name == HOLIDAYS else b"stream,id,district\n\xff,1,2\n"
        )
        with pytest.raises(PackError, match=f"{name}.*utf-8"):
            read_city(tmp_path, catalogue.IDS)
    with pytest.raises(PackError, match=r"nowhere/city.toml does not exist; a city pack is a folder"):
        read_city(tmp_path / "nowhere", catalogue.IDS)


def shipped(name: str) -> City:
    return read_city(ROOT / "cities" / name, catalogue.IDS, catalogue.STREAMS)


@pytest.mark.parametrize("name", ["demo", "harbour"])
def test_shipped_packs_load_and_their_rules_judge_what_is_published(name: str) -> None:
    city = shipped(name)
    indicators = catalogue.for_city(city)
    assert city.id == name
    assert city.sites and city.rules and city.holidays
    for rule in city.rules:
        published = catalogue.levels(catalogue.indicator(rule.indicator, indicators), indicators)
        assert rule.place_kind in published, rule.name
    assert {s.stream for s in city.sites} == {"link", "det", "air", "lvl", "rain", "park", "http"}


def test_the_places_of_the_demo_city_are_those_that_its_tool_writes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo_city", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(shipped("demo").sites) == 2212


def trail(city: City, rule: str, values: list[float]) -> list[Change]:
    """What a rule of the city makes of one value a minute at one place."""
    automaton = Automaton(next(r for r in city.rules if r.name == rule))
    state, changes = automaton.idle, list[Change]()
    for minute, seen in enumerate(automaton.classify(pl.Series(values, dtype=pl.Float64).to_numpy())):
        state = automaton.advance(state, int(seen), minute * 60_000, 60_000, changes)
    return changes


def test_two_cities_judge_the_same_differently() -> None:
    demo, harbour = shipped("demo"), shipped("harbour")
    depths = [0.0, 6.0, 12.0, 12.0, 2.0]
    assert trail(demo, "water.depth", depths) == []
    assert [(c.at, c.level) for c in trail(harbour, "water.depth", depths)] == [(60_000, "III"), (120_000, "II")]

    parts = {"traffic.tpi": 5.0, "aqi.realtime": 75.0, "water.depth": 12.0, "http.error_ratio": 1.0, "http.apdex": 0.8}
    kinds = [catalogue.indicator("city.vital_sign", catalogue.for_city(c)).kind for c in (demo, harbour)]
    first, second = (composite(k, parts)[0] for k in kinds if isinstance(k, Composite))
    assert first is not None and second is not None and abs(first - second) > 5

    kind = LICENCE_SAME_DAY.kind
    assert isinstance(kind, Cases)
    submitted = 1_772_442_000_000  # 2026-03-02T09:00Z: 17:00 in Shanghai, 10:00 in Copenhagen
    case = {
        "case_id": "c",
        "place": "d",
        "submit": submitted,
        "deliver": submitted + 8 * 3_600_000,
        "item": "food_licence",
    }
    cases = pl.DataFrame([{k: case.get(k) for k in case_schema(CASE)}], schema=case_schema(CASE))
    assert [kind.facts(cases, c.zone)["num"].item() for c in (demo, harbour)] == [0, 1]
