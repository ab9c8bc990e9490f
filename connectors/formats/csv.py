"""CSV and its relatives with a mapping: any one-byte delimiter, quoted fields with line feeds, header or named columns.

A record's number is the line (from 1, the header included) on which it begins, so that a dead letter names the line
that an editor shows. Blank lines are no records. A line with more or fewer fields than there are columns, with a
misplaced quote, with bytes that are not of the encoding, or longer than 1 MiB is a dead letter, and only that line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import polars as pl

from connectors.formats import Block
from connectors.formats.foreign import Foreign, Texts, letter, whole_file
from connectors.formats.lines import count_lines
from connectors.formats.quoted import BOM, LONGEST, Ints, Records, pieces, split
from connectors.mapped_rows import RECORD
from pipelines.model import DeadLetter, Decoded
from pipelines.reasons import Reason

Encoding = Literal["utf-8", "latin-1"]


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """`columns`: the names of the columns of a file without a header."""

    delimiter: str = ","
    quoted: bool = True
    encoding: Encoding = "utf-8"
    columns: tuple[str, ...] = ()


def header(file: BinaryIO, options: CsvOptions) -> tuple[str, ...]:
    """The names of the columns, trimmed: those of the options, else of the file's first record."""
    if options.columns:
        return options.columns
    separator = ord(options.delimiter)
    for piece in pieces(file, LONGEST, separator, options.quoted):
        found = split(piece, separator, quoted=options.quoted, last=True)
        if len(found.end):
            first = piece[: int(found.end[0])].decode(options.encoding, "replace")
            return tuple(c.strip() for c in _cells(first.removesuffix("\r"), options))
    return ()


def _cells(text: str, options: CsvOptions) -> list[str]:
    """The fields of a well-formed record."""
    out: list[str] = []
    at = 0
    while True:
        if options.quoted and text.startswith('"', at):
            close = text.index('"', at + 1)
            while text.startswith('"', close + 1):
                close = text.index('"', close + 2)
            out.append(text[at + 1 : close].replace('""', '"'))
            end = close + 1
        else:
            end = text.find(options.delimiter, at)
            end = len(text) if end < 0 else end
            out.append(text[at:end])
        if end >= len(text):
            return out
        at = end + 1


