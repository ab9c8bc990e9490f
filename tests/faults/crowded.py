"""A disk that is full, for a process that is not root: some writes fail as they do then, for as long as a file is there.

    python -m tests.faults.crowded FULL WHERE MODULE ARGUMENT...

WHERE is `store` (the store refuses inserts), `staging` (what the driver stages for one cannot be written), or a pattern
of paths whose syncing fails; `:N` behind it lets the first N writes pass. FULL is the file. Runs the module then. Who
gives up does it after PATIENCE_S.
"""

from __future__ import annotations

import errno
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError

from sinks.clickhouse import ClickHouseSink
from sinks.connection import Connection
from sinks.retry import Retry

PATIENCE_S = 0.5


class Crowded:
    def __init__(self, full: Path, where: str) -> None:
        self.full = full
        self.where, _, left = where.partition(":")
        self.left = int(left or 0)

    def hit(self, what: str) -> bool:
        if not re.search(self.where, what):
            return False
        self.left -= 1
        return self.left < 0 and self.full.exists()


def crowd(disk: Crowded) -> None:
    def failing(real: Any) -> Any:
        def sync(handle: int) -> None:
            if disk.where not in ("store", "staging") and disk.hit(os.readlink(f"/proc/self/fd/{handle}")):
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        return sync

    os.fsync, os.fdatasync = failing(os.fsync), failing(os.fdatasync)
    insert = Connection.insert

    def refusing(self: Connection, table: str, frame: Any) -> None:
        if disk.where == "store" and disk.hit("store"):
            raise DatabaseError("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space.", code=243)
        if disk.where == "staging" and disk.hit("staging"):
            raise OSError(errno.ENOSPC, "No space left on device")
        insert(self, table, frame)

    Connection.insert = refusing  # type: ignore[method-assign]
    Retry.__init__.__defaults__ = (PATIENCE_S,)  # type: ignore[misc]
    ClickHouseSink.__init__.__kwdefaults__["patience_s"] = PATIENCE_S  # type: ignore[misc]


def main() -> None:
    full, where, module, *rest = sys.argv[1:]
    crowd(Crowded(Path(full), where))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
