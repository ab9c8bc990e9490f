"""The lines of a block that have the shape of an accepted one, decoded together; and which lines are left.

The order of the work: find the line feeds and quotes of the block in one pass; set aside the lines that hold anything
a shape cannot vouch for (control characters, backslashes, invalid UTF-8, excessive length); group the others by their
number of quotes; compare each group with the shapes known for that number, and learn a new shape from a line that the
reference decoder accepts when none fits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from connectors.formats.decoded import schema
from connectors.formats.lines import MAX_LINE
from connectors.formats.scan import PAD, Buffer, Int64s, Mask, Words
from connectors.formats.shape import Shape, Values
from pipelines.streams import Stream

ATTEMPTS: Final = 8
"""Lines of a group that may be tried for a new shape in one run."""
FEW: Final = 24
"""So many lines are decoded faster one by one than together."""
REMEMBERED: Final = 64
RUN_BYTES: Final = 1 << 19
LINE_FEED: Final = 0x0A
QUOTE: Final = 0x22
BACKSLASH: Final = 0x5C
EMPTY: Final[Int64s] = np.zeros(0, np.int64)

Accepts = Callable[[bytes], bool]


class Shapes:
    """The shapes met so far, most recent first, shared by the threads that decode one source."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._known: tuple[Shape, ...] = ()

    def of(self, quotes: int) -> list[Shape]:
        return [shape for shape in self._known if shape.quotes == quotes]

    def used(self, shape: Shape) -> None:
        if not self._known or self._known[0] is not shape:
            with self._lock:
                others = [known for known in self._known if known != shape]
                self._known = (shape, *others)[:REMEMBERED]


class Lines:
    """Where the lines and quotes of whole lines, [start, stop) of `buffer`, are; a line's end is its line feed."""

    __slots__ = ("_base", "_marks", "begin", "buffer", "end", "inside", "quotes")

    def __init__(self, buffer: Buffer, start: int, stop: int) -> None:
        """A last line without line feed is given the one that follows the payload: `stop` lies behind it."""
        self.buffer = buffer
        self.inside = inside = buffer.octets[start:stop]
        feeds = inside == LINE_FEED
        count = int(np.count_nonzero(feeds))
        marks: Int64s = np.flatnonzero(np.logical_or(feeds, inside == QUOTE, out=feeds))
        marks += start
        self._marks = marks
        at = self._feeds(count)
        self.end: Int64s = marks[at]
        self.begin: Int64s = np.empty_like(self.end)
        self._base: Int64s = np.empty_like(self.end)
        if count:
            self.begin[0], self._base[0] = start, 0
            np.add(self.end[:-1], 1, out=self.begin[1:])
            np.add(at[:-1], 1, out=self._base[1:])
        self.quotes: Int64s = at - self._base

    def __len__(self) -> int:
        return len(self.end)

    def _feeds(self, count: int) -> Int64s:
        """Which of the marks are line feeds."""
        octets, marks = self.buffer.octets, self._marks
        if count and not len(marks) % count:
            # Where all lines have equally many quotes it is every so-manieth.
            width = len(marks) // count
            guess = np.arange(width - 1, len(marks), width)
            if (octets[marks[guess]] == LINE_FEED).all():
                return guess
        feeds: Int64s = np.flatnonzero(octets[marks] == LINE_FEED)
        return feeds

    def line(self, number: int) -> bytes:
        return self.buffer.bytes[int(self.begin[number]) : int(self.end[number])]

    def table(self, lines: Int64s, quotes: int) -> Int64s:
        """The positions of the quotes of lines that all have so many, and of their line feeds: a row per line."""
        width = quotes + 1
        first, last = int(self._base[lines[0]]), int(self._base[lines[-1]])
        if last - first == (len(lines) - 1) * width and int(lines[-1] - lines[0]) == len(lines) - 1:
            return self._marks[first : last + width].reshape(-1, width)
        marks = np.ascontiguousarray(self._marks)
        rows: Any = np.ndarray((len(marks) - width + 1,), f"V{8 * width}", marks.data, 0, (8,))
        out: Int64s = rows[self._base[lines]].view(np.int64).reshape(len(lines), width)
        return out

    def odd(self) -> Mask | None:
        """The lines that only the reference decoder may judge, whatever their shape; None when there are none."""
        inside, octets, start = self.inside, self.buffer.octets, int(self.begin[0])
        odd: Mask = (self.end - self.begin) > MAX_LINE
        special = (inside - np.uint8(0x20)) > np.uint8(0x5E)
        if int(np.count_nonzero(special)) > len(self):
            # Not only line feeds: control characters (CRLF aside), DEL, or bytes that must be UTF-8.
            at = np.flatnonzero(special) + start
            found = octets[at]
            control = (found < 0x20) & (found != LINE_FEED) | (found == 0x7F)
            control &= (found != 0x0D) | (octets[at + 1] != LINE_FEED)
            odd[np.searchsorted(self.end, at[control])] = True
            beyond = at[found >= 0x80]
            if len(beyond) and not _is_utf8(self.buffer.bytes[start : int(self.end[-1])]):
                for number in np.unique(np.searchsorted(self.end, beyond)).tolist():
                    odd[number] |= not _is_utf8(self.line(number))
        if self.buffer.backslash:
            odd[np.searchsorted(self.end, np.flatnonzero(inside == BACKSLASH) + start)] = True
        return odd if odd.any() else None


def _is_utf8(text: bytes) -> bool:
    whole = pa.Array.from_buffers(
        pa.large_string(), 1, [None, pa.py_buffer(np.array([0, len(text)])), pa.py_buffer(text)]
    )
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


