"""Formats: how the bytes of a file become blocks of whole records, and a block becomes events.

One file a format (`ndjson.py`, `csv.py`, `parquet.py`). `connectors/files.py` reads blocks in order, decodes them on
several threads and hands the results on in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import polars as pl

from pipelines.model import Decoded


class FormatError(ValueError):
    """A file that is not what its format says; the text names what it is and what is wanted."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of whole records. `first` is the number of its first record (line of a text file, row of a Parquet file), from 1."""

    first: int
    payload: bytes | pl.DataFrame


class Format(Protocol):
    """How one file's bytes become events.

    Promises: `blocks` yields every record of the (already decompressed) file exactly once, in order, in blocks of
    about `size` bytes, and needs no more memory than a few blocks; `decode` is pure and may run on any thread; a bad
    record costs only itself (rule 12).
    """

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]: ...

    def decode(self, block: Block, source: str) -> Decoded:
        """`source` names the file in dead letters and is `Decoded.input`."""
        ...
