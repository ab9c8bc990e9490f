"""Mapping files: every feature once, with values worked out by hand; every mistake is named with what is allowed."""

from __future__ import annotations

import gzip
import random
import re
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from connectors.canonical import canonical_format
from connectors.files import FileSource, Reading
from connectors.formats import Block, FormatError
from connectors.formats.foreign import TooLargeToSort
from connectors.mapping import KEYS, Mapping, MappingError, read_mapping
from pipelines.city import Site
from pipelines.model import Decoded
from pipelines.streams import STREAMS

LINK = """
stream = "link"
source = "test"
[time]
column = "at"
zone = "UTC"
[place]
column = "id"
[fields]
tt_ms = { column = "tt", unit = "s" }
n = { column = "n" }
"""


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def mapping(folder: Path, text: str, **given: Path) -> Mapping:
    path = folder / "m.toml"
    path.write_text(text)
    return read_mapping(path, **given)


def decode(folder: Path, text: str, content: str | bytes, name: str = "d.csv") -> Decoded:
    """The whole file as one block."""
    data = folder / name
    data.write_bytes(content.encode() if isinstance(content, str) else content)
    format_ = mapping(folder, text).format(data)
    with data.open("rb") as file:
        blocks = list(format_.blocks(file, 1 << 20))
    payload = b"".join(b.payload for b in blocks if isinstance(b.payload, bytes))
    return format_.decode(Block(blocks[0].first, payload), name)


def letters(decoded: Decoded) -> list[tuple[str, str]]:
    return [(x.position, x.reason) for x in decoded.refused]


def test_plain_link(tmp_path: Path) -> None:
    """Record numbers are lines, the header included; the interval's end stamps shift by 1 ms (rule 2)."""
    text = LINK.replace('zone = "UTC"', 'zone = "UTC"\nstamp = "end"\nlength = "5m"')
    decoded = decode(tmp_path, text, "at,id,tt,n\n2024-01-05T00:05:00,a,61.5,3\n2024-01-05T00:10,b, 7 ,0\n")
    events = decoded.events.with_columns(pl.col("place").cast(pl.String))
    assert events.columns == ["record", "index", "t", "id", "place", "tt_ms", "n"]
    assert events.drop("id").rows() == [
        (2, 0, ms("2024-01-05T00:04:59.999+00:00"), "a", 61_500, 3),
        (3, 0, ms("2024-01-05T00:09:59.999+00:00"), "b", 7_000, 0),
    ]
    assert decoded.refused == ()
    assert (decoded.next_position, decoded.records, decoded.stream, decoded.input) == (4, 2, "link", "d.csv")
    assert events["id"].n_unique() == 2


def test_start_stamp_reaches_to_the_end_of_its_interval(tmp_path: Path) -> None:
    text = LINK.replace('zone = "UTC"', 'zone = "UTC"\nstamp = "start"\nlength = "1h"')
    decoded = decode(tmp_path, text, "at,id,tt,n\n2024-01-05T00:00,a,1,1\n")
    assert decoded.events["t"].to_list() == [ms("2024-01-05T00:59:59.999+00:00")]


