"""The plain lines of a block as a frame, and which lines are left (`scan.py` says what a plain line is)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from connectors.formats.decoded import schema, wanted
from connectors.formats.lines import MAX_LINE, count_lines
from connectors.formats.scan import FLAG, INTEGER, PLACES, REMEMBERED, TEXT, WORD, Int64s, Mask, Words, scan
from pipelines.streams import Stream

Bytes = npt.NDArray[np.uint8]
PAD: Final = b"\n" * (2 * WORD)
"""What follows the payload, so that a word may be read at any of its bytes."""
VIEWS: Final = int(pa.__version__.partition(".")[0]) >= 18
KINDS: Final = {"int": INTEGER, "text": TEXT, "flag": FLAG}


@dataclass(frozen=True, slots=True)
class Scanned:
    """`frame`: the events (without `id`) of the plain lines; `rest`: the numbers, from 0, of the others, blank ones
    aside, in order; line n is [begins[n], begins[n + 1]) of `text`, its line feed included."""

    frame: pl.DataFrame
    rest: Int64s
    text: bytes
    begins: Int64s

    def __len__(self) -> int:
        return len(self.begins) - 1

    def line(self, number: int) -> bytes:
        """A line without its line feed."""
        return self.text[int(self.begins[number]) : int(self.begins[number + 1]) - 1]


class Scanner:
    """Reads blocks of one stream's canonical NDJSON; threads may share it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        kinds = wanted(stream)
        names = [name.encode() for name in kinds]
        self._names = _words(b"".join(names) + PAD)
        self._ends = np.cumsum([len(name) for name in names])
        self._kinds = np.array([KINDS[kind] for kind in kinds.values()])
        self.of = of = schema(stream)
        self._columns = ["place" if name == stream.place else name for name in kinds]
        texts = np.array([of[column] == pl.String for column in self._columns])
        self._slots = np.where(texts, np.cumsum(texts), np.cumsum(~texts)) - 1
        nullable = {c.name for c in stream.columns if c.nullable}
        self._required = np.array([column not in nullable for column in self._columns])
        self._texts, self._integers = int(texts.sum()), int((~texts).sum())

    def scan(self, payload: bytes, first: int) -> Scanned:
        """`first` is the record number of line 0."""
        text = payload + PAD
        size = len(payload) + (bool(payload) and not payload.endswith(b"\n"))
        count = count_lines(payload)
        begins, numbers, rest = np.empty(count + 1, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
        integers = np.empty((self._integers, count), np.int64)
        known = np.zeros((len(self._kinds), count), np.bool_)
        views = np.empty((self._texts, count, 2), np.uint64)
        rows, others = scan(
            np.frombuffer(text, np.uint8), _words(text), size, MAX_LINE,
            self._names, self._ends, self._kinds, self._slots, self._required,
            np.full(len(self._kinds), -1), np.zeros((PLACES, REMEMBERED), np.int64),
            begins, numbers, rest, integers, known, views,
        )  # fmt: skip
        columns = {
            "record": pl.Series(numbers[:rows] + first),
            "index": pl.zeros(rows, dtype=pl.Int32, eager=True),
        }
        for key, (name, slot, required) in enumerate(zip(self._columns, self._slots, self._required, strict=True)):
            present = None if required else known[key, :rows]
            if self.of[name] == pl.String:
                columns[name] = _text_column(views[slot, :rows], present, text)
            else:
                columns[name] = _integer_column(integers[slot, :rows], present)
        frame = pl.DataFrame({name: columns[name].alias(name) for name in self.of})
        return Scanned(frame, rest[:others], text, begins)


def _words(text: bytes) -> Words:
    """The word at each place of a text that `PAD` ends."""
    return np.ndarray((len(text) - WORD + 1,), "<u8", text, 0, (1,))


def _integer_column(values: Int64s, present: Mask | None) -> pl.Series:
    if present is None or present.all():
        return pl.Series(values)
    return _series(pa.array(values, mask=~present))


def _text_column(views: Words, present: Mask | None, text: bytes) -> pl.Series:
    """A column of Arrow string views, which refer to `text`; copied where pyarrow cannot take views (Flink's, 16)."""
    valid = None
    if present is not None and not present.all():
        valid = pa.py_buffer(np.packbits(present, bitorder="little"))
    if VIEWS:
        buffers = [valid, pa.py_buffer(views), pa.py_buffer(text)]
        return _series(pa.Array.from_buffers(pa.string_view(), len(views), buffers))
    offsets, copied = _copied(views, text)
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(copied)]
    return _series(pa.Array.from_buffers(pa.large_string(), len(views), buffers))


def _copied(views: Words, text: bytes) -> tuple[Int64s, Bytes]:
    """The texts of string views one behind the other, and where each begins. A view is its length, then up to 12 bytes
    of text, or four of them, a buffer's number, and the place in it (Arrow columnar format, variable-size binary view)."""
    halves = np.ascontiguousarray(views).view("<i4").reshape(-1, 4)
    lengths = halves[:, 0].astype(np.int64)
    inline = 16 * np.arange(len(views)) + 4
    begins = np.where(lengths <= 12, inline, 16 * len(views) + halves[:, 3])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    all_bytes = np.concatenate([halves.view(np.uint8).ravel(), np.frombuffer(text, np.uint8)])
    places = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
    return offsets, all_bytes[places]


def _series(array: Any) -> pl.Series:
    out = pl.from_arrow(array)
    assert isinstance(out, pl.Series)
    return out
