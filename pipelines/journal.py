"""The checkpoint on disk (rules 35, 36): state as named parts, of which each step writes only what changed.

A folder holds two generations. `checkpoint-N` begins with a base, every part of the state, and goes on with one record
a step: the parts that changed and the names of those that are gone. `plans-N` has a line for every step that was begun
since that base, synced before anything of the step is written. A new generation begins at every start and whenever a
checkpoint has grown long; the one before the last is removed then.

Parts are plain data: None, booleans, integers, floats, texts, lists and mappings with text keys, NumPy arrays of
numbers, and Polars frames. Every record carries its length and checksum. A record that was cut off at the end of a file
was never acknowledged and is left out; anything else that is damaged is named, and the generation before is used.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import polars as pl

from pipelines.failpoints import reached
from pipelines.model import Parts

VERSION: Final = 1
MAGIC: Final = b"citybrain checkpoint %d\n"
FRAME: Final = struct.Struct("<4sIII")
"""Mark, length of the JSON, length of what follows it, checksum of both."""
MARK: Final = b"REC\n"
LONG_BYTES: Final = 32 << 20
"""A checkpoint this long, and four times its base, is followed by a new generation."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the text says which file, what is wrong with it, and what to do."""


@dataclass(slots=True)
class Recovered:
    """What a folder holds: the state after the last finished step, and the steps that were begun after it, in order."""

    parts: Parts
    plans: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    """What was found damaged and passed over."""
    generation: int | None = None
    """The one that the state was read from."""


