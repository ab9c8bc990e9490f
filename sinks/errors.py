"""What can go wrong with a store, in words that say what to do."""

from __future__ import annotations


class StoreError(RuntimeError):
    """A store that cannot be used as asked; the text says why and what to do."""


class StoreOwned(StoreError):
    """Another process owns the store. `pid` is its number (None when that is not known), `owner` and `lasts_s`, on a
    server, who it says it is and how many seconds its lease still lasts."""

    def __init__(self, path: str, pid: int | None, owner: str | None = None, lasts_s: float | None = None) -> None:
        self.path, self.pid, self.owner, self.lasts_s = path, pid, owner, lasts_s
        if owner is not None:
            super().__init__(
                f"the store {path} is in use by {owner}; one process at a time writes to it. Its lease lasts another "
                f"{lasts_s or 0:.0f} s unless it renews it: stop that process, or, if it is gone, try again then"
            )
            return
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


class StoreRefused(StoreError):
    """The server answers and says no: user, password, rights, tables or version; `code` is its number, if it gave one."""

    def __init__(self, text: str, code: int | None = None) -> None:
        self.code = code
        super().__init__(text)


class StoreGivenUp(StoreError):
    """The run was ended while a write was being sent again and again."""


class LeaseLost(StoreError):
    """This process is no longer the one that may write to the store; it has to end without another checkpoint."""


class PlaceTaken(StoreError):
    """A folder that holds something else, or lies where it cannot be used; nothing was written there."""
