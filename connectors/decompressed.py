"""Plain, gzip and zstd files as one stream of bytes; a file that breaks off gives what can be read, and says so."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
CHUNK: Final = 1 << 13
"""Compressed bytes decompressed at a time: of zstd, what lies in the same chunk as damaged data is lost with them."""
AHEAD: Final = 1 << 18


class _Member(Protocol):
    """One gzip member or zstd frame while it is decompressed."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class Decompressed(io.RawIOBase):
    """The bytes of a file, decompressed by its first bytes and not by its name.

    Where the compressed data break off or are damaged the stream ends and `broken` says how; everything before the
    break was given. Raises OSError where the file itself cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.broken: str | None = None
        self._file = path.open("rb", buffering=0)
        self._given = 0
        self._ready = memoryview(b"")
        self._next = self._read()
        self._kind = self._next[:4] if self._next.startswith(ZSTD) else self._next[:2]
        self._member: _Member | None = None

    def _read(self) -> bytes:
        return self._file.read(CHUNK) or b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        if not self._ready:
            self._ready = memoryview(self._more())
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        self._given += size
        return size

    def _more(self) -> bytes:
        """The next decompressed bytes; empty at the end or break."""
        while self.broken is None:
            data = self._next
            if self._member is None:
                # Between members: nothing, or the zeros that tape blocks are filled with, ends the file.
                if not data.strip(b"\0"):
                    self._next = self._read()
                    if not self._next:
                        return b""
                    continue
                self._member = self._begin(data)
                continue
            if not data:
                self.broken = f"the compressed data break off after {self._given} bytes of content"
                return b""
            before = None if self._kind == ZSTD else copy(self._member)
            try:
                out = self._member.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                saved = b"" if before is None else _until_damage(before, data)
                given = self._given + len(saved)
                self.broken = f"the compressed data are damaged after {given} bytes of content ({error})"
                return saved
            if self._member.eof:
                rest = self._member.unused_data
                self._member = None
                self._next = rest or self._read()
            else:
                self._next = self._read()
            if out:
                return out
        return b""

    def _begin(self, data: bytes) -> _Member | None:
        """A decompressor for what begins here; None, and `broken`, where nothing known does."""
        if not data.startswith(self._kind):
            self.broken = f"after {self._given} bytes of content something follows that is not compressed like the rest"
            return None
        return zstandard.ZstdDecompressor().decompressobj() if self._kind == ZSTD else zlib.decompressobj(31)


def _until_damage(member: _Member, data: bytes) -> bytes:
    """What a chunk holds before the byte at which its data turn out to be damaged."""
    out = bytearray()
    with suppress(zlib.error):
        for k in range(len(data)):
            out += member.decompress(data[k : k + 1])
    return bytes(out)


def decompressed(path: Path) -> tuple[BinaryIO, Decompressed | None]:
    """The file's content, and for compressed files the stream that knows whether it broke off. Close the first one."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == ZSTD or magic.startswith(GZIP):
        stream = Decompressed(path)
        return io.BufferedReader(stream, AHEAD), stream
    return path.open("rb"), None
