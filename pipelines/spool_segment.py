"""Segment files of a spool: what stands in them byte by byte, and how damage is told from a torn tail.

A file `<first record number>.spool` begins with two sectors of 512 bytes, each closed by its CRC32: the head (magic,
version, first record number, names of input and stream) never changes; the mark holds how many bytes of the file are
known to be durable and is written after each fsync. Then the batches follow, each a fixed header with a CRC32 of its
own and a body with another one: answer, events, dead letters. Integers are little-endian.

Everything before the mark was acknowledged, so whatever is wrong there is damage and is never repaired silently; what
lies behind it in the last file is an append that nobody was told of, and may be cut off.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson
import polars as pl

from pipelines import syncing
from pipelines.model import DeadLetter, Decoded

SUFFIX: Final = ".spool"
LOST: Final = ".lost"
"""Suffix that an operator gives to a damaged file, to go on without its records."""
SECTOR: Final = 512
START: Final = 2 * SECTOR
"""Where the batches begin."""
_HEAD: Final = struct.Struct("<8sQH")
_MAGIC: Final = b"cbspool\x01"
_BATCH: Final = struct.Struct("<4sIIQIqIII")
_TAG: Final = b"CBR1"
_COVERED: Final = 8  # the header's CRC covers what follows tag and CRC


class SpoolDamaged(Exception):
    """Acknowledged records cannot be read. Names file, byte offset and what to do; nothing was changed."""

    def __init__(self, path: Path, offset: int, why: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset}: {why}. Acknowledged records are in it: put back the file from a "
            f"backup; or, to go on without its records, rename it to {path.stem}{LOST}"
        )
        self.path, self.offset = path, offset


class _Unreadable(Exception):
    """No whole batch at an offset; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sender was told under an idempotency key; `digest` is the hash of what it had sent."""

    key: str
    digest: str
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A file as far as it is durable: records [first, end) in its first `length` bytes."""

    path: Path
    first: int
    end: int
    length: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch before it has its record number: `body` and the sizes of its three parts."""

    count: int
    arrival: int
    sizes: tuple[int, int, int]
    body: bytes

    def header(self, first: int) -> bytes:
        rest = _BATCH.pack(_TAG, 0, zlib.crc32(self.body), first, self.count, self.arrival, *self.sizes)[_COVERED:]
        return _TAG + struct.pack("<I", zlib.crc32(rest)) + rest


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a batch at `offset` of its file."""

    offset: int
    crc: int
    first: int
    count: int
    arrival: int
    sizes: tuple[int, int, int]

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def next(self) -> int:
        """The offset behind the batch."""
        return self.offset + _BATCH.size + sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Batch:
    """One appended batch: records [first, end), all with the same arrival (UTC ms)."""

    first: int
    end: int
    arrival: int
    answer: Answer | None
    events: pl.DataFrame
    """As `Decoded.events`, but with record numbers from 1 and places as String."""
    refused: tuple[DeadLetter, ...]


def packed(decoded: Decoded, arrival: int, answer: Answer | None) -> Packed:
    """The bytes of a batch whose records were decoded with numbers from 1."""
    told = b"" if answer is None else orjson.dumps([answer.key, answer.digest, answer.status, answer.body])
    # Sites as plain text: a dictionary would be written whole with every batch.
    frame = decoded.events.with_columns(pl.col("place").cast(pl.String))
    out = io.BytesIO()
    frame.write_ipc_stream(out, compression="lz4")
    events = out.getvalue()
    letters = orjson.dumps([[x.position, x.reason, x.detail, x.payload, x.kind] for x in decoded.refused])
    sizes = (len(told), len(events), len(letters))
    return Packed(decoded.next_position - 1, arrival, sizes, b"".join((told, events, letters)))


def unpacked(header: Header, body: bytes, source: str, stream: str) -> Batch:
    """A batch as it was packed; only its dead letters have the numbers of the spool."""
    before, (told, events, _) = header.first - 1, header.sizes
    frame = pl.read_ipc_stream(io.BytesIO(body[told : told + events]))
    letters = tuple(
        DeadLetter(source, _moved(position, before), stream, reason, detail, payload, kind, header.arrival)
        for position, reason, detail, payload, kind in orjson.loads(body[told + events :])
    )
    return Batch(header.first, header.end, header.arrival, _answer(body[:told]), frame, letters)


def _moved(position: str, by: int) -> str:
    record, colon, index = position.partition(":")
    return f"{int(record) + by}{colon}{index}"


def _answer(told: bytes) -> Answer | None:
    return Answer(*orjson.loads(told)) if told else None


# Files ---------------------------------------------------------------------------------------------------------------


def sync(fd: int) -> None:
    """Returns when what was written is durable."""
    os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)


