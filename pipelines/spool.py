"""The spool: the durable log of one input partition that cannot be replayed (rule 34).

Batches of decoded, validated, redacted records are appended with their arrival; records are numbered from 1 over the
life of the spool, and a position is the number of the record to read next, as in `Decoded.next_position`. The files
are described in `pipelines/spool_segment.py`, `pipelines/spool_source.py` reads them as a source.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pipelines import spool_segment as segments
from pipelines import syncing
from pipelines.failpoints import reached
from pipelines.model import Decoded
from pipelines.spool_answers import Answers
from pipelines.spool_opening import open_segments
from pipelines.spool_segment import LOST, Answer, Packed, Segment

MAX_BYTES: Final = 1 << 30
SEGMENT_BYTES: Final = 32 << 20


class SpoolFull(Exception):
    """The spool holds as many bytes as it may; what is read and checkpointed makes room."""


class SpoolOwned(Exception):
    """Another process has this spool open."""


class KeyReused(Exception):
    """An idempotency key came with another body than before."""


@dataclass(slots=True)
class _Waiting:
    """An append until it is durable, or has failed."""

    packed: Packed
    answer: Answer | None
    done: bool = False
    first: int | None = None
    known: Answer | None = None
    error: Exception | None = None


class Spool:
    """One spool folder, open in one process; any number of threads may append and read.

    Opening checks every byte: SpoolDamaged where acknowledged records cannot be read. `recovered` says what was cut off
    behind them, an append that was never acknowledged; None when there was nothing.
    """

    def __init__(
        self,
        folder: Path,
        input_name: str,
        stream: str,
        *,
        max_bytes: int = MAX_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """`segment_bytes`: a file that has reached so many is closed; trimming deletes whole files only."""
        if max_bytes < 2 * segment_bytes:
            raise ValueError(f"max_bytes {max_bytes} is too small: at least two files of {segment_bytes} must fit")
        self.folder, self.input, self.stream = folder, input_name, stream
        self.max_bytes, self.segment_bytes = max_bytes, segment_bytes
        self.recovered: str | None = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._answers = Answers()
        self._segments: list[Segment] = []
        self._fd = self._folder_fd = -1
        self._closed = False
        self._marked = self._oldest = 0
        self._uncut = False
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in missing:
                syncing.synced(path.parent)
            self._folder_fd = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._segments, self.recovered = open_segments(folder, input_name, stream, self._answers.add)
            self._fd = os.open(self._segments[-1].path, os.O_RDWR)
            lost = [int(path.stem) for path in folder.glob(f"*{LOST}") if path.stem.isdigit()]
            self._oldest = min([self.start, *lost])
        except BlockingIOError:
            self.close()
            raise SpoolOwned(f"{folder} is open in another process; stop that one first") from None
        except BaseException:
            self.close()
            for path in missing:  # an empty folder would be a spool for the next start
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise

    def close(self) -> None:
        """Ends what is being appended, then lets another process open the spool. Later appends are refused."""
        with self._writing:
            self._closed = True
            for fd in (self._fd, self._folder_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._folder_fd = -1

    # What there is ---------------------------------------------------------------------------------------------------

    @property
    def start(self) -> int:
        """The number of the oldest record held."""
        return self._segments[0].first

    @property
    def end(self) -> int:
        """The number that the next record gets; all before it are durable."""
        return self._segments[-1].end

    @property
    def held_bytes(self) -> int:
        with self._lock:
            return sum(s.length for s in self._segments)

    @property
    def full(self) -> bool:
        """Whether appends raise SpoolFull; those that came before may have passed the bound by a batch each."""
        return self.held_bytes >= self.max_bytes

    def segment(self, position: int) -> Segment | None:
        """The file with that durable record, or where it is lost the next with any; None where nothing follows.

        LookupError for a record that was trimmed.
        """
        with self._lock:
            if position < self._oldest:
                raise LookupError(f"{self.folder} begins with record {self.start}; record {position} was trimmed")
            if position >= self.end:
                return None
            at = bisect_right(self._segments, position, key=lambda s: s.first) - 1
            if at < 0 or position >= self._segments[at].end:
                at += 1
            return self._segments[at] if self._segments[at].first < self._segments[at].end else None

    def answer(self, key: str) -> Answer | None:
        """What was answered under an idempotency key: known as long as the batch is held, and for a day in this process."""
        with self._lock:
            return self._answers.get(key)

    # Appending and trimming ------------------------------------------------------------------------------------------

    def append(self, decoded: Decoded, arrival: int, answer: Answer | None = None) -> tuple[int | None, Answer | None]:
        """Appends records that were decoded with numbers from 1; returns when they are durable.

        Concurrent appends share a write and an fsync. Returns the number of the first record and `answer`; where its
        key is known already nothing is appended, and (None, the earlier answer) is returned. Raises KeyReused,
        SpoolFull, OSError (disk full, ...): then nothing was appended, and later appends work when there is space.
        """
        if decoded.next_position < 2:
            raise ValueError("there is no record to append")
        waiting = _Waiting(segments.packed(decoded, arrival, answer), answer)
        known = answer and self.answer(answer.key)
        if not known and self.full:
            raise SpoolFull(f"the spool of {self.input!r} holds {self.held_bytes} bytes, {self.max_bytes} are allowed")
        with self._lock:
            self._waiting.append(waiting)
        with self._writing:
            # Who comes first writes for all that wait by then.
            if not waiting.done:
                self._commit()
        if waiting.error is not None:
            raise waiting.error
        if not waiting.done:
            raise OSError("the write that this append was part of was interrupted")
        return waiting.first, waiting.known or answer

    def _commit(self) -> None:
        with self._lock:
            group, self._waiting = self._waiting, []
        fresh: list[_Waiting] = []
        try:
            fresh = self._fresh(group)
            if fresh:
                self._write(fresh)
        except BaseException as error:
            with contextlib.suppress(OSError):  # then the next append tries again
                self._cut()
            if not isinstance(error, Exception):
                raise
            for waiting in fresh or group:
                waiting.error = _again(error)
        for waiting in group:
            waiting.done = True
            first = waiting.first
            if waiting.known is not None and first is None and waiting.error is None:
                waiting.error = self._repeated(waiting)

    def _fresh(self, group: list[_Waiting]) -> list[_Waiting]:
        """Those whose key is new; the others learn the answer that is known, or will be when the group is durable."""
        fresh, keys = [], dict[str, _Waiting]()
        for waiting in group:
            if (answer := waiting.answer) is not None:
                waiting.known = self.answer(answer.key)
                if waiting.known is None and answer.key in keys:
                    waiting.known = keys[answer.key].answer
                keys.setdefault(answer.key, waiting)
            if waiting.known is None:
                fresh.append(waiting)
        return fresh

    def _repeated(self, waiting: _Waiting) -> Exception | None:
        """Why a repeated key is not answered as before: its first append failed in the same group, or had another body."""
        answer, known = waiting.answer, waiting.known
        if answer is None or known is None:
            return None
        if self.answer(answer.key) is None:
            return OSError("the request with the same idempotency key was not stored; send it again")
        if answer.digest != known.digest:
            return KeyReused(f"idempotency key {answer.key!r} was used for another body")
        return None

    def _write(self, fresh: list[_Waiting]) -> None:
        if self._closed:
            raise OSError("the spool is closed")
        if self._uncut:
            self._cut()
        if self._segments[-1].length >= self.segment_bytes:
            self._roll()
        tail = self._segments[-1]
        number, parts = tail.end, list[bytes]()
        for waiting in fresh:
            parts += (waiting.packed.header(number), waiting.packed.body)
            number += waiting.packed.count
        length = segments.write(self._fd, tail.length, parts)
        reached("spool_written")
        segments.sync(self._fd)
        self._marked = length
        segments.write_mark(self._fd, length)
        reached("spool_synced")
        with self._lock:
            number = tail.end
            for waiting in fresh:
                waiting.first = number
                if waiting.answer is not None:
                    self._answers.add(waiting.answer, number, waiting.packed.arrival)
                number += waiting.packed.count
            self._segments[-1] = replace(tail, end=number, length=length)

    def _roll(self) -> None:
        tail = self._segments[-1]
        segments.sync(self._fd)
        fresh = segments.create(self.folder, self.input, self.stream, tail.end)
        try:
            fd = os.open(fresh.path, os.O_RDWR)
        except OSError:
            fresh.path.unlink()
            raise
        os.close(self._fd)
        self._fd = fd
        with self._lock:
            self._segments.append(fresh)

    def _cut(self) -> None:
        """Takes back what a failed append wrote, so that the next one begins behind the last durable batch."""
        self._uncut = True
        length = self._segments[-1].length
        os.ftruncate(self._fd, length)
        if self._marked > length:
            segments.write_mark(self._fd, length)
            self._marked = length
        self._uncut = False

    def trim(self, position: int) -> None:
        """Deletes the files whose records all lie before `position`; the newest file stays, and with it the numbering."""
        with self._writing, self._lock:
            gone = False
            while len(self._segments) > 1 and self._segments[0].end <= position:
                self._segments.pop(0).path.unlink(missing_ok=True)
                gone = True
            if not gone:
                return
            self._oldest = self.start
            for lost in self.folder.glob(f"*{LOST}"):
                if lost.stem.isdigit() and int(lost.stem) < self.start:
                    lost.unlink()
            reached("spool_trimmed")
            syncing.synced(self.folder)
            self._answers.forget(self.start)


def _again(error: Exception) -> Exception:
    """The error for each of those that wait: one exception raised in several threads would mix their tracebacks."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror) if error.errno else OSError(str(error))
    with contextlib.suppress(TypeError):
        return type(error)(*error.args)
    return RuntimeError(str(error))
