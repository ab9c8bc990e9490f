"""`event_id`: a 64-bit hash of an event's dedup key (rule 3), the same in every run, version, process and block cut."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.streams import Stream

Words = npt.NDArray[np.uint64]

SEED: Final = np.uint64(0x9E3779B97F4A7C15)
NULL: Final = np.uint64(0xD6E8FEB86659FD93)
"""Stands for a missing value: no value of a nullable column is likely to hash to it."""
MUL_A: Final = np.uint64(0xBF58476D1CE4E5B9)
MUL_B: Final = np.uint64(0x94D049BB133111EB)
WORD: Final = 8
CHUNK: Final = 1 << 14
"""Events mixed at a time: small enough for the processor's cache."""
LONGEST_WHOLE: Final = 64
"""Up to this many bytes every text is padded to the same length; longer ones are hashed apart, so that one long text
does not make every other one of its block as wide."""


def event_ids(frame: pl.DataFrame, stream: Stream) -> pl.Series:
    """The ids of the events of `frame`, as UInt64 in its order; zeros where the stream has no dedup key.

    The key's columns are those that `stream.dedup` names, in that order; `t` is the event time, the name of the
    stream's place column is the frame's `place`. No key hashes to 0, which says "no key". Raises LookupError when the
    frame lacks a column of the key.
    """
    if stream.dedup is None:
        return pl.zeros(frame.height, dtype=pl.UInt64, eager=True).alias("id")
    hashed = np.full(frame.height, SEED, dtype=np.uint64)
    for name in stream.dedup:
        column = "place" if name == stream.place else name
        if column not in frame.columns:
            raise LookupError(
                f"the dedup key of stream {stream.name!r} needs column {column!r}; "
                f"the frame has {', '.join(frame.columns)}"
            )
        hashed *= MUL_B
        hashed ^= _values(frame[column])
    for start in range(0, len(hashed), CHUNK):
        _mix(hashed[start : start + CHUNK])
    hashed[hashed == 0] = SEED
    return pl.Series("id", hashed)


def _mix(x: Words) -> None:
    """The finalizer of splitmix64, in place: every bit of the input changes half of the output's."""
    x ^= x >> np.uint64(30)
    x *= MUL_A
    x ^= x >> np.uint64(27)
    x *= MUL_B
    x ^= x >> np.uint64(31)


def _values(column: pl.Series) -> Words:
    """One word per value: texts hashed; integers multiplied, so that near ones are far apart in all bits."""
    nulls = column.is_null().to_numpy() if column.null_count() else None
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        values = _coded(column)
    elif column.dtype == pl.String:
        values = _texts(column if nulls is None else column.fill_null(""))
    elif column.dtype.is_integer() or column.dtype == pl.Boolean:
        values = column.fill_null(0).cast(pl.Int64).to_numpy().view(np.uint64) * MUL_A
    else:
        raise TypeError(f"column {column.name!r} of a dedup key is {column.dtype}; allowed are integers and texts")
    return values if nulls is None else np.where(nulls, NULL, values)


def _coded(column: pl.Series) -> Words:
    """Hashes each distinct text once; what a null gets does not matter."""
    codes = column.to_physical().fill_null(0).to_numpy()
    rows = np.flatnonzero(column.is_not_null().to_numpy()) if column.null_count() else np.arange(len(codes))
    if not len(rows):
        return np.zeros(len(codes), dtype=np.uint64)
    first = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
    first[codes[rows]] = rows
    used = np.flatnonzero(first >= 0)
    words = np.zeros(len(first), dtype=np.uint64)
    words[used] = _texts(column.gather(first[used]).cast(pl.String))
    values: Words = words[codes]
    return values


def _texts(texts: pl.Series) -> Words:
    """Hashes the UTF-8 bytes of texts without nulls, eight at a time, and their number."""
    lengths = texts.str.len_bytes()
    longest = int(lengths.max() or 0)  # type: ignore[arg-type]
    if longest <= LONGEST_WHOLE:
        return _padded(texts, lengths, longest)
    out = np.zeros(len(texts), dtype=np.uint64)
    short = lengths <= LONGEST_WHOLE
    for mask in (short, ~short):
        chosen = texts.filter(mask)
        if len(chosen):
            own = lengths.filter(mask)
            out[mask.to_numpy()] = _padded(chosen, own, int(own.max()))  # type: ignore[arg-type]
    return out


def _padded(texts: pl.Series, lengths: pl.Series, longest: int) -> Words:
    count = lengths.to_numpy().astype(np.uint64)
    shortest = int(count.min(initial=longest))
    hashed: Words = count ^ SEED
    _mix(hashed)
    whole = -(-longest // WORD) * WORD
    raw = (texts + "\0" * whole).cast(pl.Binary)
    for start in range(0, whole, WORD):
        word = raw.bin.slice(start, WORD).bin.reinterpret(dtype=pl.UInt64, endianness="little").to_numpy()
        mixed = (hashed * MUL_B) ^ word
        _mix(mixed)
        # The words beyond a text's end must not count: how many there are depends on the longest of the block.
        if start < shortest:
            hashed = mixed
        else:
            np.copyto(hashed, mixed, where=count > start)
    return hashed
