"""Foreign NDJSON with a mapping: one JSON object a line, its top-level keys are the columns.

A value becomes the text of a cell: strings as they are, true and false as words, integers in decimal, decimals without
trailing zeros, so that 1.50 and 1.5 are one text. An object or array in a mapped column makes the record bad; elsewhere
it is skipped. Lines that one regular expression knows to be flat objects are parsed together; every other line is read
on its own by the strict reader of `_cells`, which defines the language (RFC 8259; a mapped key may not stand twice).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

import polars as pl

from connectors.formats import Block
from connectors.formats.foreign import Foreign, Texts, letter, whole_file
from connectors.formats.lines import BOM, MAX_LINE, count_lines, line_blocks
from connectors.mapped_rows import RECORD
from pipelines.model import DeadLetter, Decoded
from pipelines.records import Refused

MAX_DEPTH: Final = 32
_TEXT: Final = r'"[^"\\\x00-\x1f]*"'
_VALUE: Final = rf"(?:{_TEXT}|-?(?:0|[1-9][0-9]{{0,17}})(?:\.[0-9]{{1,20}})?|true|false|null)"
_PAIR: Final = rf"[ \t]*{_TEXT}[ \t]*:[ \t]*{_VALUE}[ \t]*"
FLAT: Final = rf"^[ \t\r]*\{{(?:{_PAIR}(?:,{_PAIR})*|[ \t]*)\}}[ \t\r]*$"
STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')


class _Twice(Exception):
    """A mapped key stands twice in an object."""


@dataclass(frozen=True, slots=True)
class _Number:
    """The literal of a JSON number, told apart from a string."""

    text: str


@dataclass(frozen=True, slots=True)
class JsonLinesFormat:
    """Implements `connectors.formats.Format`."""

    foreign: Foreign

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]:
        found = line_blocks(file, size)
        yield from found if self.foreign.order == "arrival" else whole_file(found)

    def decode(self, block: Block, source: str) -> Decoded:
        return self.foreign.decoded(source, self.texts(block, source))

    def texts(self, block: Block, source: str) -> Texts:
        data = _bytes(block)
        lines = _lines(data)
        flat = lines.filter(lines["ok"] & self._plain(lines["text"]))
        rest = lines.join(flat, on="at", how="anti")
        rows, letters = self._read(rest, block.first, source)
        columns = self.foreign.columns
        frame = pl.DataFrame(schema={RECORD: pl.Int64, **dict.fromkeys(columns, pl.String)})
        parts = [frame]
        if flat.height:
            text = flat["text"].str.join("\n")[0].encode()
            read = pl.read_ndjson(io.BytesIO(text), schema=dict.fromkeys(columns, pl.String))
            if read.height != flat.height:
                raise RuntimeError(f"the JSON parser gave {read.height} rows for {flat.height} lines")
            parts.append(read.select((flat["at"] + block.first).alias(RECORD), *columns))
        if rows:
            data_ = {RECORD: [r for r, _ in rows], **{c: [cells.get(c) for _, cells in rows] for c in columns}}
            parts.append(pl.DataFrame(data_, schema=frame.schema))
        cells = pl.concat(parts)
        if len(parts) > 2:
            cells = cells.sort(RECORD)
        return Texts(cells, letters, block.first + count_lines(data), lines.height)

    def decode_reference(self, block: Block, source: str) -> Decoded:
        """As `decode`, every line on its own."""
        data = _bytes(block)
        lines = _lines(data)
        rows, letters = self._read(lines, block.first, source)
        return self.foreign.reference(source, rows, letters, block.first + count_lines(data), lines.height)

    def _plain(self, texts: pl.Series) -> pl.Series:
        """Flat objects without a mapped key twice, and without a mapped number that a double does not keep."""
        frame = texts.to_frame("x")
        plain = pl.col("x").str.contains(FLAT)
        for column in self.foreign.columns:
            key = re.escape(json.dumps(column, ensure_ascii=False)) + r"[ \t]*:"
            plain &= pl.col("x").str.count_matches(key) <= 1
            plain &= ~pl.col("x").str.contains(key + r"[ \t]*-?(?:[0-9.]{16,}|0\.0000)")
        return frame.select(plain.fill_null(False))["x"]

    def _read(
        self, lines: pl.DataFrame, first: int, source: str
    ) -> tuple[list[tuple[int, dict[str, str | None]]], list[DeadLetter]]:
        rows: list[tuple[int, dict[str, str | None]]] = []
        letters: list[DeadLetter] = []
        for at, raw in lines.select("at", "raw").iter_rows():
            cells = self._cells(raw)
            if isinstance(cells, Refused):
                shown = raw[:4096].decode("utf-8", "replace")
                name = self.foreign.rows.stream.name
                letters.append(letter(source, str(first + at), name, cells.reason, cells.detail, shown))
            else:
                rows.append((first + at, cells))
        return rows, letters

    def _cells(self, raw: bytes) -> dict[str, str | None] | Refused:
        """The cells of one line."""
        if len(raw) > MAX_LINE:
            return Refused("too_long", f"the line has more than {MAX_LINE} bytes")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return Refused("bad_encoding", f"the line is not UTF-8: byte {error.start + 1} is wrong")
        if _depth(text) > MAX_DEPTH:
            return Refused("too_deep", f"the line is nested deeper than {MAX_DEPTH} levels")
        try:
            value = json.loads(
                text, parse_int=_Number, parse_float=_Number, parse_constant=_constant, object_pairs_hook=self._pairs
            )
        except _Twice as error:
            return Refused("duplicate_key", f"the key {error} stands twice")
        except ValueError as error:
            return Refused("bad_json", f"the line is not JSON: {error}")
        if not isinstance(value, dict):
            return Refused("not_an_object", "the line is JSON, but not an object")
        return self._texts(value)

    def _pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        out = dict(pairs)
        if len(out) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen and key in self.foreign.columns:
                    raise _Twice(json.dumps(key))
                seen.add(key)
        return out

    def _texts(self, value: dict[str, object]) -> dict[str, str | None] | Refused:
        cells: dict[str, str | None] = {}
        for column in self.foreign.columns:
            match value.get(column):
                case None:
                    cells[column] = None
                case bool() as truth:
                    cells[column] = "true" if truth else "false"
                case _Number(text):
                    cells[column] = _number(text)
                case str() as text:
                    if any("\ud800" <= c <= "\udfff" for c in text):
                        return Refused("bad_encoding", f"{column} holds half a surrogate pair")
                    cells[column] = text
                case _:
                    return Refused("wrong_type", f"{column} is an object or an array; a text or a number is wanted")
        return cells


def _number(literal: str) -> str:
    if "e" in literal or "E" in literal:
        return literal
    if "." in literal:
        return literal.rstrip("0").rstrip(".")
    return "0" if literal == "-0" else literal


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _depth(text: str) -> int:
    depth = deepest = 0
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return 0
    for c in STRING.sub("", text):
        if c in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif c in "}]":
            depth -= 1
    return deepest


def _bytes(block: Block) -> bytes:
    if not isinstance(block.payload, bytes):
        raise TypeError("a block of NDJSON is bytes")
    return block.payload.removeprefix(BOM) if block.first == 1 else block.payload


def _lines(data: bytes) -> pl.DataFrame:
    """The lines that are not blank: `at` (from 0), `raw`, `text` and whether it is UTF-8 of allowed length."""
    raw = pl.Series("raw", data.removesuffix(b"\n").split(b"\n"), dtype=pl.Binary)
    try:
        text = raw.cast(pl.String)
    except pl.exceptions.ComputeError:
        text = pl.Series([_utf8(line) for line in raw.to_list()], dtype=pl.String)
    frame = pl.DataFrame({"raw": raw, "text": text, "ok": text.is_not_null() & (raw.bin.size() <= MAX_LINE)})
    return (
        frame.with_row_index("at")
        .with_columns(pl.col("at").cast(pl.Int64))
        .filter(pl.col("text").is_null() | (pl.col("text").str.strip_chars(" \t\r") != ""))
    )


def _utf8(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def first_keys(file: BinaryIO) -> tuple[str, ...]:
    """The top-level keys of the first lines (at most `MAX_LINE` bytes); lines that are not JSON are passed over."""
    keys: dict[str, None] = {}
    for line in file.read(MAX_LINE).split(b"\n")[:200]:
        try:
            value = json.loads(line.removeprefix(BOM))
        except ValueError:
            continue
        if isinstance(value, dict):
            keys |= dict.fromkeys(value)
    return tuple(keys)