def write(fd: int, offset: int, parts: Sequence[bytes]) -> int:
    """Writes at an offset, all of it or OSError; returns the offset behind it."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            done = os.pwrite(fd, rest, offset)
            offset, rest = offset + done, rest[done:]
    return offset


def _sector(content: bytes) -> bytes:
    padded = content.ljust(SECTOR - 4, b"\0")
    return padded + struct.pack("<I", zlib.crc32(padded))


def write_mark(fd: int, length: int) -> None:
    """Notes that the first `length` bytes are durable."""
    write(fd, SECTOR, [_sector(struct.pack("<Q", length))])


def create(folder: Path, source: str, stream: str, first: int) -> Segment:
    """A new file without batches, durable together with its name."""
    names = orjson.dumps([source, stream])
    head = _HEAD.pack(_MAGIC, first, len(names)) + names
    if len(head) > SECTOR - 4:
        raise ValueError(f"the names {source!r} and {stream!r} are too long for a spool; 480 bytes are allowed")
    path = folder / f"{first:020d}{SUFFIX}"
    made = path.with_suffix(".new")
    try:
        fd = os.open(made, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
        try:
            write(fd, 0, [_sector(head), _sector(struct.pack("<Q", START))])
            sync(fd)
        finally:
            os.close(fd)
        made.rename(path)
        syncing.synced(folder)
    except OSError:
        # A file that is there but unknown to the spool would stand for records that get written elsewhere.
        made.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return Segment(path, first, first, START)


def read_segment(path: Path, fd: int, source: str, stream: str) -> tuple[int, int]:
    """The first record number and the mark of a file; SpoolDamaged where its first two sectors are not what they were."""
    head, mark = os.pread(fd, SECTOR, 0), os.pread(fd, SECTOR, SECTOR)
    if len(head) < SECTOR or _sector(head[:-4]) != head or not head.startswith(_MAGIC[:-1]):
        raise SpoolDamaged(path, 0, "this is not the head of a spool file, or it was changed")
    if not head.startswith(_MAGIC):
        raise SpoolDamaged(path, 0, f"it was written by another version (format {head[7]}, this one reads {_MAGIC[7]})")
    _, first, size = _HEAD.unpack_from(head)
    names = orjson.loads(head[_HEAD.size : _HEAD.size + size])
    if names != [source, stream] or path.stem != f"{first:020d}":
        raise SpoolDamaged(
            path, 0, f"it holds {names[1]!r} of input {names[0]!r} from record {first}; it was moved or renamed"
        )
    if len(mark) < SECTOR or _sector(mark[:-4]) != mark:
        raise SpoolDamaged(path, SECTOR, "the mark of what is durable was changed")
    return first, int.from_bytes(mark[:8], "little")


def _header(fd: int, offset: int, size: int) -> Header:
    raw = os.pread(fd, _BATCH.size, offset)
    if len(raw) < _BATCH.size:
        raise _Unreadable("the file ends within the header of a batch")
    tag, crc, body, first, count, arrival, *sizes = _BATCH.unpack(raw)
    if tag != _TAG or zlib.crc32(raw[_COVERED:]) != crc:
        raise _Unreadable("the header of a batch does not have its checksum")
    header = Header(offset, body, first, count, arrival, (sizes[0], sizes[1], sizes[2]))
    if header.next > size:
        raise _Unreadable(f"the file ends at byte {size}, the batch at {header.next}")
    return header


def read_header(path: Path, fd: int, offset: int, size: int) -> Header:
    """The header of the durable batch at `offset` of the first `size` bytes."""
    try:
        return _header(fd, offset, size)
    except _Unreadable as error:
        raise SpoolDamaged(path, offset, str(error)) from None


def read_body(path: Path, fd: int, header: Header) -> bytes:
    body = os.pread(fd, sum(header.sizes), header.offset + _BATCH.size)
    if zlib.crc32(body) != header.crc or len(body) < sum(header.sizes):
        raise SpoolDamaged(path, header.offset, f"the batch from record {header.first} does not have its checksum")
    return body


def recovered(segment: Segment, fd: int, mark: int, last: bool) -> Iterator[tuple[Segment, int, Answer | None]]:
    """The file after each of its batches, all checked, with the batch's arrival and answer.

    Ends before what was not acknowledged in the last file; SpoolDamaged for all else that is wrong.
    """
    size = os.fstat(fd).st_size
    while segment.length < size:
        try:
            header = _header(fd, segment.length, size)
            if header.first != segment.end:
                raise _Unreadable(f"the batch begins with record {header.first}, not with {segment.end}")
            body = read_body(segment.path, fd, header)
        except (_Unreadable, SpoolDamaged) as error:
            if last and segment.length >= mark:
                return
            if isinstance(error, SpoolDamaged):
                raise
            raise SpoolDamaged(segment.path, segment.length, str(error)) from None
        segment = replace(segment, end=header.end, length=header.next)
        yield segment, header.arrival, _answer(body[: header.sizes[0]])
    if segment.length < mark:
        raise SpoolDamaged(segment.path, segment.length, f"the file ends here; {mark} bytes of it were acknowledged")
