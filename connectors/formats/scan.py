"""The plain lines of a block of NDJSON, read byte by byte in machine code.

A line is plain when it is a JSON object (RFC 8259) whose values are written as programs write them: texts without
escapes, integers of up to 18 digits, `true`, `false`, `null`; where a key is not wanted also decimals, objects and
arrays. A plain line has each wanted key at most once and none of the required ones missing or null, and every value is
of its column's type. Whatever else a line is, it is not judged here: its number is given back.

The payload ends with a line feed. No loop of this module can run past one: inside texts it is a control character, and
nowhere else is it a blank.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.compiled import compiled

Octets = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

INTEGER: Final = 0
TEXT: Final = 1
FLAG: Final = 2

LINE_FEED: Final = 0x0A
QUOTE: Final = 0x22
COMMA: Final = 0x2C
MINUS: Final = 0x2D
POINT: Final = 0x2E
ZERO: Final = 0x30
COLON: Final = 0x3A
ARRAY: Final = 0x5B
ARRAY_END: Final = 0x5D
OBJECT: Final = 0x7B
OBJECT_END: Final = 0x7D
LETTER_F: Final = 0x66
LETTER_N: Final = 0x6E
LETTER_T: Final = 0x74

START: Final = 0
LENGTH: Final = 1
KEY: Final = 2
BITS: Final = 3
"""What is remembered of the key at a place of a line: where it is written with its colon, which it is, its bytes' bits."""

REMEMBERED: Final = 4
PLACES: Final = 64

WORD: Final = 8
DIGITS: Final = 18
"""Integers of up to 18 digits fit into 64 bits whatever they are."""
NUMBER_BYTES: Final = 24
"""A longer number of an unwanted key might be one that no double holds."""
DEPTH: Final = 32
INLINE: Final = 12
"""Bytes of a text that an Arrow string view holds itself; of a longer one it has the first four and the place."""
ODD: Final = -1
"""Instead of a position: the line is not plain."""


def _bytes(byte: int) -> np.uint64:
    return np.uint64(int.from_bytes(bytes([byte]) * 8, "little"))


ONE: Final = np.uint64(1)
SEVEN: Final = np.uint64(7)
TOP: Final = np.uint64(56)
ONES: Final = _bytes(0x01)
BLANKS: Final = _bytes(0x20)
QUOTES: Final = _bytes(QUOTE)
BACKSLASHES: Final = _bytes(0x5C)
DELETES: Final = _bytes(0x7F)
ZEROS: Final = _bytes(ZERO)
HIGH: Final = _bytes(0x80)
ABOVE_NINE: Final = _bytes(0x76)
PAIRS: Final = np.uint64(0x000000FF000000FF)
INDEX: Final = np.uint64(0x0001020304050607)
HALF: Final = np.uint64(32)
KEEP: Final = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
"""By number of bytes: what keeps so many of a word."""
TENS: Final = np.array([10**n for n in range(9)])

PLAIN: Final = np.array([0x20 <= c != 0x7F and c not in b'"\\' for c in range(256)])
"""The bytes that a plain text may hold, UTF-8 yet to be checked."""


@compiled
def feeds(data: Octets) -> int:
    """How many line feeds there are."""
    count = 0
    for octet in data:
        count += octet == LINE_FEED
    return count


