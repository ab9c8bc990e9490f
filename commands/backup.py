"""`citybrain backup` and `citybrain restore`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sinks.backup import ask, back_up, free_target
from sinks.clickhouse import ClickHouseSink
from sinks.errors import StoreOwned
from sinks.lock import holder
from sinks.restore import restore as put_back


class Line:
    """How far it is, on stderr: one line that changes on a terminal, a line every few seconds elsewhere."""

    def __init__(self, what: str, quiet: bool, every_s: float = 5.0) -> None:
        self._what, self._quiet = what, quiet
        self._every = 0.2 if sys.stderr.isatty() else every_s
        self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._quiet or time.monotonic() - self._shown < self._every:
            return
        self._shown = time.monotonic()
        text = f"{self._what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        print(f"\r{text} " if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)

    def end(self) -> None:
        if not self._quiet and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def backup(target: Path, store: Path, quiet: bool = False) -> dict[str, Any]:
    """Makes a backup, through the process that owns the store if there is one; returns what was copied."""
    target = target.absolute()
    free_target(target, store)
    show = Line("backup", quiet)
    try:
        if holder(store) is None:
            with suppress(StoreOwned), ClickHouseSink(f"chdb://{store}") as sink:
                return asdict(back_up(sink, store, target, show))
        return asdict(ask(store, target, show))
    finally:
        show.end()


def restore(source: Path, store: Path, city: str | None, fresh: bool, quiet: bool = False) -> dict[str, Any]:
    """Restores a backup; returns what is in the store now."""
    show = Line("restore: checking", quiet)
    try:
        found, replaced = put_back(source, store, fresh=fresh, city=city, show=show)
    finally:
        show.end()
    return {
        "store": str(store),
        "city": found.city,
        "made_at": found.made_at,
        "revision": found.revision,
        "rows": found.rows,
        "bytes": found.bytes,
        "replaced": None if replaced is None else str(replaced),
    }