def rows_of(data: bytes, options: CsvOptions, source: str) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """The columns of a small table and its records with their lines; ValueError names the first bad one."""
    names = header(io.BytesIO(data), options)
    data = data.removeprefix(BOM)
    if options.encoding == "utf-8" and not _is_utf8(data):
        raise ValueError(f'{source}: it is not UTF-8; csv = {{ encoding = "latin-1" }} may be what it is')
    rows: list[tuple[int, dict[str, str]]] = []
    found = split(data, ord(options.delimiter), quoted=options.quoted, last=True)
    line = 1
    for i, (start, end) in enumerate(zip(found.start.tolist(), found.end.tolist(), strict=True)):
        text = data[start:end].decode(options.encoding)
        at, line = line, line + text.count("\n") + 1
        text = text.removesuffix("\r")
        if not text or (i == 0 and not options.columns):
            continue
        if not found.good[i] or found.fields[i] != len(names):
            raise ValueError(f"{source}:{at}: the line has not {len(names)} well-formed fields: {text[:80]!r}")
        rows.append((at, dict(zip(names, _cells(text, options), strict=True))))
    return names, rows


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """One file's format: `names` are its columns in order. Implements `connectors.formats.Format`."""

    foreign: Foreign
    names: tuple[str, ...]
    options: CsvOptions = CsvOptions()

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]:
        """With `order = "event_time"` the whole file is one block."""
        found = self._pieces(file, size)
        yield from found if self.foreign.order == "arrival" else whole_file(found)

    def _pieces(self, file: BinaryIO, size: int) -> Iterator[Block]:
        line = 1
        separator = ord(self.options.delimiter)
        for piece in pieces(file, size, separator, self.options.quoted):
            payload, first = piece, line
            line += piece.count(b"\n")
            if first == 1 and not self.options.columns:
                end = int(split(piece, separator, quoted=self.options.quoted, last=True).end[0]) + 1
                payload, first = piece[end:], 1 + piece[:end].count(b"\n")
            if payload:
                yield Block(first, payload)

    def decode(self, block: Block, source: str) -> Decoded:
        return self.foreign.decoded(source, self.texts(block, source))

    def texts(self, block: Block, source: str) -> Texts:
        data = _bytes(block)
        records, lines, letters = self._split(data, block.first, source)
        good = records.good
        count = len(good)
        if records.used < len(data) or not good.all():
            parts = [data[s:e] for s, e in zip(records.start[good], records.end[good], strict=True)]
            text = b"\n".join(parts) + b"\n" if parts else b""
        else:
            text = data
        return Texts(self._frame(text, lines[good]), letters, block.first + count_lines(data), count)

    def decode_reference(self, block: Block, source: str) -> Decoded:
        """As `decode`, one record after the other, with the standard library's reader."""
        data = _bytes(block)
        records, lines, letters = self._split(data, block.first, source)
        rows: list[tuple[int, dict[str, str | None]]] = []
        for i in np.flatnonzero(records.good).tolist():
            text = data[int(records.start[i]) : int(records.end[i])].decode(self.options.encoding)
            cells = _cells(text.removesuffix("\r").replace("\r\n", "\n"), self.options)
            rows.append((int(lines[i]), dict(zip(self.names, cells, strict=True))))
        return self.foreign.reference(source, rows, letters, block.first + count_lines(data), len(records.good))

    def _split(self, data: bytes, first: int, source: str) -> tuple[Records, Ints, list[DeadLetter]]:
        """The records that are not blank, the line of each, and a dead letter for each that has no cells. `used` is 0
        where there are blank lines."""
        found = split(data, ord(self.options.delimiter), quoted=self.options.quoted, last=True)
        feeds = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
        lines = first + np.searchsorted(feeds, found.start)
        short = found.end - found.start <= 1
        keep = np.ones(len(short), dtype=np.bool_)
        for i in np.flatnonzero(short).tolist():
            keep[i] = data[int(found.start[i]) : int(found.end[i])] not in (b"", b"\r")
        start, end, fields, good = found.start[keep], found.end[keep], found.fields[keep], found.good[keep]
        lines = lines[keep]
        unfit = (fields != len(self.names)) | (end - start > LONGEST) | ~good
        if self.options.encoding == "utf-8" and not _is_utf8(data):
            for i in np.flatnonzero(~unfit).tolist():
                unfit[i] = not _is_utf8(data[int(start[i]) : int(end[i])])
        letters = []
        for i in np.flatnonzero(unfit).tolist():
            raw = data[int(start[i]) : int(end[i])]
            reason, detail = self._why(raw, int(fields[i]), bool(good[i]))
            shown = raw[: min(4096, LONGEST)].decode(self.options.encoding, "replace")
            letters.append(letter(source, str(lines[i]), self.foreign.rows.stream.name, reason, detail, shown))
        return Records(start, end, fields, ~unfit, found.used if keep.all() else 0), lines, letters

    def _why(self, raw: bytes, fields: int, good: bool) -> tuple[Reason, str]:
        if len(raw) > LONGEST:
            return "too_long", f"the record has more than {LONGEST} bytes"
        if not good:
            return "bad_json", "a quote stands inside a field, or the quoted field does not end"
        if fields != len(self.names):
            return "bad_columns", f"the record has {fields} fields; the file has {len(self.names)} columns"
        return "bad_encoding", f"the record is not {self.options.encoding}"

    def _frame(self, text: bytes, lines: Ints) -> pl.DataFrame:
        wanted = self.foreign.columns
        schema: dict[str, pl.DataType] = {f"{i}": pl.String() for i in range(len(self.names))}
        if not len(lines):
            return pl.DataFrame(
                {RECORD: [], **{c: [] for c in wanted}}, {RECORD: pl.Int64, **dict.fromkeys(wanted, pl.String)}
            )
        if self.options.encoding == "latin-1":
            text = text.decode("latin-1").encode()
        frame = pl.read_csv(
            io.BytesIO(text.replace(b"\r\n", b"\n").removesuffix(b"\r")),
            has_header=False,
            schema=schema,
            columns=[self.names.index(c) for c in wanted],
            separator=self.options.delimiter,
            quote_char='"' if self.options.quoted else None,
            infer_schema=False,
        )
        if frame.height != len(lines):
            raise RuntimeError(f"the CSV parser gave {frame.height} rows for {len(lines)} records")
        names = {str(self.names.index(c)): c for c in wanted}
        return frame.rename(names).with_columns(pl.Series(RECORD, lines, dtype=pl.Int64))


def _bytes(block: Block) -> bytes:
    if not isinstance(block.payload, bytes):
        raise TypeError("a block of CSV is bytes")
    return block.payload


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
