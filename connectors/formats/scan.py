"""Many short pieces of one byte buffer at once: gathered as 64-bit words, read as numbers, texts or literals.

The vectorised NDJSON decoder knows where the values of a block lie; this module turns those places into columns
without a Python object per value. Words are little-endian: the first character of a word is its lowest byte.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

if sys.byteorder != "little":
    raise ImportError("citybrain reads numbers as little-endian words; this machine is big-endian")

Int64s = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

PAD: Final = 320
"""Bytes before and after the payload, so that a window at any place of interest lies inside the buffer."""
WIDEST: Final = PAD - 64
"""The longest piece that may be compared."""
DIGITS: Final = 18
"""Integers of up to 18 digits fit into 64 bits whatever they are; longer ones are left to the reference decoder."""
NUMBER_BYTES: Final = 24


def _word(byte: int) -> np.uint64:
    return np.uint64(int.from_bytes(bytes([byte]) * 8, "little"))


ZEROS: Final = _word(0x30)
HIGH: Final = _word(0x80)
SEVEN: Final = _word(0x7F)
ABOVE_NINE: Final = _word(0x76)
DOTS: Final = _word(0x30 ^ 0x2E)
PAIRS: Final = np.uint64(0x000000FF000000FF)
TRUE, FALSE, NULL = (np.uint64(int.from_bytes(w.rjust(8, b"\0"), "little")) for w in (b"true", b"false", b"null"))
KEEP_LAST: Final[dict[int, Words]] = {
    k: np.array(
        [[int.from_bytes((b"\xff" * n).rjust(8 * k, b"\0")[8 * j : 8 * j + 8], "little") for j in range(k)]
         for n in range(8 * k + 1)],
        dtype=np.uint64,
    )
    for k in (1, 2, 3)
}  # fmt: skip
"""By number of words and of bytes n: what keeps the last n bytes."""
SMALLEST: Final = np.array([2**62, 0] + [10 ** (n - 1) for n in range(2, DIGITS + 1)], dtype=np.int64)
"""By number of digits: the smallest integer written with so many, which refuses leading zeros and no digit at all."""
INLINE: Final = 12
KEEP_TEXT: Final = np.array(
    [[int.from_bytes((b"\0" * 4 + b"\xff" * n).ljust(16, b"\0")[8 * j : 8 * j + 8], "little") for j in (0, 1)]
     for n in range(INLINE + 1)],
    dtype=np.uint64,
)  # fmt: skip
PREFIX: Final = np.uint64(0xFFFFFFFF00000000)


class Buffer:
    """The bytes of a block between two pads. Positions count from the start of the first pad."""

    __slots__ = ("backslash", "bytes", "octets", "size")

    def __init__(self, payload: bytes) -> None:
        self.bytes = b"".join((b"\n" * PAD, payload, b"\n" * PAD))
        self.octets: npt.NDArray[np.uint8] = np.frombuffer(self.bytes, np.uint8)
        self.size = len(payload)
        self.backslash = b"\\" in payload

    def words(self, at: Int64s, count: int) -> Words:
        """`count` words from each position of `at`: shape (len(at), count)."""
        width = 8 * count
        windows: npt.NDArray[Any] = np.ndarray((len(self.bytes) - width + 1,), f"V{width}", self.bytes, 0, (1,))
        return windows[at].view("<u8").reshape(len(at), count)

    def differs(self, at: Int64s, words: tuple[np.uint64, ...], keep: np.uint64) -> Words:
        """Zero where the bytes from `at` are those of `words`, of the last of which only `keep` counts."""
        count = len(words)
        found = self.words(at, count)
        out: Words = (found[:, count - 1] ^ words[-1]) & keep
        for j in range(count - 1):
            out |= found[:, j] ^ words[j]
        return out


def packed(piece: bytes) -> tuple[tuple[np.uint64, ...], np.uint64]:
    """Bytes as words and as much of the last word as they fill, for `Buffer.differs`."""
    size = -(-len(piece) // 8) * 8
    filled = np.frombuffer((b"\xff" * len(piece)).ljust(size, b"\0"), "<u8")
    return tuple(np.frombuffer(piece.ljust(size, b"\0"), "<u8")), filled[-1]


def _last(buffer: Buffer, end: Int64s, length: Int64s) -> tuple[Words, Words, int]:
    """The words that end at `end`, what of them belongs to the value, and how many words there are."""
    longest = int(length.max(initial=0))
    count = 1 if longest <= 8 else 2 if longest <= 16 else 3
    keep = KEEP_LAST[count]
    alike = 0 < longest <= 8 * count and int(length.min()) == longest
    masks = keep[longest : longest + 1] if alike else keep.take(length, axis=0, mode="clip")
    return buffer.words(end - 8 * count, count), masks, count


def _value(word: Words) -> Words:
    """Eight decimal digits (bytes 0 to 9, the first digit lowest) as a number."""
    word = word * np.uint64(10) + (word >> np.uint64(8))
    high = (word & PAIRS) * np.uint64(100 + (1_000_000 << 32))
    low = ((word >> np.uint64(16)) & PAIRS) * np.uint64(1 + (10_000 << 32))
    return (high + low) >> np.uint64(32)


def naturals(buffer: Buffer, start: Int64s, end: Int64s) -> tuple[Int64s, Mask]:
    """Values of `[0-9]+` without leading zeros and at most `DIGITS` digits; false where it is anything else."""
    length = end - start
    words, masks, count = _last(buffer, end, length)
    digits = (words ^ ZEROS) & masks
    odd = ((digits + ABOVE_NINE) | digits) & HIGH
    bad, value = odd[:, 0], _value(digits[:, 0])
    for j in range(1, count):
        bad = bad | odd[:, j]
        value = value * np.uint64(100_000_000) + _value(digits[:, j])
    out: Int64s = value.view(np.int64)
    return out, (bad == 0) & (length <= DIGITS) & (out >= SMALLEST.take(length, mode="clip"))


def integers(buffer: Buffer, start: Int64s, end: Int64s) -> tuple[Int64s, Mask, Mask]:
    """Values of `-?[0-9]+` or `null`: the values (0 for null), what is a value, what is a value or null."""
    value, good = naturals(buffer, start, end)
    if good.all():
        return value, good, good
    rest = np.flatnonzero(~good)
    start, end = start[rest], end[rest]
    minus = buffer.octets.take(start, mode="clip") == 0x2D
    below, whole = naturals(buffer, start + 1, end)
    value[rest] = np.where(minus & whole, -below, 0)
    good[rest] = minus & whole
    either = good.copy()
    either[rest] |= literals(buffer, start, end)[0]
    return value, good, either


def literals(buffer: Buffer, start: Int64s, end: Int64s) -> tuple[Mask, Mask, Mask]:
    """Where the value is `null`, `true`, `false`."""
    length = end - start
    word = buffer.words(end - 8, 1)[:, 0] & KEEP_LAST[1].take(length, axis=0, mode="clip")[:, 0]
    four = length == 4
    return four & (word == NULL), four & (word == TRUE), (length == 5) & (word == FALSE)


def flags(buffer: Buffer, start: Int64s, end: Int64s) -> tuple[Int64s, Mask, Mask]:
    """`true`, `false`, `0`, `1` or `null`: the values as 0 or 1, what is a value, what is a value or null."""
    null, true, false = literals(buffer, start, end)
    value, good = naturals(buffer, start, end)
    good &= value <= 1
    value = np.where(good, value, true.astype(np.int64))
    good = good | true | false
    return value, good, good | null


def scalars(buffer: Buffer, start: Int64s, end: Int64s) -> Mask:
    """Where the value is a JSON number without exponent of up to `NUMBER_BYTES` bytes, `true`, `false` or `null`."""
    first = buffer.words(start, 1)[:, 0]
    minus = (first & np.uint64(0xFF)) == 0x2D
    if minus.any():
        start = start + minus
        first = np.where(minus, first >> np.uint64(8), first)
    length = end - start
    words, masks, count = _last(buffer, end, length)
    digits = (words ^ ZEROS) & masks
    others = digits ^ DOTS
    dots = ~(((others & SEVEN) + SEVEN) | others | SEVEN)
    digits &= ~((dots >> np.uint64(7)) * np.uint64(0xFF))
    odd = ((digits + ABOVE_NINE) | digits) & HIGH
    many = dots & (dots - np.uint64(1))
    bad, found, several = odd[:, 0], (dots[:, 0] != 0).astype(np.int8), many[:, 0]
    for j in range(1, count):
        bad, several = bad | odd[:, j], several | many[:, j]
        found = found + (dots[:, j] != 0)
    lead, second = first & np.uint64(0xFF), (first >> np.uint64(8)) & np.uint64(0xFF)
    good: Mask = ((bad | several) == 0) & (found <= 1) & (length >= 1) & (length <= NUMBER_BYTES)
    good &= (lead != 0x2E) & ((dots[:, count - 1] >> np.uint64(63)) == 0)
    good &= (lead != 0x30) | (length == 1) | (second == 0x2E)
    if not good.all():
        null, true, false = literals(buffer, start, end)
        good |= ~minus & (null | true | false)
    return good


def texts(buffer: Buffer, start: Int64s, end: Int64s) -> Words:
    """Arrow string views of the texts: 16 bytes each, long ones as references into `buffer.bytes` (data buffer 0)."""
    length = end - start
    words = buffer.words(start - 4, 2)
    views: Words = words & KEEP_TEXT.take(length, axis=0, mode="clip")
    views[:, 0] |= length.view(np.uint64)
    long = np.flatnonzero(length > INLINE)
    if len(long):
        views[long, 0] = (words[long, 0] & PREFIX) | length[long].view(np.uint64)
        views[long, 1] = start[long].view(np.uint64) << np.uint64(32)
    return views