class Journal:
    """Writes one folder's checkpoints. Calls come from one thread; each returns when what it wrote is durable, and after an
    OSError (a full disk) may be repeated. `good`: the generation that was read, which is kept beside the first new one."""

    def __init__(
        self, folder: Path, *, fsync: bool = True, long_bytes: int = LONG_BYTES, good: int | None = None
    ) -> None:
        self.folder, self.fsync, self.long_bytes = folder, fsync, long_bytes
        folder.mkdir(exist_ok=True)
        self.generation = max(generations(folder), default=0)
        self._good = good
        self._state: io.FileIO | None = None
        self._plans: io.FileIO | None = None
        self._base = self._size = 0

    @property
    def long(self) -> bool:
        """Whether the next checkpoint should be a base."""
        return self._state is None or self._size > max(self.long_bytes, 4 * self._base)

    def begin(self, parts: Parts, plans: Iterable[Mapping[str, Any]] = ()) -> None:
        """A new generation with this base; `plans` are steps that were begun after it and are still to be done."""
        self.close()
        number, good = self.generation + 1, self._good or self.generation
        # Whoever is killed here again and again, before the end of this, must not fill the disk.
        for old in [older for older in generations(self.folder) if older < good][:-1]:
            self._remove(old)
        encoded = MAGIC % VERSION + encode({"set": parts, "gone": []})
        draft, lines = self.folder / f"checkpoint-{number}.draft", self.folder / f"plans-{number}"
        with draft.open("wb", buffering=0) as file:
            self._write(file, encoded)
        with lines.open("wb", buffering=0) as file:
            self._write(file, b"".join(map(_line, plans)))
        reached("base_drafted")
        draft.replace(self.folder / f"checkpoint-{number}")
        self._sync_folder()
        reached("base_renamed")
        self.generation = number
        self._state = (self.folder / f"checkpoint-{number}").open("ab", buffering=0)
        self._plans = lines.open("ab", buffering=0)
        self._base = self._size = len(encoded)
        self._good = None
        for old in generations(self.folder):
            if old not in (number, good):
                self._remove(old)

    def _remove(self, generation: int) -> None:
        (self.folder / f"checkpoint-{generation}").unlink()
        (self.folder / f"plans-{generation}").unlink(missing_ok=True)

    def plan(self, plan: Mapping[str, Any]) -> None:
        """A step is about to be written."""
        assert self._plans is not None
        self._append(self._plans, _line(plan))

    def step(self, changed: Parts, gone: Iterable[str]) -> None:
        """A step is in the store: what it changed of the state."""
        assert self._state is not None
        encoded = encode({"set": changed, "gone": list(gone)})
        self._append(self._state, encoded)
        self._size += len(encoded)

    def close(self) -> None:
        for file in (self._state, self._plans):
            if file is not None:
                file.close()
        self._state = self._plans = None

    def _append(self, file: io.FileIO, data: bytes) -> None:
        """All of it, or the file is as it was: after a full disk the next record must not follow half of one."""
        end = file.seek(0, os.SEEK_END)
        try:
            self._write(file, data)
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise

    def _write(self, file: io.FileIO, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[file.write(view) :]
            reached("checkpoint_written")
            if self.fsync:
                os.fsync(file.fileno())
        except OSError as error:
            # Which disk is full is not said by the call itself.
            raise OSError(error.errno, error.strerror, str(file.name)) from error

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def generations(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, ascending."""
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in found if match)


def recover(folder: Path) -> Recovered | None:
    """The newest state that can be read; None when there is no checkpoint. Raises CheckpointError when none can be."""
    notes: list[str] = []
    numbers = generations(folder)
    for number in reversed(numbers):
        path = folder / f"checkpoint-{number}"
        try:
            parts, note = _read(path)
        except CheckpointError as error:
            notes.append(str(error))
            continue
        notes += [note] if note else []
        done = int(parts["run"]["step"])
        plans: dict[int, dict[str, Any]] = {}
        for later in (n for n in numbers if n >= number):
            for plan in _plans(folder / f"plans-{later}"):
                if plan["step"] > done:
                    plans[plan["step"]] = plan
        return Recovered(parts, [plans[step] for step in sorted(plans)], notes, number)
    if notes:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used: {'; '.join(notes)}. Restore a backup (citybrain restore), or start "
            "over (a replay: --fresh; the stored readings of `up` stay, move the folder away and it begins anew)"
        )
    return None


def _read(path: Path) -> tuple[Parts, str]:
    """The state after the last whole record, and a note where something else than a cut-off end follows it."""
    data = path.read_bytes()
    head, _, _ = data.partition(b"\n")
    match = re.fullmatch(rb"citybrain checkpoint (\d+)", head)
    if match is None:
        raise CheckpointError(f"{path} is damaged at its first byte")
    if int(match[1]) > VERSION:
        raise CheckpointError(
            f"{path} was written by a newer citybrain (format {int(match[1])}, this one reads up to {VERSION}); run that "
            "version, or start over"
        )
    parts: Parts = {}
    at, base = len(head) + 1, True
    while at < len(data):
        record = _record(data, at)
        if record is None:
            break
        change, at = record
        for name in change["gone"]:
            parts.pop(name, None)
        parts |= change["set"]
        base = False
    if base:
        raise CheckpointError(f"{path} is damaged at byte {at}, before the end of its base")
    more = at < len(data) and data.find(MARK, at + 1) >= 0
    return parts, f"{path} is damaged at byte {at}; the state before it is used" if more else ""


def encode(tree: Any) -> bytes:
    """One record: JSON, in which arrays and frames are numbers of the pieces that follow it."""
    blobs: list[bytes] = []

    def piece(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            blobs.append(np.ascontiguousarray(value).tobytes())
            return {"$array": [len(blobs[-1]), value.dtype.str, list(value.shape)]}
        if isinstance(value, pl.DataFrame):
            buffer = io.BytesIO()
            value.write_ipc(buffer)
            blobs.append(buffer.getvalue())
            return {"$frame": len(blobs[-1])}
        raise TypeError(f"a checkpoint cannot hold {type(value).__name__} {value!r:.80}")

    text = orjson.dumps(tree, default=piece)
    rest = b"".join(blobs)
    return FRAME.pack(MARK, len(text), len(rest), zlib.crc32(rest, zlib.crc32(text))) + text + rest


def _record(data: bytes, at: int) -> tuple[dict[str, Any], int] | None:
    """The record that begins there and where the next one does; None when it is not whole."""
    if at + FRAME.size > len(data):
        return None
    mark, size, more, checksum = FRAME.unpack_from(data, at)
    at += FRAME.size
    text, rest = data[at : at + size], data[at + size : at + size + more]
    if mark != MARK or len(text) + len(rest) != size + more or zlib.crc32(rest, zlib.crc32(text)) != checksum:
        return None
    used = 0

    def whole(value: Any) -> Any:
        nonlocal used
        if isinstance(value, list):
            return [whole(x) for x in value]
        if not isinstance(value, dict):
            return value
        if "$array" in value:
            length, dtype, shape = value["$array"]
            used += length
            return np.frombuffer(rest[used - length : used], np.dtype(dtype)).reshape(shape).copy()
        if "$frame" in value:
            used += value["$frame"]
            return pl.read_ipc(rest[used - value["$frame"] : used])
        return {name: whole(x) for name, x in value.items()}

    return whole(orjson.loads(text)), at + size + more


def _line(plan: Mapping[str, Any]) -> bytes:
    text = orjson.dumps(plan)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _plans(path: Path) -> list[dict[str, Any]]:
    """The steps that were begun; a line that was cut off had no effect yet."""
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else (), 1):
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text) and text:
            found.append(orjson.loads(text))
        elif path.read_bytes().count(b"\n") >= number:
            raise CheckpointError(
                f"{path}, line {number} is damaged: what the interrupted step was to do is not known. Restore a backup, or "
                "start over"
            )
    return found