@compiled
def scan(
    data: Octets,
    words: Words,
    size: int,
    longest: int,
    names: Words,
    name_ends: Int64s,
    kinds: Int64s,
    slots: Int64s,
    required: Mask,
    seen: Int64s,
    usual: Int64s,
    begins: Int64s,
    numbers: Int64s,
    rest: Int64s,
    integers: Int64s,
    known: Mask,
    views: Words,
) -> tuple[int, int]:
    """Reads all lines; returns how many are plain and how many, blank ones aside, are not.

    `data` and `words` hold the payload, of `size` bytes, and at least 16 bytes more: `words` the word at each place.
    The wanted keys are `names`, end to end; each has a kind, is required or not, and fills the row `slots` of
    `integers` (shape: columns, lines) or of `views` (texts; columns, lines, 2: Arrow string views into `data`); row k
    of `known` says where key k has a value. `begins` gets the start of every line and the end of the last one,
    `numbers` and `rest` the numbers, from 0, of the plain lines and of the others. Lines of more than `longest` bytes
    are not plain. For each key `seen` holds the last line that had it, -1 at first; for each place in a line `usual`
    what key came there, zeros at first.
    """
    at = line = rows = others = 0
    while at < size:
        begins[line] = at
        end = _line(
            data, words, at, line, rows, names, name_ends, kinds, slots, required, seen, usual, integers, known, views
        )  # fmt: skip
        if end < 0:
            end = at
            while data[end] != LINE_FEED:
                end += 1
        elif end - at <= longest:
            numbers[rows] = line
            rows += 1
            at, line = end + 1, line + 1
            continue
        if end - at > longest or data[_blanks(data, at)] != LINE_FEED:
            rest[others] = line
            others += 1
        at, line = end + 1, line + 1
    begins[line] = at
    return rows, others


@compiled
def _line(
    data: Octets,
    words: Words,
    at: int,
    line: int,
    row: int,
    names: Words,
    name_ends: Int64s,
    kinds: Int64s,
    slots: Int64s,
    required: Mask,
    seen: Int64s,
    usual: Int64s,
    integers: Int64s,
    known: Mask,
    views: Words,
) -> int:
    """Reads one line into `row` of the columns; returns where its line feed is, or ODD."""
    begin, high, place = at, 0, 0
    for key in range(len(kinds)):
        known[key, row] = False
    for slot in range(len(views)):
        views[slot, row, 0] = views[slot, row, 1] = 0
    at = _blanks(data, at)
    if data[at] != OBJECT:
        return ODD
    at = _blanks(data, at + 1)
    if data[at] == OBJECT_END:
        return ODD
    while True:
        # Lines of a file are alike: most often the very bytes are here that were the last time.
        key, length = usual[place, KEY], usual[place, LENGTH]
        if length and _same(words, at, words, usual[place, START], length):
            at += length
            high |= usual[place, BITS]
        else:
            if data[at] != QUOTE:
                return ODD
            first = at + 1
            at, bits = _text(data, words, first)
            if at < 0:
                return ODD
            high |= bits
            key = _key(words, first, at - 1 - first, names, name_ends)
            at = _blanks(data, at)
            if data[at] != COLON:
                return ODD
            at = _blanks(data, at + 1)
            usual[place, START], usual[place, LENGTH] = first - 1, at - first + 1
            usual[place, KEY], usual[place, BITS] = key, bits
        place = min(place + 1, PLACES - 1)
        if key < 0:
            at, bits = _skip(data, words, at)
            if at < 0:
                return ODD
            high |= bits
        else:
            if seen[key] == line:
                return ODD
            seen[key] = line
            slot, kind, c = slots[key], kinds[key], data[at]
            if kind == TEXT and c == QUOTE:
                first = at + 1
                at, bits = _text(data, words, first)
                if at < 0:
                    return ODD
                high |= bits
                _view(words, first, at - 1 - first, views, slot, row)
                known[key, row] = True
            elif c == LETTER_N:
                at = _literal(data, at)
                if at < 0 or required[key]:
                    return ODD
            elif kind != TEXT and (c == MINUS or ZERO <= c < COLON):
                value, at = _integer(data, words, at)
                if at < 0 or (kind == FLAG and (value >> 1 or c == MINUS)):
                    return ODD
                integers[slot, row] = value
                known[key, row] = True
            elif kind == FLAG:
                at = _literal(data, at)
                if at < 0:
                    return ODD
                integers[slot, row] = c == LETTER_T
                known[key, row] = True
            else:
                return ODD
        at = _blanks(data, at)
        if data[at] == COMMA:
            at = _blanks(data, at + 1)
        elif data[at] == OBJECT_END:
            break
        else:
            return ODD
    at = _blanks(data, at + 1)
    if data[at] != LINE_FEED or (high & 0x80 and not _is_utf8(data, begin, at)):
        return ODD
    for key in range(len(required)):
        if required[key] and seen[key] != line:
            return ODD
    return at


