"""The lock on an embedded store's folder: who has it open. Light to import, so that a second start is refused at once."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from sinks.errors import StoreOwned


def refuse_owned(path: Path) -> None:
    """StoreOwned when another process has the embedded store of that folder open; for who wants to remove it."""
    if locked(path) and (pid := owner_of(path)) != os.getpid():
        raise StoreOwned(str(path), pid)


def holder(path: Path) -> int | None:
    """The process that has the embedded store of that folder open: its number, 0 when the store does not say, None when
    nobody has."""
    return (owner_of(path) or 0) if locked(path) else None


def locked(path: Path) -> bool:
    """Whether some process holds the store (chDB keeps a flock on `status`)."""
    try:
        file = (path / "status").open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def owner_of(path: Path) -> int | None:
    """The process that the store says has it open."""
    try:
        found = re.search(r"PID:\s*(\d+)", (path / "status").read_text(errors="replace"))
    except OSError:
        return None
    return int(found[1]) if found else None
