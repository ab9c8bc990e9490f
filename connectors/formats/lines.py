"""Text files as blocks of whole lines, with every line's number kept and none longer than memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np

from connectors.formats import Block
from connectors.formats.scan import feeds

MAX_LINE: Final = 1 << 20
"""Bytes of a line without its end; a longer one is refused as `too_long`."""
BOM: Final = b"\xef\xbb\xbf"
SKIP: Final = 1 << 16


def count_lines(payload: bytes) -> int:
    """Lines of a block: its line feeds, and a last line that has none."""
    return feeds(np.frombuffer(payload, np.uint8)) + (bool(payload) and not payload.endswith(b"\n"))


def as_line(message: bytes | bytearray | None) -> bytes:
    """A message as a line without its end. Of one that is too long only so much is kept that its decoder sees that it is.

    A line feed inside it is white space of JSON and becomes a carriage return, which means the same there.
    """
    if not message:
        return b""
    return bytes(message[: MAX_LINE + 1]).replace(b"\n", b"\r")


def line_blocks(file: BinaryIO, size: int) -> Iterator[Block]:
    """Blocks of whole lines of about `size` bytes, in order; `first` is the number of the first line, from 1.

    Of a line of more than `MAX_LINE` bytes only so much is kept that its decoder sees that it is too long, so a file
    that is one endless line needs no more memory than any other.
    """
    first = 1
    while payload := file.read(size):
        if not payload.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
            payload += rest
            if len(rest) > MAX_LINE and not rest.endswith(b"\n"):
                while (skipped := file.readline(SKIP)) and not skipped.endswith(b"\n"):
                    pass
                payload += b"\n"
        yield Block(first, payload)
        first += count_lines(payload)
