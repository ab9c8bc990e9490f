"""Rule 12: the vectorised decoder of a mapping and the line-by-line one accept the same and give the same values.

Files are made of cells that are good, odd or broken, then bytes are changed anywhere. Both decoders must give the same
events, ids, dead letters, positions and counts.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from connectors.formats import Block, Format
from connectors.formats.csv import CsvFormat, CsvOptions
from connectors.formats.foreign import Foreign
from connectors.formats.json_lines import JsonLinesFormat
from connectors.formats.parquet import ParquetFormat
from connectors.mapping import read_mapping
from connectors.numbers import scaled_column
from pipelines.model import Decoded

AIR = """
stream = "air"
source = "test"
event_id = ["id"]
null_when = { so2 = ["NA"], o3 = ["NA", "-1"] }
[time]
columns = ["day", "hour"]
format = "%Y-%m-%d %H:%M"
zone = "America/New_York"
ambiguous = "latest"
[place]
columns = ["net", "id"]
join = "/"
default = "nowhere"
[fields]
covered_ms = { column = "cover", unit = "minutes", default = 60 }
[[where]]
column = "cover"
lt = 90.5
[[unpivot]]
fields = { pollutant = { constant = "so2" }, ngm3 = { column = "so2", unit = "mg/m3" } }
[[unpivot]]
fields = { pollutant = { constant = "o3" }, ngm3 = { column = "o3", unit_column = "u" } }
[[unpivot]]
time = { column = "at", format = "iso", ambiguous = "refuse", nonexistent = "shift" }
where = [{ column = "net", not_in = ["x"] }]
[unpivot.fields]
pollutant = { column = "what", values = { A = "co", B = "no2" } }
ngm3 = { column = "so2", unit = "ug/m3", scale = 0.5 }
"""
LINK = """
stream = "link"
source = "test"
order = "event_time"
[time]
column = "at"
format = "unix_s"
stamp = "end"
length = "1m"
[place]
column = "id"
values = { p = "P", q = "Q" }
other = "Z"
[fields]
tt_ms = { column = "so2", unit = "s" }
n = { column = "o3" }
[[where]]
column = "what"
present = true
"""
DAYS = ["2024-01-05", "2024-03-10", "2024-11-03", "2024-02-30", "24-1-5", "", "2024-13-01", "2101-07-01", "1969-12-31"]
HOURS = ["00:00", "1:30", "02:30", "01:59", "24:00", "23:60", "x", " 7:05 "]
NUMBERS = [
    "0", "1", "-1", "3.5", "0.0005", "0.00049999999999999999999", "1e2", "2.5e-3", "NA", "", " 12 ", "007", "+4", "1_0",
    "0x1", "inf", "NaN", "99999999999999999999", "1e999", ".5", "5.", "--1", "1,5", "12345678.987654321",
    "0.1234567891", "٣", "12\t", "1 2",
]  # fmt: skip
TEXTS = [
    "a", "p", "q", "x", "", "A", "B", "C", "naïve", "tab\there", "w" * 130, "NA", 'quo"te', "new\nline", "back\\slash",
    "\x01",
]  # fmt: skip
UNITS = ["ug/m3", "mg/m3", "ppb", "ng/m3", "mg", "", "UG/M3"]
ATS = [
    "2024-01-05T00:00:00Z", "2024-03-10 02:30", "2024-11-03 01:30:00", "2024-11-03 01:30:00+05:30", "1704412800", "-5",
    "1704412800.25", "2024-01-05", "2024-01-05T10:00:00.123456", "2024-01-05T10:00:61", "99999999999999", "1e9",
    "2024-01-05T10:00:00+99:00",
]  # fmt: skip
COLUMNS = {
    "id": TEXTS, "day": DAYS, "hour": HOURS, "net": TEXTS, "cover": [*NUMBERS, "60", "45"], "so2": NUMBERS,
    "o3": NUMBERS, "u": UNITS, "at": ATS, "what": TEXTS,
}  # fmt: skip
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
compared = {"events": 0, "refused": 0, "files": 0}

GOOD = {
    "id": "a",
    "day": "2024-01-05",
    "hour": "7:05",
    "net": "p",
    "cover": "60",
    "so2": "3.5",
    "o3": "1",
    "u": "ug/m3",
    "at": "1704412800",
    "what": "A",
}
ROW = st.one_of(
    st.just(GOOD),
    st.fixed_dictionaries({c: st.sampled_from([GOOD[c]] * 8 * len(pool) + pool) for c, pool in COLUMNS.items()}),
)
"""Else hardly a row of ten columns is accepted."""


def foreign_of(folder: Path, text: str) -> Foreign:
    path = folder / "m.toml"
    path.write_text(text)
    return read_mapping(path).foreign


@pytest.fixture(scope="module")
def mappings(tmp_path_factory: pytest.TempPathFactory) -> list[Foreign]:
    folder = tmp_path_factory.mktemp("maps")
    return [foreign_of(folder, AIR), foreign_of(folder, LINK)]


def differences(fast: Decoded, slow: Decoded) -> None:
    assert_frame_equal(fast.events, slow.events, categorical_as_str=True)
    assert fast.refused == slow.refused
    assert (fast.next_position, fast.records, fast.stream, fast.input) == (
        slow.next_position, slow.records, slow.stream, slow.input,
    )  # fmt: skip


def compare(format_: Format, data: bytes, size: int) -> None:
    """Both decoders, cut into blocks of `size` and as one block: all the same."""
    whole: list[list[Decoded]] = []
    for cut in (size, 1 << 20):
        blocks = list(format_.blocks(io.BytesIO(data), cut))
        fast = [format_.decode(b, "f") for b in blocks]
        for block, each in zip(blocks, fast, strict=True):
            differences(each, format_.decode_reference(block, "f"))  # type: ignore[attr-defined]
        whole.append(fast)
    small, big = whole
    assert sum((d.refused for d in small), ()) == sum((d.refused for d in big), ())
    assert sum(d.records for d in small) == sum(d.records for d in big)
    assert not big or small[-1].next_position == big[-1].next_position
    # A quote in the middle of a field ends a block, however large it may be.
    parts, most = ([d.events for d in cut if d.events.height] for cut in whole)
    assert bool(parts) == bool(most)
    if parts:
        assert_frame_equal(pl.concat(parts), pl.concat(most), categorical_as_str=True)
    compared["files"] += 1
    compared["events"] += sum(d.events.height for d in big)
    compared["refused"] += sum(len(d.refused) for d in big)


def quoted(cell: str, force: bool) -> str:
    return '"' + cell.replace('"', '""') + '"' if force or any(c in cell for c in ',"\n\t') else cell


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    rows = draw(st.lists(ROW, min_size=1, max_size=12))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    delimiter = draw(st.sampled_from([",", ",", "\t"]))
    lines = [delimiter.join(COLUMNS)]
    for row in rows:
        force = draw(st.booleans())
        cells = [quoted(c, force) for c in row.values()]
        lines.append(delimiter.join(cells if draw(st.integers(0, 15)) else cells[:-1]))
    data = bytearray((end.join(lines) + draw(st.sampled_from([end, ""]))).encode())
    head = data.index(10) + 1
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(head, len(data) - 1))
        data[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([b'"', b"\n", b",", b"\r", b"\xff", b"", b"\x00", b"9", b" "])
        )
    return bytes(data)


@contextlib.contextmanager
def enough(files: int, events: int, refused: int) -> Iterator[None]:
    """What is compared within is at least so much; a run may have only one of these tests."""
    before = dict(compared)
    yield
    found = {name: compared[name] - before[name] for name in compared}
    print(f"\nmapping decoders compared: {found}")
    assert found["files"] >= files and found["events"] >= events and found["refused"] >= refused, found


def test_csv_decoders_agree(mappings: list[Foreign]) -> None:
    @SETTINGS
    @given(csv_files(), st.integers(0, 1), st.integers(40, 400))
    def agree(data: bytes, which: int, size: int) -> None:
        delimiter = "\t" if data.split(b"\n")[0].count(b"\t") else ","
        compare(CsvFormat(mappings[which], tuple(COLUMNS), CsvOptions(delimiter)), data, size)

    with enough(140, 100, 150):
        agree()


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    lines = []
    for row in draw(st.lists(ROW, min_size=1, max_size=12)):
        record: dict[str, object] = dict(row)
        for column in draw(st.lists(st.sampled_from(list(COLUMNS)), max_size=2)):
            record[column] = draw(
                st.sampled_from([None, True, 1.5, 2.0, -0.0, 1e-9, 12, 10**20, 0.1 + 0.2, {"x": 1}, [1], "1.50", 1e300])
            )
        record |= draw(st.sampled_from([{}, {}, {"extra": 1}, {"extra": {"id": 1}}, {"extra": "{"}]))
        lines.append(json.dumps(record, ensure_ascii=draw(st.booleans())))
    lines += draw(
        st.lists(
            st.sampled_from(
                [
                    '{"id":"a","id":"b"}',
                    "[1]",
                    "null",
                    "",
                    "  ",
                    '{"so2":1e2}',
                    '{"so2":1.50}',
                    "{" * 40,
                    '{"id":"\\ud800"}',
                ]
            )
        )
    )
    data = bytearray("\n".join(draw(st.permutations(lines))).encode())
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([b'"', b"\n", b",", b"}", b"\xff", b"", b"\\", b"9", b"e", b"NaN", b"-"])
        )
    return bytes(data)


def test_ndjson_decoders_agree(mappings: list[Foreign]) -> None:
    @SETTINGS
    @given(json_files(), st.integers(0, 1), st.integers(40, 400))
    def agree(data: bytes, which: int, size: int) -> None:
        compare(JsonLinesFormat(mappings[which]), data, size)

    with enough(140, 100, 150):
        agree()


def test_parquet_decoders_agree(mappings: list[Foreign]) -> None:
    @settings(SETTINGS, max_examples=30)
    @given(st.lists(ROW, min_size=1, max_size=20), st.integers(0, 1))
    def agree(rows: list[dict[str, str]], which: int) -> None:
        file = io.BytesIO()
        pl.DataFrame(rows).write_parquet(file)
        compare(ParquetFormat(mappings[which]), file.getvalue(), 600)

    with enough(30, 50, 20):
        agree()


def test_negative_control(mappings: list[Foreign], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast path that rounds down instead of half to even is found."""

    def floored(*args: object) -> object:
        values, refused = scaled_column(*args)  # type: ignore[arg-type]
        return values // 2 * 2, refused

    row = dict(GOOD, so2="0.000001", at="2024-01-05")
    data = (",".join(COLUMNS) + "\n" + ",".join(row.values()) + "\n").encode()
    format_ = CsvFormat(mappings[0], tuple(COLUMNS), CsvOptions())
    block = Block(2, data.split(b"\n", 1)[1])
    differences(format_.decode(block, "f"), format_.decode_reference(block, "f"))
    monkeypatch.setattr("connectors.fields.scaled_column", floored)
    with pytest.raises(AssertionError):
        differences(format_.decode(block, "f"), format_.decode_reference(block, "f"))