def test_bad_lines_cost_only_themselves(tmp_path: Path) -> None:
    """Ragged, misquoted, mis-encoded and ill-typed lines, each with its line number; the mates stay."""
    content = (
        b'at,id,tt,n\n2024-01-05,a,1,1\n2024-01-05,a,1\n2024-01-05,a,1,1,1\n2024-01-05,a"b,1,1\n2024-01-05,\xff,1,1\n'
        b'2024-01-05,"stray,1,1\n\n2024-01-05,a,x,1\n2024-01-05,a,1,1.5\n2024-01-05,,1,1\n2024-01-05,a,0,1\nnow,a,1,1\n'
        b'2024-01-05,"two\nlines",1,1\n2024-01-05,"c,""d""",1,1'
    )
    decoded = decode(tmp_path, LINK, content)
    assert letters(decoded) == [
        ("3", "bad_columns"), ("4", "bad_columns"), ("5", "bad_json"), ("6", "bad_encoding"), ("7", "bad_json"),
        ("9", "wrong_type"), ("10", "wrong_type"), ("11", "null_value"), ("12", "out_of_range"), ("13", "bad_time"),
        ("14", "bad_encoding"),
    ]  # fmt: skip
    assert decoded.events["record"].to_list() == [2, 16]
    assert decoded.events["place"].cast(pl.String).to_list() == ["a", 'c,"d"']
    assert decoded.records == 13
    assert decoded.next_position == 17
    assert decoded.refused[5].detail == 'tt is "x"; a decimal number is wanted'
    assert decoded.refused[5].payload == '{"id":"a","tt":"x","n":"1","at":"2024-01-05"}'


def test_a_stray_quote_costs_one_line_wherever_blocks_are_cut(tmp_path: Path) -> None:
    lines = [f"2024-01-05T00:{n:02d},p{n},1,1" for n in range(60)]
    lines[20] = '2024-01-05T00:20,"p20,1,1'
    lines[40] = '2024-01-05T00:40,"p\n40",1,1'
    data = tmp_path / "d.csv"
    data.write_text("at,id,tt,n\n" + "\n".join(lines) + "\n")
    format_ = mapping(tmp_path, LINK.replace('column = "id"', 'column = "n"')).format(data)
    found = []
    for size in (16, 100, 1 << 20):
        with data.open("rb") as file:
            runs = [format_.decode(b, "d") for b in format_.blocks(file, size)]
        records = pl.concat([r.events for r in runs])["record"].to_list()
        found.append((records, [x.position for r in runs for x in r.refused], runs[-1].next_position))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == ["22"]
    assert found[0][0] == [n for n in range(2, 63) if n not in (22, 43)]
    assert found[0][2] == 63


def test_a_line_longer_than_memory_allows_is_one_dead_letter(tmp_path: Path) -> None:
    long = "2024-01-05," + "x" * (5 << 20) + ",1,1"
    data = tmp_path / "d.csv"
    data.write_text(f"at,id,tt,n\n2024-01-05,a,1,1\n{long}\n2024-01-05,b,1,1\n")
    format_ = mapping(tmp_path, LINK).format(data)
    with data.open("rb") as file:
        blocks = list(format_.blocks(file, 1 << 16))
    assert max(len(b.payload) for b in blocks) < 3 << 20
    runs = [format_.decode(b, "d") for b in blocks]
    assert [(x.position, x.reason) for r in runs for x in r.refused] == [("3", "too_long")]
    assert [n for r in runs for n in r.events["record"].to_list()] == [2, 4]


def test_delimiter_encoding_and_named_columns(tmp_path: Path) -> None:
    text = LINK + '[csv]\ndelimiter = ";"\nencoding = "latin-1"\ncolumns = ["at", "id", "x", "tt", "n"]\n'
    decoded = decode(tmp_path, text, "2024-01-05;Søften;;1;1\r\n2024-01-06;b;;1;1\r\n".encode("latin-1"))
    assert decoded.events["place"].cast(pl.String).to_list() == ["Søften", "b"]
    assert decoded.events["record"].to_list() == [1, 2]


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    decoded = decode(tmp_path, LINK, b'\xef\xbb\xbf"at",id,tt,n\r\n2024-01-05,a,1,1\r\n\r\n2024-01-05,b,1,"1"\r\n')
    assert decoded.events["record"].to_list() == [2, 4]
    assert decoded.refused == ()


AIR = """
stream = "air"
source = "test"
null_when = ["NA"]
[time]
columns = ["d", "h"]
format = "%Y-%m-%d %H"
zone = "Asia/Shanghai"
[place]
columns = ["net", "no"]
join = "-"
[fields]
covered_ms = { constant = 1, unit = "hours" }
[[unpivot]]
fields = { pollutant = { constant = "so2" }, ngm3 = { column = "so2", unit = "mg/m3" } }
[[unpivot]]
fields = { pollutant = { constant = "o3" }, ngm3 = { column = "o3", unit = "ppb" } }
"""


