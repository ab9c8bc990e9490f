"""Shapes: what the lines of a block have in common, so that a block is decoded without looking at each line in Python.

A shape is made from one line that the reference decoder accepted: the bytes between its values (braces, keys, colons,
commas, blanks, the quotes of texts) are its pieces, the values its slots. A line has the shape when all its pieces
are byte for byte the same and each value is one that the reference decoder would read the same way: a text without
backslash or control character, an integer, `true`, `false`, `null`. Such a line has the same keys at the same depth, so
it has no key twice and none missing, and it is valid JSON; whatever else a line may be, it is not decoded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from connectors.formats.scan import (
    WIDEST,
    Buffer,
    Int64s,
    Mask,
    Words,
    flags,
    integers,
    literals,
    packed,
    scalars,
    texts,
)
from pipelines.streams import Flag, Stream, Text

TOKEN: Final = re.compile(rb'"[^"\\]*"|[^\s{}\[\]:,"\\]+')
QUOTES: Final = 512
"""The most quotes a shape may have; lines with more keys are decoded by the reference decoder."""

Kind = Literal["int", "text", "flag", "null", "skip_text", "skip"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A value: `name` is the column of the events it fills, empty when it is an extra key's."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Piece:
    """What precedes a slot, or ends the line. Its first quote is number `quote` of the line, at `offset` in `text`."""

    text: bytes
    quote: int
    offset: int
    words: tuple[np.uint64, ...]
    keep: np.uint64

    @staticmethod
    def of(text: bytes, quote: int) -> Piece:
        return Piece(text, quote, text.find(b'"'), *packed(text))


@dataclass(slots=True)
class Values:
    """Columns of the lines of one shape: integers with what is not null, texts as Arrow string views."""

    integers: dict[str, tuple[Int64s, Mask | None]] = field(default_factory=dict)
    texts: dict[str, Words] = field(default_factory=dict)

    def only(self, rows: Int64s) -> Values:
        return Values(
            {k: (v[rows], None if known is None else known[rows]) for k, (v, known) in self.integers.items()},
            {k: v[rows] for k, v in self.texts.items()},
        )


def wanted(stream: Stream) -> dict[str, Kind]:
    """The keys of a canonical record and how their values are read."""
    kinds: dict[str, Kind] = {"t": "int", stream.place: "text"}
    for column in stream.columns:
        kinds[column.name] = "text" if isinstance(column, Text) else "flag" if isinstance(column, Flag) else "int"
    return kinds


@dataclass(frozen=True, slots=True)
class Shape:
    pieces: tuple[Piece, ...]
    """One before each slot, and the one that ends the line."""
    slots: tuple[Slot, ...]
    quotes: int

    @staticmethod
    def of(line: bytes, stream: Stream) -> Shape | None:
        """The shape of a line (without its line feed) that the reference decoder accepted; None when it has none:
        escapes, numbers next to each other in an array, pieces or lines of unusual length."""
        kinds = wanted(stream)
        pieces: list[Piece] = []
        slots: list[Slot] = []
        depth, quotes, begun, after, key = 0, 0, 0, 0, b""

        def cut(end: int) -> None:
            nonlocal quotes, begun
            text = line[begun:end]
            pieces.append(Piece.of(text, quotes))
            quotes += text.count(b'"')

        for token in TOKEN.finditer(line):
            gap = line[after : token.start()]
            depth += gap.count(b"{") + gap.count(b"[") - gap.count(b"}") - gap.count(b"]")
            after = token.end()
            text = token.group()
            if text[:1] == b'"' and line[after:].lstrip(b" ")[:1] == b":":
                key = text[1:-1] if depth == 1 else b""
                continue
            name = key.decode("utf-8", "replace")
            kind: Kind = kinds.get(name, "skip") if key else "skip"
            if text[:1] == b'"':
                cut(token.start() + 1)
                begun = after - 1
                slots.append(Slot(name, "text") if kind == "text" else Slot("", "skip_text"))
            else:
                cut(token.start())
                begun = after
                kind = "null" if kind == "text" else kind
                slots.append(Slot(name if kind != "skip" else "", kind))
            key = b""
        cut(len(line))
        unfit = b"\\" in line or not slots or quotes > QUOTES or quotes != line.count(b'"')
        unfit = unfit or any(p.offset < 0 for p in pieces[:-1]) or any(len(p.text) > WIDEST for p in pieces)
        return None if unfit else Shape(tuple(pieces), tuple(slots), quotes)

    def match(self, buffer: Buffer, quotes: Int64s, begin: Int64s, end: Int64s) -> tuple[Mask, Values]:
        """Which lines have this shape, and the columns of all (rows that have not the shape hold anything).

        `quotes` has a row for each line: the positions of its quotes (at least `self.quotes` columns are read);
        `begin` and `end` are the positions of its first byte and of its line feed.
        """
        last = len(self.pieces) - 1
        at = [quotes[:, p.quote] - p.offset if p.offset >= 0 else end - len(p.text) for p in self.pieces]
        wrong = (at[0] ^ begin).view(np.uint64) | ((at[last] + len(self.pieces[last].text)) ^ end).view(np.uint64)
        for piece, start in zip(self.pieces, at, strict=True):
            wrong |= buffer.differs(start, piece.words, piece.keep)
        good: Mask = wrong == 0
        out = Values()
        for j, slot in enumerate(self.slots):
            start, stop = at[j] + len(self.pieces[j].text), at[j + 1]
            match slot.kind:
                case "skip_text":
                    continue
                case "text":
                    out.texts[slot.name] = texts(buffer, start, np.maximum(stop, start))
                case "skip":
                    good &= scalars(buffer, start, stop)
                case "null":
                    good &= literals(buffer, start, stop)[0]
                case "int" | "flag":
                    value, known, either = (integers if slot.kind == "int" else flags)(buffer, start, stop)
                    good &= either
                    out.integers[slot.name] = (value, None if known is either else known)
        return good, out