Part = tuple[Int64s, Values]
"""Numbers of lines, and their columns."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """`frame`: the events (without `id`) of the lines that have a shape; `rest`: the numbers of all other lines, in
    order; `begin`, `end`: where each line lies in `buffer`."""

    frame: pl.DataFrame
    rest: Int64s
    buffer: Buffer
    begin: Int64s
    end: Int64s

    def line(self, number: int) -> bytes:
        return self.buffer.bytes[int(self.begin[number]) : int(self.end[number])]


def decode_shaped(payload: bytes, shapes: Shapes, accepts: Accepts, first: int) -> Shaped:
    """`first` is the record number of line 0; `accepts` is the reference decoder's verdict on a line."""
    buffer = Buffer(payload)
    parts: list[Part] = []
    left, begin, end = [EMPTY], [EMPTY], [EMPTY]
    done = 0
    for lines in _runs(buffer):
        odd = lines.odd()
        if odd is not None:
            left.append(np.flatnonzero(odd) + done)
        for quotes in np.flatnonzero(np.bincount(lines.quotes)).tolist():
            chosen = lines.quotes == quotes
            group: Int64s = np.flatnonzero(chosen if odd is None else chosen & ~odd)
            rest = _match(lines, group, quotes, shapes, accepts, done, parts) if quotes else group
            left.append(rest + done)
        begin.append(lines.begin)
        end.append(lines.end)
        done += len(lines)
    others: Int64s = np.concatenate(left)
    others.sort()
    frame = _frame(parts, buffer, shapes.stream, first)
    return Shaped(frame, others, buffer, np.concatenate(begin), np.concatenate(end))


def _runs(buffer: Buffer) -> Iterator[Lines]:
    """The lines of a block in runs that fit into the processor's cache."""
    start, stop = PAD, PAD + buffer.size
    if buffer.size and buffer.octets[stop - 1] != LINE_FEED:
        stop += 1
    while start < stop:
        cut = stop if stop - start <= RUN_BYTES else buffer.bytes.find(b"\n", start + RUN_BYTES) + 1
        yield Lines(buffer, start, cut)
        start = cut


def _match(
    lines: Lines, group: Int64s, quotes: int, shapes: Shapes, accepts: Accepts, first: int, parts: list[Part]
) -> Int64s:
    """Adds the columns of lines with equally many quotes to `parts`, their numbers raised by `first`; returns those
    that have no shape."""
    known = shapes.of(quotes)
    attempts = ATTEMPTS
    left: list[Int64s] = []
    while len(group) > FEW and (known or attempts):
        shape = known.pop(0) if known else None
        learnt = shape is None
        if learnt:
            attempts -= 1
            line = lines.line(int(group[0]))
            shape = Shape.of(line, shapes.stream) if accepts(line) else None
        good: Mask | None = None
        if shape is not None:
            table = lines.table(group, quotes)
            good, values = shape.match(lines.buffer, table, lines.begin[group], lines.end[group])
            if good.any():
                shapes.used(shape)
                if good.all():
                    parts.append((group + first, values))
                    group = EMPTY
                else:
                    rows = np.flatnonzero(good)
                    parts.append((group[rows] + first, values.only(rows)))
                    group = group[~good]
                continue
        if learnt:
            left.append(group[:1])
            group = group[1:]
    return np.concatenate([*left, group])


def _frame(parts: list[Part], buffer: Buffer, stream: Stream, first: int) -> pl.DataFrame:
    numbers = np.concatenate([n for n, _ in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(numbers) if len(parts) > 1 and (np.diff(numbers) < 0).any() else None
    columns: dict[str, pl.Series] = {}
    for name, dtype in schema(stream).items():
        key = stream.place if name == "place" else name
        if name == "record":
            columns[name] = pl.Series(numbers + first if order is None else numbers[order] + first, dtype=dtype)
        elif name == "index":
            columns[name] = pl.zeros(len(numbers), dtype=dtype, eager=True)
        elif dtype == pl.String:
            columns[name] = _texts([(len(n), v.texts.get(key)) for n, v in parts], order, buffer.bytes)
        else:
            columns[name] = _integers([(len(n), *v.integers.get(key, (None, None))) for n, v in parts], order)
    return pl.DataFrame(columns)


def _integers(pieces: list[tuple[int, Int64s | None, Mask | None]], order: Int64s | None) -> pl.Series:
    """One column from the values of each part (None: all null) and what of them is not null (None: everything)."""
    if not pieces:
        return pl.Series(dtype=pl.Int64)
    values = np.concatenate([np.zeros(n, np.int64) if v is None else v for n, v, _ in pieces])
    nulls: Mask | None = None
    if any(v is None or known is not None for _, v, known in pieces):
        nulls = np.concatenate(
            [np.full(n, v is None) if v is None or known is None else ~known for n, v, known in pieces]
        )
    if order is not None:
        values, nulls = values[order], None if nulls is None else nulls[order]
    return pl.Series(values) if nulls is None else _series(pa.array(values, mask=nulls))


def _texts(pieces: list[tuple[int, Words | None]], order: Int64s | None, data: bytes) -> pl.Series:
    """One column from the string views of each part (None: all null), which refer to `data`."""
    if not pieces:
        return pl.Series(dtype=pl.String)
    views = np.concatenate([np.zeros((n, 2), np.uint64) if v is None else v for n, v in pieces])
    known: Mask | None = None
    if any(v is None for _, v in pieces):
        known = np.concatenate([np.full(n, v is not None) for n, v in pieces])
    if order is not None:
        views, known = views[order], None if known is None else known[order]
    valid = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    buffers = [valid, pa.py_buffer(np.ascontiguousarray(views)), pa.py_buffer(data)]
    return _series(pa.Array.from_buffers(pa.string_view(), len(views), buffers))


def _series(array: Any) -> pl.Series:
    out = pl.from_arrow(array)
    assert isinstance(out, pl.Series)
    return out
