"""`citybrain profile`: what a file holds, how late its rows are, and the mapping it proposes."""

from __future__ import annotations

import gzip
import tomllib
from pathlib import Path

import polars as pl
import pytest

from connectors.mapping import MappingError, read_mapping
from connectors.profile import profile
from connectors.profile_text import nearest_stream, render, skeleton

HEAD = "TIMESTAMP;REPORT_ID;avgMeasuredTime;vehicleCount;note\n"
# Minutes of the day; 8 late rows of 1,000: seven by 5 min, one by 20 min.
MINUTES = [*range(20, 500), 495, *range(500, 700), *(m - 5 for m in (699,) * 6), *range(700, 1012), 991]


def traffic(folder: Path) -> Path:
    rows = []
    for n, m in enumerate(MINUTES):
        seconds, note = f"{40 + n % 9}{'.5' if n % 3 else ''}", "x" if n % 10 else "NA"
        rows.append(f"2024-01-05T{m // 60:02d}:{m % 60:02d}:00;{n % 7};{seconds};{n % 4};{note}")
    path = folder / "week.csv.gz"
    path.write_bytes(gzip.compress((HEAD + "\n".join(rows) + "\nbroken;line\n" + rows[-1] + "\n").encode()))
    return path


def test_columns(tmp_path: Path) -> None:
    found = profile(traffic(tmp_path))
    assert (found.format_name, found.delimiter, found.records, found.whole) == ("csv", ";", len(MINUTES) + 2, True)
    assert [(x.position, x.reason) for x in found.broken] == [(str(len(MINUTES) + 2), "bad_columns")]
    assert found.repeated == 1
    by = {c.name: c for c in found.columns}
    assert [by[c].kind for c in by] == ["time", "integer", "decimal", "integer", "text"]
    assert (by["TIMESTAMP"].low, by["TIMESTAMP"].time_format) == ("2024-01-05T00:20:00", "iso")
    assert (by["REPORT_ID"].distinct, by["avgMeasuredTime"].low, by["avgMeasuredTime"].high) == (7, "40", "48.5")
    assert by["note"].null_words == (("NA", 100),)


def test_lateness_and_the_bound_it_proposes(tmp_path: Path) -> None:
    """In file order: late rows, the largest, quantiles; 5 min leave 2 of 1,001 late, more than 1 in 1,000."""
    late = profile(traffic(tmp_path)).lateness
    assert late is not None
    assert (late.events, late.late, late.largest_ms) == (len(MINUTES) + 1, 9, 1_200_000)
    assert late.quantiles_ms == (300_000, 1_200_000, 1_200_000, 1_200_000)
    assert late.proposed_s == 1800