def test_unpivot_pollutants(tmp_path: Path) -> None:
    """Null makes no event; a bad cell costs its event, `record:index`; what is shared and bad costs the record once."""
    rows = ("7,N,1,0.8,40", "8,N,1,NA,10", "9,N,1,x,10", "x,N,1,1,1")
    content = "d,h,net,no,so2,o3\n" + "".join(f"2024-01-05,{row}\n" for row in rows)
    decoded = decode(tmp_path, AIR, content)
    events = decoded.events.with_columns(pl.col("place").cast(pl.String)).drop("id", "covered_ms")
    hour = 3_600_000
    seven = ms("2024-01-05T07:00:00+08:00") + hour - 1
    assert events.rows() == [
        (2, 0, seven, "N-1", "so2", 800_000),
        (2, 1, seven, "N-1", "o3", 78_475),
        (3, 1, seven + hour, "N-1", "o3", 19_619),
        (4, 1, seven + 2 * hour, "N-1", "o3", 19_619),
    ]
    assert letters(decoded) == [("4:0", "wrong_type"), ("5", "bad_time")]
    assert decoded.events["id"].n_unique() == 4


TKT = """
stream = "tkt"
source = "test"
order = "event_time"
[time]
zone = "America/Chicago"
ambiguous = "latest"
[place]
column = "ward"
default = "unassigned"
[null_when]
closed = ["NA"]
[fields]
case_id = { column = "id" }
class = { column = "class", values = { E = "emergency", N = "normal" }, other = "complex" }
solved = { column = "ok", default = "no" }
[[unpivot]]
time = { column = "opened" }
fields = { milestone = { constant = "ring" } }
[[unpivot]]
time = { column = "closed" }
fields = { milestone = { constant = "close" } }
where = [{ column = "status", in = ["CLOSED", "Closed"] }]
"""


def test_milestones_sorted_by_event_time(tmp_path: Path) -> None:
    """A case named NA is a case; NA as a closing time is none; the night of the change takes the later 01:30."""
    content = (
        "id,ward,class,ok,status,opened,closed\n"
        "NA,,E,true,CLOSED,2018-11-04 01:30:00,2018-11-05\n"
        "7,3,N,,Closed,2018-11-01,NA\n"
        "8,3,?,NO,CANCEL,2018-11-02,2018-11-03\n"
    )
    decoded = decode(tmp_path, TKT, content)
    rows = decoded.events.select(
        "record", "index", "t", pl.col("place").cast(pl.String), "case_id", "milestone", "class", "solved"
    )
    assert rows.rows() == [
        (3, 0, ms("2018-11-01T00:00:00-05:00"), "3", "7", "ring", "normal", 0),
        (4, 0, ms("2018-11-02T00:00:00-05:00"), "3", "8", "ring", "complex", 0),
        (2, 0, ms("2018-11-04T01:30:00-06:00"), "unassigned", "NA", "ring", "emergency", 1),
        (2, 1, ms("2018-11-05T00:00:00-06:00"), "unassigned", "NA", "close", "emergency", 1),
    ]
    assert decoded.refused == ()


def test_event_time_order_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "d.csv"
    data.write_text("at,id,tt,n\n" + "2024-01-05,a,1,1\n" * 10)
    format_ = mapping(tmp_path, LINK.replace("[time]", 'order = "event_time"\n[time]', 1)).format(data)
    monkeypatch.setattr("connectors.formats.foreign.WHOLE", 100)
    with data.open("rb") as file, pytest.raises(TooLargeToSort, match="sort this one"):
        list(format_.blocks(file, 10))


