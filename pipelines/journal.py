"""The checkpoint on disk (rules 35, 36): state as named parts, of which each step writes only what changed.

A folder holds two generations. `checkpoint-N` begins with a base, every part of the state, and goes on with one record
a step: the parts that changed and the names of those that are gone. `plans-N` has a line for every step that was begun
since that base, synced before anything of the step is written. A new generation begins at every start and whenever a
checkpoint has grown long; the one before the last is removed then.

Every record carries its length and checksum (`pipelines/checkpoint_record.py`). A record that was cut off at the end of a file
was never acknowledged and is left out; anything else that is damaged is named, and the generation before is used.
"""

from __future__ import annotations

import io
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from pipelines.checkpoint_record import MARK, decoded, encode, made
from pipelines.failpoints import reached
from pipelines.model import Parts
from pipelines.syncing import synced

VERSION: Final = 2
MAGIC: Final = b"citybrain checkpoint %d\n"
LONG_BYTES: Final = 32 << 20
"""A checkpoint this long, and four times its base, is followed by a new generation."""
MOST_AHEAD: Final = 16
"""Steps that may have been begun and not kept, whatever ended the process; the thread that writes has fewer waiting."""
REPAIR: Final = (
    "Restore a backup (citybrain restore), or start over (a replay: --fresh; the stored readings of `up` stay, move the folder "
    "delivery/ away and it begins anew)"
)


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
    OSError (a full disk) may be repeated. `good`: the generation that was read, which is kept beside the first new one.
    `told`, if set, is called after each step with its number, and the seconds that its plan and its record took."""

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
        self.told: Callable[[int, float], None] | None = None
        self._plan_s = 0.0

    @property
    def size(self) -> int:
        """Bytes of the running checkpoint."""
        return self._size

    @property
    def long(self) -> bool:
        """Whether the next checkpoint should be a base."""
        return self._state is None or self._size > max(self.long_bytes, 4 * self._base)

    def begin(self, parts: Parts, plans: Iterable[Mapping[str, Any]] = ()) -> None:
        """A new generation with this base; `plans` are steps that were begun after it and are still to be done."""
        started = time.perf_counter()
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
        synced(self.folder)
        reached("base_renamed")
        self.generation = number
        self._state = (self.folder / f"checkpoint-{number}").open("ab", buffering=0)
        self._plans = lines.open("ab", buffering=0)
        self._base = self._size = len(encoded)
        self._good = None
        for old in generations(self.folder):
            if old not in (number, good):
                self._remove(old)
        self._tell(parts, started)

    def _remove(self, generation: int) -> None:
        (self.folder / f"checkpoint-{generation}").unlink()
        (self.folder / f"plans-{generation}").unlink(missing_ok=True)

    def plan(self, plan: Mapping[str, Any]) -> None:
        """A step is about to be written."""
        assert self._plans is not None
        started = time.perf_counter()
        self._append(self._plans, _line(plan))
        self._plan_s += time.perf_counter() - started

    def step(self, changed: Parts, gone: Iterable[str]) -> None:
        """A step is in the store: what it changed of the state."""
        assert self._state is not None
        started = time.perf_counter()
        encoded = encode({"set": changed, "gone": list(gone)})
        self._append(self._state, encoded)
        self._size += len(encoded)
        self._tell(changed, started)

    def _tell(self, parts: Parts, started: float) -> None:
        spent, self._plan_s = self._plan_s + time.perf_counter() - started, 0.0
        if self.told is not None:
            self.told(parts["run"]["step"], spent)

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
        if len(plans) > MOST_AHEAD:
            notes.append(
                f"{path} ends with step {done}, and {len(plans)} steps were begun after it: it was cut short. They are done "
                "again"
            )
        return Recovered(parts, [plans[step] for step in sorted(plans)], notes, number)
    if notes:
        raise CheckpointError(f"no checkpoint in {folder} can be used: {'; '.join(notes)}. {REPAIR}")
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
    if int(match[1]) < VERSION:
        raise CheckpointError(
            f"{path} was written by an older citybrain (format {int(match[1])}, this one reads {VERSION})"
        )
    parts: Parts = {}
    at, base = len(head) + 1, True
    while at < len(data):
        record = decoded(data, at)
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
    # Most of what a long file holds was replaced later on: arrays and frames are made of what is left.
    return made(parts), f"{path} is damaged at byte {at}; the state before it is used" if more else ""


def _line(plan: Mapping[str, Any]) -> bytes:
    text = orjson.dumps(plan)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _plans(path: Path) -> list[dict[str, Any]]:
    """The steps that were begun; a line that was cut off had no effect yet."""
    found = []
    *whole, cut = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate((*whole, cut), 1):
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text) and text:
            found.append(orjson.loads(text))
        elif number <= len(whole):
            raise CheckpointError(
                f"{path}, line {number} is damaged: what an interrupted step was to do is not known. {REPAIR}"
            )
    return found
