"""`FileSource` keeps the promises of `Source`; canonical Arrow gives what canonical NDJSON gives."""

from __future__ import annotations

import gzip
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from connectors.files import FileSource, Reading
from connectors.formats import Block, Format, FormatError
from connectors.formats.arrow import ArrowIpc
from connectors.formats.lines import count_lines, line_blocks
from connectors.formats.ndjson import Ndjson
from pipelines.model import DeadLetter, Decoded
from pipelines.streams import CASE, DET, LINK, Stream

SMALL = Reading(block_bytes=2_000, threads=3, ahead=2)
LINES = [
    orjson.dumps({"t": 1_700_000_000_000 + i, "link": f"l{i % 40}", "tt_ms": 1_000 + i, "n": i % 90})
    if i % 97
    else b"broken"
    for i in range(1, 2_001)
]


def write(tmp_path: Path, lines: list[bytes]) -> Path:
    path = tmp_path / "link.ndjson"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def drain(source: FileSource) -> list[Decoded]:
    out = []
    while not source.ended:
        begun = time.monotonic()
        decoded = source.read()
        assert time.monotonic() - begun < 2
        if decoded is not None:
            out.append(decoded)
    return out


def records_of(blocks: list[Decoded]) -> list[int]:
    good = [n for block in blocks for n in block.events["record"].to_list()]
    return sorted(good + [int(letter.position) for block in blocks for letter in block.refused])


def test_every_record_once_and_in_order(tmp_path: Path) -> None:
    with FileSource(write(tmp_path, LINES), LINK, Ndjson(LINK), name="a", reading=SMALL) as source:
        assert not source.ended
        blocks = drain(source)
        assert source.read() is None
    assert len(blocks) > 20
    assert records_of(blocks) == list(range(1, 2_001))
    events = pl.concat([b.events for b in blocks])
    assert events["record"].is_sorted()
    assert events["t"].to_list() == [1_700_000_000_000 + i for i in events["record"].to_list()]
    assert sum(b.records for b in blocks) == 2_000
    assert [b.next_position for b in blocks] == sorted(b.next_position for b in blocks)
    assert {(b.input, b.stream) for b in blocks} == {("a", "link")}
    assert sum(len(b.refused) for b in blocks) == 20


@pytest.mark.parametrize("position", [0, 1, 2, 37, 1_000, 1_999, 2_000, 2_001, 9_999])
@pytest.mark.parametrize("packed", [False, True])
def test_seek_starts_at_a_record(position: int, packed: bool, tmp_path: Path) -> None:
    path = write(tmp_path, LINES)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    with FileSource(path, LINK, Ndjson(LINK), reading=SMALL) as source:
        source.read()
        source.seek(position)
        blocks = drain(source)
        assert records_of(blocks) == list(range(max(position, 1), 2_001))


def test_a_checkpointed_position_reads_nothing_twice(tmp_path: Path) -> None:
    path = write(tmp_path, LINES)
    with FileSource(path, LINK, Ndjson(LINK), reading=SMALL) as source:
        whole = drain(source)
    for block in whole[:: len(whole) // 5]:
        with FileSource(path, LINK, Ndjson(LINK), reading=SMALL) as source:
            source.seek(block.next_position)
            assert records_of(drain(source)) == list(range(block.next_position, 2_001))


class Slow:
    """A format that counts how far the reader is ahead of the consumer."""

    def __init__(self, inner: Format) -> None:
        self.inner, self.read, self.most, self.consumed = inner, 0, 0, 0

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]:
        for block in self.inner.blocks(file, size):
            self.read += 1
            self.most = max(self.most, self.read - self.consumed)
            yield block

    def decode(self, block: Block, source: str) -> Decoded:
        time.sleep(0.001 * (block.first % 7))
        return self.inner.decode(block, source)


def test_reading_ahead_is_bounded_and_order_survives_uneven_decoding(tmp_path: Path) -> None:
    slow = Slow(Ndjson(LINK))
    with FileSource(write(tmp_path, LINES), LINK, slow, reading=SMALL) as source:
        blocks: list[Decoded] = []
        while not source.ended:
            if (decoded := source.read()) is not None:
                blocks.append(decoded)
                slow.consumed += 1
                if len(blocks) < 5:
                    time.sleep(0.05)
    assert records_of(blocks) == list(range(1, 2_001))
    assert 2 <= slow.most <= SMALL.ahead + 2


class Failing(Slow):
    def decode(self, block: Block, source: str) -> Decoded:
        if block.first > 500:
            raise FormatError("column 'n' is a mess")
        return self.inner.decode(block, source)