WHERES = [
    ("equals = 0", ["0", "0.0"]),
    ("not_equals = 0", ["1", "12", "-3", None]),
    ('equals = "0"', ["0"]),
    ("in = [0, 12]", ["0", "0.0", "12"]),
    ('not_in = ["0", "1"]', ["0.0", "12", "-3", None]),
    ("present = true", ["0", "0.0", "1", "12", "-3"]),
    ("present = false", [None]),
    ("gt = 0.5", ["1", "12"]),
    ("ge = 1", ["1", "12"]),
    ("lt = 1", ["0", "0.0", "-3"]),
    ("le = 1", ["0", "0.0", "1", "-3"]),
]


@pytest.mark.parametrize(("condition", "kept"), WHERES)
def test_where(tmp_path: Path, condition: str, kept: list[str | None]) -> None:
    cells = ["0", "0.0", "1", "12", "-3", None]
    content = "at,id,tt,n,w\n" + "".join(f"2024-01-05,a,1,1,{c or ''}\n" for c in cells)
    decoded = decode(tmp_path, LINK + f'[[where]]\ncolumn = "w"\n{condition}\n', content)
    assert [cells[r - 2] for r in decoded.events["record"]] == kept
    assert (decoded.refused, decoded.records) == ((), 6)


def test_where_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    decoded = decode(tmp_path, LINK + '[[where]]\ncolumn = "n"\ngt = 0\n', "at,id,tt,n\n2024-01-05,a,1,many\n")
    assert letters(decoded) == [("2", "wrong_type")]


def test_keys_of_the_source(tmp_path: Path) -> None:
    """`event_id`: equal keys are equal ids, whatever else differs; `dedup = "none"`: no ids."""
    content = "at,id,tt,n,key\n2024-01-05,a,1,1,k\n2024-01-06,b,2,2,k\n2024-01-06,b,2,2,l\n"
    ids = decode(tmp_path, 'event_id = ["key"]\n' + LINK, content).events["id"].to_list()
    assert ids[0] == ids[1] != ids[2]
    assert mapping(tmp_path, 'event_id = ["key"]\n' + LINK).dedup == ("key",)
    none = mapping(tmp_path, 'dedup = "none"\n' + LINK)
    assert none.stream.dedup is None
    assert none.dedup is None
    assert decode(tmp_path, 'dedup = "none"\n' + LINK, content).events["id"].to_list() == [0, 0, 0]


def test_a_key_of_an_unpivoted_record_differs_by_event(tmp_path: Path) -> None:
    content = "d,h,net,no,so2,o3,key\n2024-01-05,7,N,1,0.8,40,k\n2024-01-05,7,N,1,0.8,40,k\n"
    ids = decode(tmp_path, 'event_id = ["key"]\n' + AIR, content).events["id"].to_list()
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_what_the_mapping_overrides(tmp_path: Path) -> None:
    found = mapping(tmp_path, 'disorder = "300s"\nperiod = "5m"\nhorizon = "1h"\n' + LINK)
    assert (found.disorder_ms, found.stream.disorder_ms) == (300_000, 300_000)
    assert (found.stream.period_ms, found.stream.horizon_ms) == (300_000, 3_600_000)
    plain = mapping(tmp_path, LINK)
    assert plain.disorder_ms is None
    assert plain.stream == next(s for s in STREAMS if s.name == "link")
    assert (plain.order, plain.dedup, plain.name, plain.source) == ("arrival", ("link", "t"), "m", "test")


def test_units_in_a_column(tmp_path: Path) -> None:
    text = LINK.replace('unit = "s"', 'unit_column = "u"')
    content = "at,id,tt,n,u\n2024-01-05,a,2,1,s\n2024-01-05,a,2,1,minutes\n2024-01-05,a,2,1,mph\n2024-01-05,a,2,1,\n"
    decoded = decode(tmp_path, text, content)
    assert decoded.events["tt_ms"].to_list() == [2_000, 120_000]
    assert letters(decoded) == [("4", "bad_unit"), ("5", "bad_unit")]