def test_rows_in_no_order_want_sorting(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("time,id\n" + "\n".join(f"2024-01-{1 + n * 7 % 28:02d},{n}" for n in range(100)) + "\n")
    found = profile(path)
    assert found.lateness is not None
    assert found.lateness.proposed_s is None
    assert 'order = "event_time"' in skeleton(found)
    assert 'proposed: order = "event_time"' in render(found)


def test_with_a_mapping(tmp_path: Path) -> None:
    """Events, places, duplicates by key, refusals with examples, ranges in the stream's units."""
    path = traffic(tmp_path)
    toml = tmp_path / "m.toml"
    toml.write_text(
        'stream = "link"\nsource = "t"\nevent_id = ["REPORT_ID"]\ncsv = { delimiter = ";" }\n'
        '[time]\ncolumn = "TIMESTAMP"\nzone = "UTC"\n[place]\ncolumn = "REPORT_ID"\n[fields]\n'
        'tt_ms = { column = "avgMeasuredTime", unit = "s" }\nn = { column = "note" }\n'
    )
    found = profile(path, read_mapping(toml))
    mapped = found.mapped
    assert mapped is not None
    assert (mapped.events, mapped.places, mapped.duplicates) == (0, 0, 0)
    assert dict(mapped.refused) == {"wrong_type": len(MINUTES) + 1, "bad_columns": 1}
    toml.write_text(toml.read_text().replace('column = "note"', 'column = "vehicleCount"'))
    mapped = profile(path, read_mapping(toml)).mapped
    assert mapped is not None
    assert (mapped.events, mapped.places, mapped.duplicates) == (len(MINUTES) + 1, 7, len(MINUTES) + 1 - 7)
    assert mapped.ranges == (("tt_ms", 40_000, 48_500), ("n", 0, 3))
    text = render(profile(path, read_mapping(toml)))
    assert "mapping m: 1,001 link events at 7 places; 994 repeat an earlier key" in text
    assert "refused, bad_columns: 1" in text


def test_the_proposed_mapping_says_what_it_cannot_know(tmp_path: Path) -> None:
    """It is TOML for the nearest stream; a "?" that is left in it is refused with the columns there are."""
    path = traffic(tmp_path)
    text = skeleton(profile(path))
    raw = tomllib.loads(text)
    assert (raw["stream"], raw["disorder"], raw["csv"]["delimiter"]) == ("link", "1800s", ";")
    assert (raw["time"]["column"], raw["place"]["column"]) == ("TIMESTAMP", "REPORT_ID")
    toml = tmp_path / "m.toml"
    toml.write_text(text)
    with pytest.raises(MappingError, match=r"unknown column '\?'; allowed are TIMESTAMP, REPORT_ID"):
        read_mapping(toml).format(path)
    filled = text.replace('tt_ms = { column = "?", unit = "ms" }', 'tt_ms = { column = "avgMeasuredTime", unit = "s" }')
    assert filled != text
    toml.write_text(filled)
    mapped = profile(path, read_mapping(toml)).mapped
    assert mapped is not None
    assert mapped.events == len(MINUTES) + 1


def test_other_formats_and_limits(tmp_path: Path) -> None:
    (tmp_path / "d.ndjson").write_text('{"ts":1704412800,"status":200}\n{"ts":1704412801,"status":404}\nnull\n')
    found = profile(tmp_path / "d.ndjson")
    assert (found.records, [c.kind for c in found.columns], len(found.broken)) == (3, ["time", "integer"], 1)
    assert found.columns[0].time_format == "unix_s"
    pl.DataFrame({"pm10": [1.5, None], "station": ["a", "b"]}).write_parquet(tmp_path / "d.parquet")
    found = profile(tmp_path / "d.parquet")
    assert [(c.kind, c.empty) for c in found.columns] == [("decimal", 1), ("text", 0)]
    assert found.lateness is None
    assert "No column reads like a time" in render(found)
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(MappingError, match="is empty"):
        profile(tmp_path / "e.csv")
    limited = profile(traffic(tmp_path), limit=1)
    assert limited.records > 0


@pytest.mark.parametrize(
    ("columns", "stream"),
    [
        ("TIMESTAMP,REPORT_ID,avgMeasuredTime,avgSpeed,vehicleCount", "link"),
        ("vehiclecount,updatetime,_id,totalspaces,garagecode,streamtime", "park"),
        ("No,year,month,day,hour,PM2.5,PM10,SO2,NO2,CO,O3,TEMP,station", "air"),
        ("host,logname,time,method,url,response,bytes,referer,useragent", "http"),
        ("unique_key,created_date,closed_date,status,agency_name,complaint_type", "tkt"),
        ("call_number,incident_number,received_timestamp,on_scene_timestamp,battalion", "inc"),
        ("case_id,activity,lifecycle,resource,timestamp_utc,amount", "case"),
    ],
)
def test_nearest_stream(columns: str, stream: str) -> None:
    assert nearest_stream(tuple(columns.split(","))).name == stream


@pytest.mark.parametrize(("name", "stream"), [("case.csv", "case"), ("mine.csv", "case"), ("det.csv", "det")])
def test_columns_of_a_stream_need_no_mapping(tmp_path: Path, name: str, stream: str) -> None:
    """Also where a column is called `count`, or where another stream needs fewer of the columns."""
    path = tmp_path / name
    columns = {
        "case": "t,district,case_id,milestone,item,channel,auto\n1772409600000,d01,c1,submit,i,app,1\n",
        "det": "t,lane,duration_ms,count,occ_e4\n1772409600000,l1,60000,4,1200\n",
    }
    path.write_text(columns[stream])
    said = render(profile(path))
    named = "" if name.startswith(stream) else f" --stream {stream}"
    assert f"those of stream {stream}: no mapping is needed, citybrain replay{named} reads it" in said, said
    assert "time (column t)" in said