@compiled
def _blanks(data: Octets, at: int) -> int:
    """The first place from `at` on that is no blank."""
    while data[at] == 0x20 or data[at] == 0x09 or data[at] == 0x0D:
        at += 1
    return at


@compiled
def _text(data: Octets, words: Words, at: int) -> tuple[int, int]:
    """Where the text that begins at `at` ends, behind its quote, or ODD; and the bits that its bytes have."""
    while True:
        word = words[at]
        # The lowest byte that a term marks is one indeed: only bytes above it can suffer from its borrow.
        odd = (
            (word ^ QUOTES) - ONES | (word ^ BACKSLASHES) - ONES | (word ^ DELETES) - ONES | word - BLANKS | word
        ) & HIGH
        if odd:
            break
        at += 8
    at += _first(odd)
    bits = 0
    while PLAIN[data[at]]:
        bits |= data[at]
        at += 1
    return (at + 1 if data[at] == QUOTE else ODD), bits


@compiled
def _first(marks: np.uint64) -> int:
    """Which byte of a word is the first whose highest bit is set; one is."""
    return int(np.int64(((marks & (~marks + ONE)) >> SEVEN) * INDEX >> TOP))


@compiled
def _key(words: Words, first: int, length: int, names: Words, name_ends: Int64s) -> int:
    """Which wanted key the text is, -1 for none."""
    begin = 0
    for key in range(len(name_ends)):
        if name_ends[key] - begin == length and _same(words, first, names, begin, length):
            return key
        begin = name_ends[key]
    return -1


@compiled
def _same(words: Words, at: int, others: Words, other: int, length: int) -> bool:
    """Whether two pieces of so many bytes, one or more, are the same."""
    while length > WORD:
        if words[at] != others[other]:
            return False
        at, other, length = at + WORD, other + WORD, length - WORD
    return not (words[at] ^ others[other]) & KEEP[length]


@compiled
def _digits(words: Words, at: int) -> tuple[int, int]:
    """How many of the eight bytes from `at` on are digits before any other byte, and the number that they write."""
    digits = words[at] ^ ZEROS
    others = (digits + ABOVE_NINE | digits) & HIGH
    count = _first(others) if others else 8
    if count == 0:
        return 0, 0
    word = digits << np.uint64(64 - 8 * count)
    word = word * np.uint64(10) + (word >> np.uint64(8))
    high = (word & PAIRS) * np.uint64(100 + (1_000_000 << 32))
    low = ((word >> np.uint64(16)) & PAIRS) * np.uint64(1 + (10_000 << 32))
    return count, int(np.int64((high + low) >> np.uint64(32)))


@compiled
def _integer(data: Octets, words: Words, at: int) -> tuple[int, int]:
    """The integer at `at` and the place behind it, or ODD; what follows it there is the caller's to check."""
    negative = data[at] == MINUS
    at += negative
    first = at
    count, value = _digits(words, at)
    at += count
    while count == 8 and at - first <= DIGITS:
        count, more = _digits(words, at)
        at += count
        value = value * int(TENS[count]) + more
    digits = at - first
    if digits == 0 or digits > DIGITS or (digits > 1 and data[first] == ZERO):
        return 0, ODD
    return -value if negative else value, at


@compiled
def _number(data: Octets, at: int) -> int:
    """The place behind a number without exponent, or ODD."""
    begin = at
    at += data[at] == MINUS
    first = at
    while ZERO <= data[at] < COLON:
        at += 1
    if at == first or (at > first + 1 and data[first] == ZERO):
        return ODD
    if data[at] == POINT:
        at += 1
        first = at
        while ZERO <= data[at] < COLON:
            at += 1
        if at == first:
            return ODD
    return at if at - begin <= NUMBER_BYTES else ODD