def test_foreign_ndjson(tmp_path: Path) -> None:
    """Numbers, strings and nested rest; a mapped key twice, an object in a mapped key, and no JSON are refused."""
    content = (
        '{"at":"2024-01-05","id":"a","tt":1.50,"n":1,"rest":{"id":"x"}}\n{"at":"2024-01-05","id":7,"tt":"2","n":2}\n'
        '{"at":"2024-01-05","id":"a","id":"b","tt":1,"n":1}\n{"at":"2024-01-05","id":{},"tt":1,"n":1}\nnull\n\n{"at":\n'
        '{"at":"2024-01-05","tt":1,"n":1}\n{"at":"2024-01-05","id":"\\u00e6","tt":1e1,"n":1}'
    )
    decoded = decode(tmp_path, LINK, content, "d.ndjson")
    rows = decoded.events.select("record", pl.col("place").cast(pl.String), "tt_ms", "n").rows()
    assert rows == [(1, "a", 1_500, 1), (2, "7", 2_000, 2), (9, "æ", 10_000, 1)]
    assert letters(decoded) == [
        ("3", "duplicate_key"), ("4", "wrong_type"), ("5", "not_an_object"), ("7", "bad_json"), ("8", "null_value"),
    ]  # fmt: skip
    assert (decoded.next_position, decoded.records) == (10, 8)


def test_parquet(tmp_path: Path) -> None:
    """Typed columns: times with and without a zone, integers, doubles."""
    data = tmp_path / "d.parquet"
    frame = pl.DataFrame({"at": [datetime(2024, 1, 5, 1), None], "id": ["a", "b"], "tt": [0.1 + 0.2, 1.0], "n": [3, 4]})
    frame.with_columns(pl.col("at").dt.replace_time_zone("Europe/Berlin")).write_parquet(data)
    format_ = mapping(tmp_path, LINK).format(data)
    with data.open("rb") as file:
        decoded = [format_.decode(b, "d") for b in format_.blocks(file, 1)]
    assert len(decoded) == 2
    assert decoded[0].events["t"].to_list() == [ms("2024-01-05T00:00:00+00:00")]
    assert decoded[0].events["tt_ms"].to_list() == [300]
    assert letters(decoded[1]) == [("2", "null_value")]
    frame.with_columns(pl.Series("tt", [[1], [2]])).write_parquet(data)
    with data.open("rb") as file, pytest.raises(FormatError, match="column 'tt' is List"):
        [format_.decode(b, "d") for b in format_.blocks(file, 1)]


