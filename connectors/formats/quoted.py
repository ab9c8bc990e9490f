"""Where the records of delimited text begin and end, when quoted fields may hold line feeds.

The language is RFC 4180: a field is either free of quotes, or begins and ends with one and doubles those inside. Good
blocks are split by counting quotes, in a few passes over the bytes. In a block with a misplaced quote records are
found one after the other: a record whose quotes do not close within `LONGEST` bytes, or close badly, is one bad line,
and reading goes on with the next line, so that a stray quote costs one line and not the rest of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
QUOTE: Final = 34
FEED: Final = 10
RETURN: Final = 13
BOM: Final = b"\xef\xbb\xbf"
LONGEST: Final = 1 << 20
"""Bytes of the longest record; a longer one is refused as too long."""


@dataclass(frozen=True, slots=True)
class Records:
    """The complete records of a buffer: `start` to `end` (its line feed excluded), the separators within them that
    split fields, and which are well formed. `used` is where the rest of the buffer begins."""

    start: Ints
    end: Ints
    fields: Ints
    good: Bools
    used: int


def split(data: bytes, separator: int, *, quoted: bool, last: bool) -> Records:
    """The records of `data`, which begins with one. `last`: nothing follows, so that what is left is a record too."""
    octets = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(octets == QUOTE) if quoted and QUOTE in data else np.zeros(0, dtype=np.int64)
    feeds, separators = np.flatnonzero(octets == FEED), np.flatnonzero(octets == separator)
    if len(quotes):
        feeds = feeds[np.searchsorted(quotes, feeds) % 2 == 0]
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
    end, used = feeds, int(feeds[-1]) + 1 if len(feeds) else 0
    if last and used < len(data):
        end, used = np.append(feeds, len(data)), len(data)
    start = np.concatenate(([0], end[:-1] + 1)) if len(end) else end
    if len(quotes) and not _well_formed(octets, quotes, separator, used, last):
        return _one_by_one(data, separator, last)
    if len(quotes) and (int((end - start).max(initial=0)) > LONGEST or (not used and len(data) > LONGEST)):
        return _one_by_one(data, separator, last)
    inside = np.searchsorted(separators, end) - np.searchsorted(separators, start)
    return Records(start, end, inside + 1, np.ones(len(end), dtype=np.bool_), used)


def _well_formed(octets: npt.NDArray[np.uint8], quotes: Ints, separator: int, used: int, last: bool) -> bool:
    """Whether every quote before `used` opens a field, closes one, or is one of a doubled pair."""
    quotes = quotes[quotes < used]
    if len(quotes) % 2:
        return False
    before = np.concatenate(([FEED], octets))
    opening, closing = quotes[0::2], quotes[1::2]
    left = before[opening]
    good = (left == separator) | (left == FEED)
    good[1:] |= closing[:-1] == opening[1:] - 1
    after = np.concatenate((octets, [FEED, FEED]))
    right, next_ = after[closing + 1], after[closing + 2]
    ends = (right == separator) | (right == FEED) | ((right == RETURN) & (next_ == FEED))
    ends[:-1] |= opening[1:] == closing[:-1] + 1
    return bool(good.all() and ends.all())


def _one_by_one(data: bytes, separator: int, last: bool) -> Records:
    rows: list[tuple[int, int, int, bool]] = []
    at = 0
    while at < len(data):
        found = _record(data, at, separator, last)
        if found is None:
            break
        rows.append((at, *found))
        at = found[0] + 1
    table = np.array([r[:3] for r in rows], dtype=np.int64).reshape(-1, 3)
    good = np.array([r[3] for r in rows], dtype=np.bool_)
    return Records(table[:, 0], table[:, 1], table[:, 2], good, min(at, len(data)))


def _record(data: bytes, start: int, separator: int, last: bool) -> tuple[int, int, bool] | None:
    """End, number of fields and well-formedness of the record at `start`; None when more bytes are needed to tell."""
    line = data.find(b"\n", start)
    complete = line >= 0 or last
    line = line if line >= 0 else len(data)
    bad = (line, 0, False)
    comma = bytes([separator])
    at, fields, limit = start, 1, start + LONGEST
    while True:
        if data[at : at + 1] == b'"':
            close = data.find(b'"', at + 1, limit)
            while close >= 0 and data[close + 1 : close + 2] == b'"':
                close = data.find(b'"', close + 2, limit)
            if close < 0:
                return bad if last or (complete and len(data) >= limit) else None
            at = close + 1
            if at == len(data) and not last:
                return None
            if data[at : at + 1] == b"\r" and (data[at + 1 : at + 2] == b"\n" or at + 1 == len(data)):
                if at + 1 == len(data) and not last:
                    return None
                at += 1
            elif data[at : at + 1] not in (b"", b"\n", comma):
                return bad if complete else None
        else:
            feed = data.find(b"\n", at)
            stop = feed if feed >= 0 else len(data)
            found = data.find(comma, at, stop)
            end = found if found >= 0 else stop
            if data.find(b'"', at, end) >= 0:
                return bad if complete else None
            if feed < 0 and found < 0 and not last:
                return None
            at = end
        if data[at : at + 1] == comma:
            at, fields = at + 1, fields + 1
            continue
        return at, fields, True


def pieces(file: BinaryIO, size: int, separator: int, quoted: bool) -> Iterator[bytes]:
    """The bytes of a file in pieces of whole records of about `size` bytes. Of a line longer than `LONGEST` one byte
    more than that is kept: enough to know and to show it."""
    rest = file.read(len(BOM)).removeprefix(BOM)
    skipping = False
    while True:
        read = file.read(size)
        last = not read
        rest += read
        if skipping:
            feed = rest.find(b"\n")
            rest = rest[feed + 1 :] if feed >= 0 else b""
            skipping = feed < 0 and not last
            if skipping:
                continue
        if not rest and last:
            return
        if quoted and b'"' in rest:
            used = split(rest, separator, quoted=True, last=last).used
        else:
            used = len(rest) if last else rest.rfind(b"\n") + 1
        if used:
            yield rest[:used]
            rest = rest[used:]
        if len(rest) > LONGEST and b"\n" not in rest:
            yield rest[: LONGEST + 1] + b"\n"
            rest, skipping = b"", not last
        if last:
            return