def test_records_longer_than_allowed_wherever_they_are_cut(
    mappings: list[Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 60 bytes: overlong lines, quotes that never close, quoted fields that are too long, in blocks of
    any size, give the same as in one."""
    monkeypatch.setattr("connectors.formats.quoted.LONGEST", 60)
    monkeypatch.setattr("connectors.formats.csv.LONGEST", 60)
    format_ = CsvFormat(mappings[1], ("id", "at", "so2", "o3", "what"))
    random = Random(1)
    odd = ["p", '"p"', '"a\nb"', '"a""b"', '"x\n\ny"', 'a"', '"a', "y" * 70, '"' + "z\n" * 40 + '"', "q\r"]
    before = compared["files"]
    for _ in range(50):
        lines = [f"{random.choice(odd)},1704412800,1,1,A" for _ in range(random.randint(1, 9))]
        data = bytearray(("id,at,so2,o3,what\n" + random.choice(["\n", "\r\n"]).join(lines)).encode())
        for _ in range(random.choice([0, 0, 1, 3])):
            at = random.randrange(18, len(data))
            data[at : at + 1] = random.choice([b'"', b"\n", b",", b"", b"\r", b'""'])
        compare(format_, bytes(data), random.choice([7, 23, 61]))
    assert compared["files"] == before + 50