def test_decode_is_pure(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("at,id,tt,n\n2024-01-05,a,1,1\n")
    format_ = mapping(tmp_path, LINK).format(data)
    block = Block(2, b"2024-01-05,a,1,1\nbad\n")
    first, second = format_.decode(block, "d"), format_.decode(block, "d")
    assert first.events.equals(second.events)
    assert first.refused == second.refused
    assert format_.decode(Block(9, b""), "d").events.schema == first.events.schema


LOOKUP = """
[lookup]
file = "side.csv"
key = "ID"
district = { column = "area", default = "unassigned" }
valid_from = { column = "since", format = "%Y-%m-%d", zone = "Europe/Copenhagen" }
[lookup.attributes]
length_m = { column = "LEN", unit = "km" }
free_ms = { column = "FREE", unit = "s" }
"""
SIDE = "ID,area,since,LEN,FREE\n1,north,2014-01-01,1.5,60\n1,north,2015-01-01,1.6,61.5\n2,,2014-01-01,,60\n"


def test_lookup_becomes_sites(tmp_path: Path) -> None:
    data = tmp_path / "data" / "d.csv"
    data.parent.mkdir()
    (data.parent / "side.csv").write_text(SIDE)
    found = mapping(tmp_path, LINK + LOOKUP, data=data)
    winter = ms("2014-01-01T00:00:00+01:00")
    assert found.sites == (
        Site("link", "1", "north", None, {"length_m": 1500, "free_ms": 60_000}, winter, 60_000),
        Site(
            "link", "1", "north", None, {"length_m": 1600, "free_ms": 61_500}, ms("2015-01-01T00:00:00+01:00"), 60_000
        ),
        Site("link", "2", "unassigned", None, {"free_ms": 60_000}, winter, 60_000),
    )
    other = tmp_path / "other.csv"
    other.write_text("ID,area,since,LEN,FREE\n9,,2014-01-01,1,1\n")
    assert [s.id for s in mapping(tmp_path, LINK + LOOKUP, data=data, lookup=other).sites] == ["9"]
    assert mapping(tmp_path, LINK + LOOKUP).sites == ()


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (SIDE + "1,north,2014-01-01,1,1\n", r":5: '1' stands twice"),
        ("ID,area,since,LEN,FREE\n1,n,2014-01-01,x,1\n", r":2: LEN is \"x\""),
        ("ID,area,since,LEN,FREE\n1,n,2014-01-01,0,1\n", r"must be above 0"),
        ("ID,area,since,LEN,FREE\n1,n\n", r":2: the line has not 5"),
        ("ID,area,since,LENGTH,FREE\n", r"unknown column 'LEN'.*Did you mean 'LENGTH'"),
        (None, r"is in none of .* --lookup FILE"),
    ],
)
def test_a_wrong_side_table_is_an_error(tmp_path: Path, side: str | None, message: str) -> None:
    if side is not None:
        (tmp_path / "side.csv").write_text(side)
    with pytest.raises(MappingError, match=message):
        mapping(tmp_path, LINK + LOOKUP, data=tmp_path / "d.csv")


MISTAKES = [
    ('stream = "lnk"', 'stream = "link"', "unknown stream 'lnk'; allowed are link, .*Did you mean 'link'"),
    ('colum = "at"', 'column = "at"', "unknown key 'colum'.*Did you mean 'column'"),
    ('sorce = "test"', 'source = "test"', "unknown key 'sorce'.*Did you mean 'source'"),
    ("", 'source = "test"', "'source' is missing"),
    ('tt = { column = "tt", unit = "s" }', 'tt_ms = { column = "tt", unit = "s" }', "unknown key 'tt'.*tt_ms"),
    ("", 'n = { column = "n" }', "'n' is missing; stream 'link' has tt_ms, n"),
    ('unit = "sec"', 'unit = "s"', "unit 'sec' is unknown; known are us, ms, s"),
    ('unit = "mph"', 'unit = "s"', "'mph' is a speed, 'ms' is a time; allowed are"),
    ("scale = 0", 'unit = "s"', "scale is 0"),
    ("zone = 'UTC'", 'unit = "s"', "'zone' does not fit 'tt_ms'"),
    ('zone = "Mars"', 'zone = "UTC"', "zone 'Mars' is unknown"),
    ('zone = "UTC"\nformat = "%Q"', 'zone = "UTC"', "directive '%Q'"),
    ('zone = "UTC"\nstamp = "middle"', 'zone = "UTC"', "unknown value 'middle'; allowed are instant, start, end"),
    ('zone = "UTC"\nstamp = "end"', 'zone = "UTC"', "needs a length"),
    ('zone = "UTC"\nlength = "5m"', 'zone = "UTC"', "without stamp"),
    ('zone = "UTC"\nambiguous = "both"', 'zone = "UTC"', "allowed are earliest, latest, refuse"),
    ('n = { column = "n", constant = 1 }', 'n = { column = "n" }', "one of them only"),
    ("n = { constant = 99999 }", 'n = { column = "n" }', "allowed is 0 to 10000"),
    ("n = { constant = 1.5 }", 'n = { column = "n" }', "a whole number is wanted"),
    ('n = { column = "n", other = 1 }', 'n = { column = "n" }', '"other" is for texts'),
    ('n = "n"', 'n = { column = "n" }', "a table is wanted"),
    ('n = { column = "n", unit = "s", unit_column = "u" }', 'n = { column = "n" }', "both"),
    ('source = "test"\ndisorder = "300"', 'source = "test"', "'300' is no duration"),
    ('source = "test"\norder = "time"', 'source = "test"', "allowed are arrival, event_time"),
    ('source = "test"\ndedup = "all"', 'source = "test"', "allowed are none"),
    ('source = "test"\ndedup = "none"\nevent_id = ["x"]', 'source = "test"', "exclude each other"),
    ('source = "test"\nformat = "xml"', 'source = "test"', "allowed are csv, ndjson, parquet"),
    ('source = "test"\ncsv = { delimiter = "ab" }', 'source = "test"', "one byte is wanted"),
    ('source = "test"\ncsv = { encoding = "utf-16" }', 'source = "test"', "allowed are utf-8, latin-1"),
    ('source = "test"\nnull_when = "NA"', 'source = "test"', "a list of texts"),
    ('source = "test"\nwhere = [{ column = "a", like = "x" }]', 'source = "test"', "unknown key 'like'"),
    ('source = "test"\nwhere = [{ column = "a" }]', 'source = "test"', "needs a column and one of"),
    ('source = "test"\nwhere = [{ column = "a", gt = "x" }]', 'source = "test"', "numbers are wanted"),
    ('source = "test"\nwhere = [{ column = "a", in = "x" }]', 'source = "test"', "a list is wanted"),
    ('source = "test"\nunpivot = [{ feilds = {} }]', 'source = "test"', "Did you mean 'fields'"),
    ("source = ", 'source = "test"', "m.toml is no TOML: "),
]


