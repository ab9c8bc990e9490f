"""Files opened for reading, decompressed by their first bytes (gzip, zstd), not by their name."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO, Final, cast

import zstandard

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"


def opened(path: Path) -> BinaryIO:
    """The decompressed bytes of a file; the caller closes it."""
    file = path.open("rb")
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if magic == ZSTD:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
        return cast(BinaryIO, io.BufferedReader(reader))
    return file
