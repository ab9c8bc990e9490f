"""Canonical NDJSON: one JSON object (RFC 8259) a line, in the stream's own names and stored integers.

Keys: `t` (event time, UTC ms), the place under the stream's own name (`link`, `lane`, `station`; `place` in the
events), and the stream's columns: Int and Time as integers, Text as strings, Flag as true, false, 1 or 0. A nullable
column may be null or absent. Any other key is ignored, the stamps of a canonical log (`id, wm, late, part, off`)
included: stamps are given by ingest only. Values are the stored ones: nothing is scaled, converted or shifted here.

CRLF ends a line as LF does, the last line may lack its end, a byte order mark may precede the first line. A blank
line is no record, but counts as a line, so that positions are the line numbers an editor shows. A line is refused
when it is longer than `MAX_LINE`, nested deeper than `MAX_DEPTH`, not UTF-8, not an object, has a wanted key twice, or
breaks a rule of `pipelines/records.py`; RFC 8259 itself excludes NaN, leading zeros, comments, lone surrogates.

`decode_reference` is the definition of this language, line by line. `decode_fast` gives the same events and dead
letters: it reads the lines that are written as programs write them in machine code (`scan.py`) and leaves all others
to the former.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

import orjson
import polars as pl

from connectors.formats import Block
from connectors.formats.decoded import dead_letter, finish, frame_of, in_order, wanted
from connectors.formats.lines import BOM, MAX_LINE, line_blocks
from connectors.formats.scanned import Scanner
from pipelines.model import DeadLetter, Decoded
from pipelines.records import Refused, check, check_record
from pipelines.streams import Stream

MAX_DEPTH: Final = 32
BLANK: Final = b" \t\r"
STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
KINDS: Final = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
Values = dict[str, int | str | None]


class Ndjson:
    """The format of canonical NDJSON files of one stream; see `Format`."""

    def __init__(self, stream: Stream) -> None:
        self._scanner = Scanner(stream)

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]:
        return line_blocks(file, size)

    def decode(self, block: Block, source: str) -> Decoded:
        return decode_fast(block, self._scanner, source)


def decode_reference(block: Block, stream: Stream, source: str) -> Decoded:
    """One line at a time; what this accepts, and as what, is the language."""
    payload = _payload(block)
    lines = payload.split(b"\n")
    if not lines[-1]:
        lines.pop()
    numbered = list(enumerate(lines, block.first))
    good, refused = _judged(numbered, Judge(stream), source)
    events = finish(frame_of(good, stream), stream)
    records = len(good) + len(refused)
    return Decoded(source, stream.name, events, tuple(refused), block.first + len(lines), records)


def decode_fast(block: Block, scanner: Scanner, source: str) -> Decoded:
    """The same without Python per line where lines are plain."""
    stream = scanner.stream
    lines = scanner.scan(_payload(block), block.first)
    checked, bad = check(lines.frame, stream, control=False)
    rest = [(block.first + number, lines.line(number)) for number in lines.rest.tolist()]
    good, refused = _judged(rest, Judge(stream), source)
    for row, why in bad.items():
        position = int(lines.frame["record"][row])
        refused.append(dead_letter(source, position, stream, why, lines.line(position - block.first)))
    if good:
        checked = pl.concat([checked, frame_of(good, stream)]).sort("record")
    records = checked.height + len(refused)
    events = finish(checked, stream)
    return Decoded(source, stream.name, events, in_order(refused), block.first + len(lines), records)


def _judged(
    lines: list[tuple[int, bytes]], judge: Judge, source: str
) -> tuple[list[tuple[int, Values]], list[DeadLetter]]:
    """The values of the good lines and the dead letters of the bad ones, each with its line's number."""
    good: list[tuple[int, Values]] = []
    refused: list[DeadLetter] = []
    for position, line in lines:
        verdict = judge(line)
        if isinstance(verdict, Refused):
            refused.append(dead_letter(source, position, judge.stream, verdict, line))
        elif verdict is not None:
            good.append((position, verdict))
    return good, refused


class Judge:
    """The verdict on one line (without its line feed): its values, why it is refused, or None when it is blank."""

    __slots__ = ("_keys", "_names", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._names = tuple(wanted(stream))
        self._keys = tuple(b'"%s"' % name.encode() for name in self._names)

    def __call__(self, line: bytes) -> Values | Refused | None:
        if len(line) > MAX_LINE:
            return Refused("too_long", f"the line has more than {MAX_LINE} bytes, the most that is allowed")
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return self._syntax(line, error) if line.strip(BLANK) else None
        if _depth(line) > MAX_DEPTH:
            return _TOO_DEEP
        if not isinstance(record, dict):
            kind = KINDS.get(type(record), "a number")
            return Refused(
                "not_an_object", f'the line is {kind}; an object such as {{"t": 1700000000000, ...}} is wanted'
            )
        if twice := self._twice(line):
            return Refused("duplicate_key", f"{twice} is there more than once; parsers disagree on which one counts")
        return check_record(record, self.stream)

    def _syntax(self, line: bytes, error: orjson.JSONDecodeError) -> Refused:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as wrong:
            byte = f"0x{line[wrong.start]:02x}"
            return Refused("bad_encoding", f"byte {wrong.start + 1} of the line, {byte}, is not UTF-8 ({wrong.reason})")
        if _depth(line) > MAX_DEPTH:
            return _TOO_DEEP
        return Refused("bad_json", f"{error.msg} at character {error.pos + 1} of the line")

    def _twice(self, line: bytes) -> str | None:
        """A wanted key that the object has more than once. orjson keeps the last, simdjson the first."""
        if b"\\" not in line and all(line.count(key) <= 1 for key in self._keys):
            return None
        pairs: list[tuple[str, object]] = json.loads(line, object_pairs_hook=_Pairs)
        names = [name for name, _ in pairs]
        return next((name for name in self._names if names.count(name) > 1), None)


class _Pairs(list[tuple[str, object]]):
    """An object as its pairs, so that a key that comes twice is seen twice."""


_TOO_DEEP: Final = Refused("too_deep", f"the line nests more than {MAX_DEPTH} objects and arrays, the most allowed")


def _depth(line: bytes) -> int:
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for byte in STRING.sub(b"", line):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _payload(block: Block) -> bytes:
    if not isinstance(block.payload, bytes):
        raise TypeError("an NDJSON block holds bytes")
    return block.payload.removeprefix(BOM) if block.first == 1 else block.payload