@pytest.mark.parametrize(("wrong", "right", "message"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, wrong: str, right: str, message: str) -> None:
    assert right in LINK
    with pytest.raises(MappingError, match=message):
        mapping(tmp_path, LINK.replace(right, wrong, 1))


def test_further_mistakes(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="unknown value 'cow'; allowed are so2"):
        mapping(tmp_path, AIR.replace('constant = "so2"', 'constant = "cow"'))
    with pytest.raises(MappingError, match="needs the gas"):
        mapping(tmp_path, AIR.replace('pollutant = { constant = "o3" }', 'pollutant = { column = "p" }'))
    with pytest.raises(MappingError, match="event_id needs horizon"):
        mapping(
            tmp_path,
            'stream = "http"\nsource = "t"\nevent_id = ["x"]\nplace = { constant = "s" }\n'
            'time = { column = "t", format = "unix_s" }\nfields = { status = { column = "s" } }\n',
        )
    with pytest.raises(MappingError, match=r"has no .lookup., so --lookup"):
        mapping(tmp_path, LINK, lookup=tmp_path / "x.csv")
    with pytest.raises(MappingError, match="cannot be read"):
        read_mapping(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "when,id,tt,n\n", "unknown column 'at'; allowed are when, id, tt, n"),
        ("d.csv", "at,id,tt,count\n", "unknown column 'n'"),
        ("d.csv", "at,id,id,tt,n\n", "'id' stands in the header twice"),
        ("d.csv", "", "is empty"),
        ("d.dat", "at,id,tt,n\n", "suffix '.dat' says no format; known are .csv"),
        ("d.ndjson", '{"att":1,"id":1}\n', "unknown column 'at'.*Did you mean 'att'"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MappingError, match=message):
        mapping(tmp_path, LINK).format(tmp_path / name)
    with pytest.raises(MappingError, match="cannot be read"):
        mapping(tmp_path, LINK).format(tmp_path / "none.csv")


def test_every_key_is_documented() -> None:
    """`docs/mapping-files.md` has each key of the closed lists as code, and each unit, operator and directive."""
    from connectors.conditions import OPERATORS
    from connectors.lookup import ATTRIBUTES
    from connectors.times import DIRECTIVES, EPOCHS
    from connectors.units import UNITS

    text = (Path(__file__).parents[2] / "docs" / "mapping-files.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"`([^`\n]+)`", text))
    wanted = {k for keys in KEYS.values() for k in keys} | {u.name for u in UNITS} | set(OPERATORS)
    wanted |= set(ATTRIBUTES) | set(DIRECTIVES) | set(EPOCHS)
    assert len(wanted) > 60
    assert not wanted - shown, f"not documented: {sorted(wanted - shown)}"
    print(f"documented names checked: {len(wanted)}")


def test_read_through_a_file_source(tmp_path: Path) -> None:
    """Compressed, in small blocks, decoded by several threads, and again from a position in the middle."""
    text = "at,id,tt,n\n" + "".join(
        f'2024-01-05T00:{n // 60:02d}:{n % 60:02d},"p\n{n}",1,1\n' if n % 50 == 7 else f"2024-01-05T00:00:00,p{n},1,1\n"
        for n in range(2_000)
    )
    data = tmp_path / "d.csv.gz"
    data.write_bytes(gzip.compress(text.encode()))
    found = mapping(tmp_path, LINK.replace('column = "id"', "constant = 'x'"))
    runs = read_all(FileSource(data, found.stream, found.format(data), "d", Reading(4_096, 3, 4)))
    whole = pl.concat([r.events for r in runs])
    assert len(runs) > 5
    assert whole.height == 2_000
    assert whole["record"].is_sorted()
    position = runs[2].next_position
    source = FileSource(data, found.stream, found.format(data), "d", Reading(9_000, 3, 4))
    source.seek(position)
    rest = pl.concat([r.events for r in read_all(source)])
    assert rest.equals(whole.filter(pl.col("record") >= position))
    assert 0 < rest.height < 2_000


def read_all(source: FileSource) -> list[Decoded]:
    runs = []
    with source:
        while not source.ended:
            if (run := source.read()) is not None:
                runs.append(run)
    return runs


def test_a_broken_archive_gives_what_can_be_read(tmp_path: Path) -> None:
    data = tmp_path / "d.csv.gz"
    rows = "".join(f"2024-01-05T00:00:00,{random.Random(n).random()},1,1\n" for n in range(5_000))
    data.write_bytes(gzip.compress(f"at,id,tt,n\n{rows}".encode())[:-2_000])
    found = mapping(tmp_path, LINK)
    runs = read_all(FileSource(data, found.stream, found.format(data), "d"))
    assert [x.reason for r in runs for x in r.refused] == ["truncated"]
    assert 1_000 < sum(r.events.height for r in runs) < 5_000


def test_files_in_the_streams_own_columns(tmp_path: Path) -> None:
    """CSV and Parquet without a mapping: stored integers, nothing scaled or shifted; missing columns are named."""
    det = next(s for s in STREAMS if s.name == "det")
    data = tmp_path / "d.csv"
    data.write_text(
        "t,lane,duration_ms,count,occ_e4,extra\n1704412800000,l1,60000,7,2500,x\n1704412800000,l1,6.5,7,1,x\n"
    )
    decoded = read_all(FileSource(data, det, canonical_format(data, det), "d"))[0]
    wanted = (2, 0, 1_704_412_800_000, "l1", 60_000, 7, None, 2_500)
    assert decoded.events.with_columns(pl.col("place").cast(pl.String)).drop("id").rows() == [wanted]
    assert letters(decoded) == [("3", "wrong_type")]
    parquet = tmp_path / "d.parquet"
    pl.read_csv(data).head(1).write_parquet(parquet)
    same = read_all(FileSource(parquet, det, canonical_format(parquet, det), "d"))[0]
    assert same.events.drop("record").equals(decoded.events.drop("record"))
    data.write_text("t,lane,duration,count,occ_e4\n")
    with pytest.raises(MappingError, match=r"without --map: unknown column 'duration_ms'.*Did you mean 'duration'"):
        canonical_format(data, det)
