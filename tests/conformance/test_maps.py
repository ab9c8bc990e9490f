"""The eight shipped mappings over the shared data sets: every event equals one made by the standard library's `csv`,
`datetime` and `Decimal` alone, and the identity of rule 11 holds. Skipped, aloud, where the data are not there.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from connectors.decompressed import decompressed
from connectors.mapping import Mapping, read_mapping
from pipelines.model import DeadLetter

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
MAPS = sorted((ROOT / "maps").glob("*.toml"))
AARHUS = "aarhus_citypulse"
Event = tuple[object, ...]
Row = dict[str, str]


def need(path: str) -> Path:
    found = DATA / path
    if not found.exists():
        pytest.skip(f"the data set {path} is not beside the project (../shared/data)")
    return found


def rows(path: Path, delimiter: str = ",", limit: int | None = None) -> Iterator[tuple[int, Row]]:
    """Line number and record, by the standard library."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        line = reader.line_num
        for row in reader:
            yield line + 1 if line else 2, row
            line = reader.line_num
            if limit is not None and line > limit:
                return


def utc(text: str, zone: str = "UTC") -> int:
    """Milliseconds of a naive ISO text in a zone; the earlier of two, and shifted out of a gap (fold = 0)."""
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return int((local - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000 + 1e-4)


def read(
    mapping: Mapping, path: Path, size: int = 1 << 20, limit: int | None = None
) -> tuple[pl.DataFrame, list[DeadLetter], int]:
    """All events, dead letters and the number of records, block by block."""
    format_ = mapping.format(path)
    parts, refused, records = [], [], 0
    with decompressed(path)[0] as file:
        for block in format_.blocks(file, size):
            decoded = format_.decode(block, path.name)
            parts.append(decoded.events.with_columns(pl.col("place").cast(pl.String)))
            refused += decoded.refused
            records += decoded.records
            if limit is not None and records > limit:
                break
    return pl.concat(parts), refused, records


# What each mapping should make of a record, in plain Python ---------------------------------------------------------


def aarhus_traffic(line: int, r: Row) -> list[Event]:
    if r["avgMeasuredTime"] == "0":
        return []
    return [
        (line, 0, utc(r["TIMESTAMP"]) - 1, r["REPORT_ID"], int(r["avgMeasuredTime"]) * 1000, int(r["vehicleCount"]))
    ]


def aarhus_parking(line: int, r: Row) -> list[Event]:
    text, _, fraction = r["updatetime"].partition(".")
    at = utc(text, "Europe/Copenhagen") + int(fraction.ljust(3, "0"))
    return [(line, 0, at, r["garagecode"], int(r["vehiclecount"]), int(r["totalspaces"]), 0)]


def beijing_prsa(line: int, r: Row) -> list[Event]:
    at = utc(f"{r['year']}-{int(r['month']):02}-{int(r['day']):02}T{int(r['hour']):02}:00", "Asia/Shanghai")
    names = ("SO2", "NO2", "CO", "O3", "PM10", "PM2.5")
    return [
        (
            line,
            i,
            at + 3_599_999,
            r["station"],
            n.lower().replace(".", ""),
            int((Decimal(r[n]) * 1000).to_integral_value()),
            3_600_000,
        )
        for i, n in enumerate(names)
        if r[n] != "NA"
    ]


def nasa_http(line: int, r: Row) -> list[Event]:
    return [(line, 0, int(r["time"]) * 1000, "ksc-web", int(r["response"]), None)]


def sf(text: str) -> int:
    return utc(text.removesuffix("+00:00"), "America/Los_Angeles")


def sf_311(line: int, r: Row) -> list[Event]:
    place = r["supervisor_district"]
    place = "unassigned" if place in ("", "-1") else place
    rest = (None, r["agency_name"] or None, None, None, None)
    out: list[Event] = [(line, 0, sf(r["created_date"]), place, r["unique_key"], "ring", *rest)]
    if r["closed_date"] and r["status"] == "Closed":
        out.append((line, 1, sf(r["closed_date"]), place, r["unique_key"], "close", *rest))
    return out


def stl_csb(line: int, r: Row) -> list[Event]:
    def at(text: str) -> int:
        whole, _, fraction = text.partition(".")
        return utc(whole, "America/Chicago") + int(fraction.ljust(3, "0"))

    place = "unassigned" if r["ward"] == "NA" else r["ward"]
    unit = None if r["submitto"] == "NA" else r["submitto"]
    out: list[Event] = []
    for i, (column, milestone) in enumerate(
        (("datetimeinit", "ring"), ("dateinvtdone", "contact"), ("datetimeclosed", "close"))
    ):
        if r[column] != "NA" and (milestone != "close" or r["status"] in ("CLOSED", "Closed")):
            out.append((line, i, at(r[column]), place, r["requestid"], milestone, None, unit, None, None, None))
    return out


def sf_sffd(line: int, r: Row) -> list[Event]:
    place, rest = r["supervisor_district"] or "unassigned", (r["call_type"], "phone")
    out: list[Event] = [(line, 0, sf(r["received_timestamp"]), place, r["call_number"], "report", *rest)]
    if r["on_scene_timestamp"]:
        out.append((line, 1, sf(r["on_scene_timestamp"]), place, r["call_number"], "arrive", *rest))
        if r["available_timestamp"]:
            out.append((line, 2, sf(r["available_timestamp"]), place, r["call_number"], "clear", *rest))
    return out


FINES = {
    "Create Fine": "submit", "Send Fine": "accept", "Insert Date Appeal to Prefecture": "supplement",
    "Appeal to Judge": "supplement", "Payment": "deliver", "Send for Credit Collection": "reject",
}  # fmt: skip


def traffic_fines(line: int, r: Row) -> list[Event]:
    if r["activity"] not in FINES:
        return []
    at = utc(r["timestamp_utc"].removesuffix("Z"))
    return [(line, 0, at, "unassigned", r["case_id"], FINES[r["activity"]], "traffic_fine", None, None, 1, None)]


SETS: list[tuple[str, str, Callable[[int, Row], list[Event]]]] = [
    ("aarhus_traffic", f"{AARHUS}/traffic_60seg_2mo/AarhusTrafficData178713.stream.gz", aarhus_traffic),
    ("aarhus_parking", f"{AARHUS}/AarhusParkingData.stream.gz", aarhus_parking),
    ("beijing_prsa", "beijing_prsa/PRSA_Data_Gucheng_20130301-20170228.csv.gz", beijing_prsa),
    ("nasa_http", "nasa_http/nasa_19950801.tsv.gz", nasa_http),
    ("sf_311", "sf_services/311_service_requests.csv.gz", sf_311),
    ("stl_csb", "stl_csb/january_2018.csv.gz", stl_csb),
    ("sf_sffd", "sf_services/sffd_service_calls.csv.gz", sf_sffd),
    ("traffic_fines", "process_logs/traffic_fines.csv.gz", traffic_fines),
]


def test_all_shipped_mappings_are_here() -> None:
    assert sorted(s[0] for s in SETS) == [p.stem for p in MAPS]
    assert len(MAPS) == 8


@pytest.mark.parametrize("path", MAPS, ids=lambda p: p.stem)
def test_mapping_is_valid(path: Path) -> None:
    """Reads without any data file."""
    found = read_mapping(path)
    assert found.columns
    assert found.source


@pytest.mark.parametrize(("name", "data", "expected"), SETS, ids=[s[0] for s in SETS])
def test_every_event(name: str, data: str, expected: Callable[[int, Row], list[Event]]) -> None:
    path = need(data)
    mapping = read_mapping(ROOT / "maps" / f"{name}.toml", data=path)
    events, refused, records = read(mapping, path)
    wanted: list[Event] = []
    lines = 0
    for line, row in rows(path, mapping.csv.delimiter):
        wanted += expected(line, row)
        lines += 1
    found = events.drop("id").rows()
    if mapping.order == "event_time":
        assert events["t"].is_sorted()
        wanted.sort(key=lambda e: (e[2], e[0], e[1]))
    print(f"{name}: {lines} records, {len(wanted)} events compared, {len(refused)} refused, {len(mapping.sites)} sites")
    assert len(wanted) > 1000
    assert found == wanted
    assert records == lines
    # Rule 11, as far as a decoder goes: received = events made + one per bad record. These sets have no bad record.
    assert (len(found) + len(refused), len(refused)) == (len(wanted), 0)
    if mapping.dedup is None:
        assert set(events["id"].to_list()) == {0}
    else:
        keys = [("place" if k == mapping.stream.place else k) for k in mapping.dedup]
        assert events["id"].n_unique() == events.select(keys).n_unique()


def test_aarhus_week_in_arrival_order() -> None:
    """All 811,685 rows in counts, sums and lateness; the 18,370 rows of dead sensors make no event."""
    path = need(f"{AARHUS}/traffic_all449_20140901_20140907_arrival_order.csv.gz")
    mapping = read_mapping(ROOT / "maps" / "aarhus_traffic.toml", data=path)
    assert (mapping.disorder_ms, mapping.stream.period_ms) == (300_000, 300_000)
    events, refused, records = read(mapping, path)
    with gzip.open(path, "rt") as file:
        cells = [line.rstrip("\n").split(",") for line in file][1:]
    live = [c for c in cells if c[3] != "0"]
    assert (records, events.height, len(refused)) == (811_685, len(live), 0)
    assert len(cells) - len(live) == 18_370
    assert events["tt_ms"].sum() == sum(int(c[3]) for c in live) * 1000
    assert events["n"].sum() == sum(int(c[5]) for c in live)
    assert Counter(events["place"].to_list()) == Counter(c[2] for c in live)
    assert events["t"].max() == utc("2014-09-07T23:55:00") - 1
    behind = events.select((pl.col("t").cum_max() - pl.col("t")).alias("b"))["b"]
    assert behind.max() == 900_000
    assert 0 < (behind > 300_000).sum() < 1_000
    print(f"aarhus week: {events.height} events compared, {(behind > 300_000).sum()} more than 300 s behind")


def test_aarhus_sites() -> None:
    path = need(f"{AARHUS}/traffic_60seg_2mo/AarhusTrafficData178713.stream.gz")
    need(f"{AARHUS}/trafficMetaData.csv")
    mapping = read_mapping(ROOT / "maps" / "aarhus_traffic.toml", data=path)
    with (DATA / AARHUS / "trafficMetaData.csv").open(encoding="utf-8", newline="") as file:
        wanted = {
            r["REPORT_ID"]: {"length_m": int(r["DISTANCE_IN_METERS"]), "free_ms": int(r["DURATION_IN_SEC"]) * 1000}
            for r in csv.DictReader(file)
        }
    assert len(wanted) == 449
    assert {s.id: dict(s.attributes) for s in mapping.sites} == wanted
    assert {(s.stream, s.valid_from) for s in mapping.sites} == {("link", 0)}


def test_values_worked_out_by_hand() -> None:
    """First records, read by eye."""
    parking, _, _ = read(read_mapping(ROOT / "maps/aarhus_parking.toml"), need(f"{AARHUS}/AarhusParkingData.stream.gz"))
    # 869,2014-05-22 09:09:04.145,3,1240,SCANDCENTER: 09:09 in Denmark is 07:09 UTC.
    assert parking.drop("id").row(2) == (4, 0, utc("2014-05-22T07:09:04") + 145, "SCANDCENTER", 869, 1240, 0)
    path = need("beijing_prsa/PRSA_Data_Aotizhongxin_20130301-20170228.csv.gz")
    air, _, _ = read(read_mapping(ROOT / "maps/beijing_prsa.toml"), path)
    # 1,2013,3,1,0,4,4,4,7,300,77: hour 0 of 1 March in Shanghai is 16:00 to 17:00 UTC of the day before; CO 300 ug/m3.
    end = utc("2013-02-28T16:59:59") + 999
    assert air.drop("id").row(2) == (2, 2, end, "Aotizhongxin", "co", 300_000, 3_600_000)
    nasa, _, _ = read(read_mapping(ROOT / "maps/nasa_http.toml"), need("nasa_http/nasa_19950801.tsv.gz"))
    assert nasa.height == 30_969
    assert nasa["t"].max() == utc("1995-08-01T18:52:01")
    calls, _, _ = read(read_mapping(ROOT / "maps/sf_sffd.toml"), need("sf_services/sffd_service_calls.csv.gz"))
    one = calls.filter(pl.col("record") == 3).drop("id").rows()
    # 53360188: received 12:43:02, on scene 12:47:36, available 13:06:45 on 2 December 2005, winter in San Francisco.
    assert [(r[2] - utc("2005-12-02T20:00:00"), r[5]) for r in one] == [
        (43 * 60_000 + 2_000, "report"), (47 * 60_000 + 36_000, "arrive"), (66 * 60_000 + 45_000, "clear"),
    ]  # fmt: skip


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping that takes San Francisco's times as labelled gives other events."""
    path = need("sf_services/311_service_requests.csv.gz")
    text = (ROOT / "maps/sf_311.toml").read_text().replace('"America/Los_Angeles"', '"UTC"')
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    events, _, _ = read(read_mapping(ROOT / "maps/sf_311.toml"), path)
    wanted = sorted(sf_311(line, row)[0][2] for line, row in rows(path))  # type: ignore[type-var]
    assert events.filter(pl.col("index") == 0)["t"].sort().to_list() != wanted
