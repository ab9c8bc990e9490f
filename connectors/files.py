"""Recorded files as sources: read in blocks by one thread, decoded by several, handed on in order.

The format (`connectors/formats`) says what a block is and how it is decoded; this file knows only order, threads and
bounds. Decoding releases the interpreter lock for most of its time, so threads help.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import polars as pl

from connectors.decompressed import Decompressed, decompressed
from connectors.formats import Block, Format, FormatError
from connectors.formats.decoded import dead_letter
from connectors.formats.lines import count_lines
from pipelines.model import Decoded
from pipelines.records import Refused
from pipelines.streams import Stream

WAIT_S: Final = 0.2
"""The longest that `read` waits (less than the quarter of a second that sources may)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How much is read and decoded ahead: at most `ahead` blocks of about `block_bytes`, on `threads` threads."""

    block_bytes: int = 4 << 20
    threads: int = 2
    ahead: int = 16


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing that the reader hands over: the file ended, or why reading it failed."""

    error: BaseException | None = None


class FileSource:
    """One file as an input partition; see `pipelines.model.Source`. Positions are the format's record numbers.

    `name` names the input and the file in dead letters (default: the path as given). A compressed file that breaks
    off ends there, with a dead letter `truncated`. `read` raises OSError where the file cannot be read and whatever
    the format raises for a file that is not of it; the source is closed then.
    """

    finite = True

    def __init__(
        self, path: Path, stream: Stream, format: Format, name: str | None = None, reading: Reading | None = None
    ) -> None:
        self.path, self.format, self.declared = path, format, stream
        self.input = str(path) if name is None else name
        self.stream = stream.name
        self.reading = reading or Reading()
        self._from = 1
        self._run: _Run | None = None
        self._pending: Future[Decoded] | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def seek(self, position: int) -> None:
        """The next `read` starts at that record (0 and 1: the first). The file is read up to there, not decoded."""
        self.close()
        self._from, self._ended = max(position, 1), False

    def read(self) -> Decoded | None:
        """The next run of records; None when none is ready yet, or when the file ended."""
        if self._ended:
            return None
        if self._run is None:
            self._run = _Run(self, self._from)
        try:
            if self._pending is None:
                item = self._run.ready.get(timeout=WAIT_S)
                if isinstance(item, _End):
                    self._ended = True
                    self.close()
                    if item.error is not None:
                        raise item.error
                    return None
                self._pending = item
            decoded = self._pending.result(timeout=WAIT_S if not self._pending.done() else 0)
        except (queue.Empty, NotYet):
            return None
        except FormatError as error:
            self.close()
            raise FormatError(f"{self.input}: {error}") from error
        except BaseException:
            self.close()
            raise
        self._pending = None
        self._run.slots.release()
        return decoded

    def close(self) -> None:
        """Stops reading and decoding; the file is closed when this returns. May be called more than once."""
        run, self._run, self._pending = self._run, None, None
        if run is not None:
            run.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Run:
    """One pass over the file from a record on: the reader thread, the decoding threads and what is between them."""

    def __init__(self, source: FileSource, start: int) -> None:
        self.source, self.start = source, start
        self.ready: queue.Queue[Future[Decoded] | _End] = queue.Queue()
        self.slots = threading.Semaphore(source.reading.ahead)
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(source.reading.threads, thread_name_prefix="decode")
        self._reader = threading.Thread(target=self._feed, name=f"read {source.input}", daemon=True)
        self._reader.start()

    def stop(self) -> None:
        self._stopped.set()
        self.slots.release()
        self._reader.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _feed(self) -> None:
        error: BaseException | None = None
        try:
            file, compressed = decompressed(self.source.path)
            with file:
                for block in self._blocks(self.source.format.blocks(file, self.source.reading.block_bytes), compressed):
                    self.slots.acquire()
                    if self._stopped.is_set():
                        return
                    self.ready.put(self._pool.submit(self._decode, block))
        except BaseException as raised:
            error = raised
        self.ready.put(_End(error))

    def _blocks(self, blocks: Iterator[Block], compressed: Decompressed | None) -> Iterator[Block | Decoded]:
        """The blocks from the wanted record on; where the data broke off, without the broken last line, and then the
        dead letter."""
        following = 1
        for block in blocks:
            if self._stopped.is_set():
                return
            cut = _whole_lines(block) if compressed is not None and compressed.broken is not None else block
            following = cut.first + _length(cut)
            if following > self.start and _length(cut):
                yield cut if cut.first >= self.start else _from(cut, self.start)
        if compressed is not None and compressed.broken is not None:
            yield self._truncated(max(following, self.start), compressed.broken)

    def _decode(self, block: Block | Decoded) -> Decoded:
        if isinstance(block, Decoded):
            return block
        decoded = self.source.format.decode(block, self.source.input)
        return decoded if decoded.input == self.source.input else replace(decoded, input=self.source.input)

    def _truncated(self, position: int, why: str) -> Decoded:
        source = self.source
        refused = Refused("truncated", f"{why}; nothing after this record could be read")
        empty = source.format.decode(Block(position, b""), source.input).events
        letter = dead_letter(source.input, position, source.declared, refused, b"")
        return Decoded(source.input, source.stream, empty, (letter,), position + 1, 1)


def _length(block: Block) -> int:
    """Records of a block as positions count them: lines of text, rows of a frame."""
    return count_lines(block.payload) if isinstance(block.payload, bytes) else block.payload.height


def _whole_lines(block: Block) -> Block:
    if isinstance(block.payload, pl.DataFrame) or block.payload.endswith(b"\n"):
        return block
    return Block(block.first, block.payload[: block.payload.rfind(b"\n") + 1])


def _from(block: Block, start: int) -> Block:
    """The records of a block from number `start` on."""
    skip = start - block.first
    if isinstance(block.payload, pl.DataFrame):
        return Block(start, block.payload.slice(skip))
    at = 0
    for _ in range(skip):
        at = block.payload.index(b"\n", at) + 1
    return Block(start, block.payload[at:])
