"""The body of a push: decompressed within bounds, counted, decoded. Everything in it may be hostile."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Final, Protocol

import polars as pl
import pyarrow as pa
import zstandard

from connectors.formats import Block, FormatError
from connectors.formats.arrow import ArrowIpc
from connectors.formats.lines import count_lines
from connectors.formats.ndjson import Ndjson
from connectors.push_arrow import Bounded, refuse_unbounded
from pipelines.model import Decoded
from pipelines.problem import Problem
from pipelines.redact import redact
from pipelines.streams import Stream

MAX_BODY: Final = 8 << 20
MAX_CONTENT: Final = 64 << 20
MAX_RECORDS: Final = 50_000
ZSTD_WINDOW: Final = 8 << 20
MAX_FRAMES: Final = 1_000
CHUNK: Final = 64
"""Compressed bytes taken at a time: so few become at most about 2 MB."""
NDJSON: Final = "application/x-ndjson"
ARROW: Final = "application/vnd.apache.arrow.stream"
MEDIA_TYPES: Final = (NDJSON, ARROW)
BROKEN: Final = (
    pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, KeyError, TypeError,
    OverflowError, OSError,
)  # fmt: skip
"""What libraries raise over Arrow whose schema or buffers contradict themselves; fuzzing found each."""
ENCODINGS: Final = ("identity", "gzip", "zstd")


@dataclass(frozen=True, slots=True)
class Decoders:
    """The decoders of one stream's pushes; any thread may use them."""

    ndjson: Ndjson
    arrow: ArrowIpc

    @classmethod
    def of(cls, stream: Stream) -> Decoders:
        return cls(Ndjson(stream), ArrowIpc(stream))

    def decode(self, media: str, content: bytes, source: str) -> Decoded:
        """The records of a body, numbered from 1. Problem where there are too many or the body is no such thing."""
        if media == NDJSON:
            if (lines := count_lines(content)) > MAX_RECORDS:
                raise _too_many(lines)
            return self.ndjson.decode(Block(1, content), source)
        try:
            rows = refuse_unbounded(content, MAX_RECORDS)
            if rows > MAX_RECORDS:
                raise _too_many(rows)
            parts = [self.arrow.decode(b, source) for b in self.arrow.blocks(io.BytesIO(content), 1 << 40)]
        except Bounded as error:
            raise Problem(415, str(error)) from None
        except FormatError as error:
            raise Problem(422, redact(str(error)[:500])) from None
        except BROKEN:
            raise Problem(422, "the body is no Arrow IPC stream of this stream's columns") from None
        if not parts:
            return Decoded(source, self.arrow.stream.name, pl.DataFrame())
        # The size of a block is beyond any body, so there is one.
        return parts[0]


def _too_many(records: int) -> Problem:
    return Problem(413, f"the body has {records} records; at most {MAX_RECORDS} are allowed in a request")


class _Frame(Protocol):
    """One gzip member or zstd frame while it is decompressed."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def content_of(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding. Problem where it becomes more than `MAX_CONTENT` bytes, breaks off or is
    damaged; memory stays within a few MB of the bound."""
    if encoding == "identity":
        return body
    out = bytearray()  # pieces of their own would stay in the heap of the thread that freed them
    at = frames = 0
    try:
        while at < len(body):
            frames += 1
            if frames > MAX_FRAMES:
                raise Problem(413, f"the body has more than {MAX_FRAMES} {encoding} frames; send one")
            frame = _frame(encoding)
            while not frame.eof:
                if at >= len(body):
                    raise Problem(400, f"the {encoding} data of the body break off; send the whole body")
                out += frame.decompress(body[at : at + CHUNK])
                at += CHUNK
                if len(out) > MAX_CONTENT:
                    raise Problem(413, f"the body is more than {MAX_CONTENT} bytes when decompressed; send several")
            at = min(at, len(body)) - len(frame.unused_data)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Problem(400, f"the body is not {encoding} data, or they are damaged ({str(error)[:200]})") from None
    return bytes(out)


def _frame(encoding: str) -> _Frame:
    if encoding == "gzip":
        return zlib.decompressobj(31)
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