@compiled
def _literal(data: Octets, at: int) -> int:
    """The place behind `true`, `false` or `null`, or ODD."""
    c = data[at]
    if c == LETTER_T and data[at + 1] == 0x72 and data[at + 2] == 0x75 and data[at + 3] == 0x65:
        return at + 4
    if c == LETTER_N and data[at + 1] == 0x75 and data[at + 2] == 0x6C and data[at + 3] == 0x6C:
        return at + 4
    if (
        c == LETTER_F
        and data[at + 1] == 0x61
        and data[at + 2] == 0x6C
        and data[at + 3] == 0x73
        and data[at + 4] == 0x65
    ):
        return at + 5
    return ODD


@compiled
def _skip(data: Octets, words: Words, at: int) -> tuple[int, int]:
    """The place behind any value, or ODD; and the bits of the bytes of its texts. `arrays` has a bit for each level
    that is open: 1 for an array, 0 for an object."""
    depth = arrays = high = 0
    while True:
        # A value begins here, an object's behind its key.
        c = data[at]
        if c in (OBJECT, ARRAY):
            depth += 1
            if depth >= DEPTH:
                return ODD, high
            arrays = (arrays << 1) | (c == ARRAY)
            at = _blanks(data, at + 1)
            if data[at] != (ARRAY_END if c == ARRAY else OBJECT_END):
                if c == ARRAY:
                    continue
                at, bits = _member(data, words, at)
                if at < 0:
                    return ODD, high
                high |= bits
                continue
        elif c == QUOTE:
            at, bits = _text(data, words, at + 1)
            high |= bits
        elif c == MINUS or ZERO <= c < COLON:
            at = _number(data, at)
        else:
            at = _literal(data, at)
        if at < 0:
            return ODD, high
        # Behind a value, or at the end of an empty object or array.
        while depth:
            at = _blanks(data, at)
            if data[at] == (ARRAY_END if arrays & 1 else OBJECT_END):
                depth, arrays, at = depth - 1, arrays >> 1, at + 1
                continue
            if data[at] != COMMA:
                return ODD, high
            at = _blanks(data, at + 1)
            if not arrays & 1:
                at, bits = _member(data, words, at)
                if at < 0:
                    return ODD, high
                high |= bits
            break
        else:
            return at, high


@compiled
def _member(data: Octets, words: Words, at: int) -> tuple[int, int]:
    """The place behind a key and its colon, or ODD; and the bits of its bytes."""
    if data[at] != QUOTE:
        return ODD, 0
    at, bits = _text(data, words, at + 1)
    if at < 0:
        return ODD, 0
    at = _blanks(data, at)
    return (_blanks(data, at + 1) if data[at] == COLON else ODD), bits


@compiled
def _view(words: Words, first: int, length: int, views: Words, slot: int, row: int) -> None:
    """Writes the Arrow string view of a text."""
    low, size = words[first], np.uint64(length)
    if length <= INLINE:
        head = low & KEEP[min(length, 4)]
        views[slot, row, 1] = words[first + 4] & KEEP[max(length - 4, 0)]
    else:
        head = low & KEEP[4]
        views[slot, row, 1] = np.uint64(first) << HALF
    views[slot, row, 0] = size | head << HALF


@compiled
def _is_utf8(data: Octets, at: int, end: int) -> bool:
    """Whether [at, end) is UTF-8 (RFC 3629: shortest form, no surrogates, up to U+10FFFF); a line feed follows it."""
    while at < end:
        c = data[at]
        at += 1
        if c < 0x80:
            continue
        if 0xC2 <= c < 0xE0:
            more, low, high = 1, 0x80, 0xBF
        elif 0xE0 <= c < 0xF0:
            more, low, high = 2, 0xA0 if c == 0xE0 else 0x80, 0x9F if c == 0xED else 0xBF
        elif 0xF0 <= c < 0xF5:
            more, low, high = 3, 0x90 if c == 0xF0 else 0x80, 0x8F if c == 0xF4 else 0xBF
        else:
            return False
        for _ in range(more):
            if not low <= data[at] <= high:
                return False
            low, high = 0x80, 0xBF
            at += 1
    return True
