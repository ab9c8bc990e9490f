"""What can go wrong with a store, in words that say what to do."""

from __future__ import annotations


class StoreError(RuntimeError):
    """A store that cannot be used as asked; the text says why and what to do."""


class StoreOwned(StoreError):
    """Another process owns the embedded store; `pid` is its number (None when the status file does not say)."""

    def __init__(self, path: str, pid: int | None) -> None:
        self.path, self.pid = path, pid
        who = f"process {pid}" if pid else "another process"
        stop = f"`kill {pid}` (or Ctrl-C where it runs)" if pid else "that process"
        super().__init__(
            f"the store {path} is in use by {who}; one process owns an embedded store. Stop {stop} and try again, "
            f"or use another store: `--data DIR` or `--store chdb:///abs/dir`"
        )


class StoreNewer(StoreError):
    """The store was written by a newer version; schemas go forward only."""


class StoreUnreachable(StoreError):
    """No server answers at the address, or it does not let us in."""


class StoreDamaged(StoreError):
    """Parts of the store were found broken and set aside by ClickHouse when it was opened."""


class FrameRefused(ValueError):
    """A frame that does not have the columns, types or values of its table; nothing was written."""


class BackupRefused(StoreError):
    """A backup that is not there, not whole or not as it was written; nothing was restored from it."""


class PlaceTaken(StoreError):
    """A folder that holds something else, or lies where it cannot be used; nothing was written there."""