def test_errors_reach_the_reader_and_leave_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with FileSource(tmp_path / "missing.ndjson", LINK, Ndjson(LINK)) as source, pytest.raises(FileNotFoundError):
        drain(source)
    failing = FileSource(write(tmp_path, LINES), LINK, Failing(Ndjson(LINK)), reading=SMALL)
    with failing, pytest.raises(FormatError, match="is a mess"):
        drain(failing)
    source = FileSource(write(tmp_path, LINES), LINK, Ndjson(LINK), reading=SMALL)
    source.read()
    source.close()
    source.close()
    assert threading.active_count() == before


def test_line_blocks_are_whole_lines_with_their_numbers() -> None:
    payload = b"\n".join(b"x" * (i % 50) for i in range(500))
    for size in (1, 7, 100, 10**6):
        blocks = list(line_blocks(io.BytesIO(payload), size))
        texts = [b.payload for b in blocks]
        assert b"".join(t for t in texts if isinstance(t, bytes)) == payload
        first = 1
        for block in blocks:
            assert block.first == first
            assert isinstance(block.payload, bytes)
            first += count_lines(block.payload)
        assert first == 501


def arrow(frame: pl.DataFrame, path: Path, kind: str) -> Path:
    table = frame.to_arrow()
    with path.open("wb") as file:
        writer = (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(file, table.schema)
        with writer:
            writer.write_table(table, max_chunksize=300)
    return path


def decode_all(path: Path, stream: Stream, format: Format) -> tuple[pl.DataFrame, list[DeadLetter]]:
    with FileSource(path, stream, format, name="x", reading=SMALL) as source:
        blocks = drain(source)
    return pl.concat([b.events for b in blocks]), [letter for b in blocks for letter in b.refused]


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("coded", [False, True])
def test_arrow_gives_what_ndjson_gives(kind: str, coded: bool, tmp_path: Path) -> None:
    rows = [
        {"t": 1_700_000_000_000 + i, "lane": f"l{i % 9}", "duration_ms": 60_000, "count": i - 3, "occ_e4": 20 * i}
        | {"speed_dmh": None if i % 5 else i, "extra": "x"}
        for i in range(1_000)
    ]
    ndjson = write(tmp_path, [orjson.dumps(row) for row in rows])
    expected, refused = decode_all(ndjson, DET, Ndjson(DET))
    frame = pl.DataFrame(rows)
    if coded:
        frame = frame.with_columns(pl.col("lane").cast(pl.Categorical()), pl.col("count").cast(pl.Int16))
    events, letters = decode_all(arrow(frame, tmp_path / "det.arrow", kind), DET, ArrowIpc(DET))
    assert_frame_equal(events, expected)
    assert [(x.position, x.reason, x.detail) for x in letters] == [(x.position, x.reason, x.detail) for x in refused]
    assert events.height > 400
    assert len(letters) > 400


def test_arrow_flags_texts_and_absent_nullable_columns(tmp_path: Path) -> None:
    rows = {"t": [5, 6, 7], "district": ["d1", "", "d3"], "case_id": ["a", "b", None], "milestone": ["submit"] * 3,
            "auto": [True, False, None]}  # fmt: skip
    events, letters = decode_all(arrow(pl.DataFrame(rows), tmp_path / "c.arrow", "file"), CASE, ArrowIpc(CASE))
    assert events.select("t", "place", "case_id", "auto", "due_t").rows() == [(5, "d1", "a", 1, None)]
    assert [(x.position, x.reason) for x in letters] == [("2", "null_value"), ("3", "null_value")]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (pl.DataFrame({"t": [1], "link": ["a"], "tt_m": [1], "n": [1]}), "'tt_ms' is missing.*Did you mean 'tt_m'"),
        (pl.DataFrame({"t": [1], "link": ["a"], "tt_ms": [1.5], "n": [1]}), "'tt_ms' is double.*an integer"),
        (pl.DataFrame({"t": [1], "link": [1], "tt_ms": [1], "n": [1]}), "'link' is int64.*a string"),
    ],
)
def test_arrow_of_another_stream_is_an_error(frame: pl.DataFrame, text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=text):
        decode_all(arrow(frame, tmp_path / "x.arrow", "file"), LINK, ArrowIpc(LINK))


def test_a_file_that_is_no_arrow_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    path.write_bytes(b"hello, world, this is no arrow file at all")
    with pytest.raises(FormatError, match="no Arrow"):
        decode_all(path, LINK, ArrowIpc(LINK))
