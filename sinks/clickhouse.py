"""The store: keyed tables on a ClickHouse server or in an embedded chDB folder, one sink for both (rules 31 and 33)."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import polars as pl
from clickhouse_connect.driver.exceptions import ClickHouseError
from pyarrow import ArrowInvalid

from pipelines.rollup import Rollup
from pipelines.streams import Stream
from sinks.connection import Address, Connection
from sinks.ddl import FIXED, Table, quoted, tables_of
from sinks.errors import StoreError, StoreRefused
from sinks.failures import explained
from sinks.frames import pieces, stored
from sinks.frozen import Frozen, freeze
from sinks.migrations import migrate, migrations
from sinks.reader import Reader
from sinks.retry import Retry, divided

UNMERGED: Final = "parts_to_delay_insert = 1000000, parts_to_throw_insert = 1000000"


class ClickHouseSink(Reader):
    """Writes and reads the tables of one city.

    `dsn` is `chdb:///abs/dir` (made if it is missing; one process owns it, StoreOwned otherwise) or
    `http(s)://user:password@host:port/database`. Call `migrate` once before writing.

    `write` may be called from several threads (they take turns); reads go through connections of their own.
    `keep_revisions` stops the merging of parts of tables with revisions for as long as this process runs, so that none goes
    and no merge competes with a replay: for a store that lives for one run. `fsync=False` is for measurements.
    `patience_s` is for how long a write is sent again while the store answers that it cannot now (None: for ever);
    `retry`, if given, says that and more. `refused`, if given, is called with the table, the rows and the reason when
    the store cannot take some rows of a frame; the others are written. Without it such a frame is a StoreError.
    """

    def __init__(
        self,
        dsn: str,
        rollups: Iterable[Rollup] = (),
        streams: Iterable[Stream] = (),
        *,
        keep_revisions: bool = False,
        fsync: bool = True,
        patience_s: float | None = 10.0,
        retry: Retry | None = None,
        refused: Callable[[str, pl.DataFrame, str], None] | None = None,
    ) -> None:
        super().__init__(Address.of(dsn), tables_of(rollups, streams))
        self.keep_revisions = keep_revisions
        self.fsync = fsync
        self.retry = retry or Retry(patience_s)
        self.refused = refused
        # Never queried, so never closed by an error: while it is open no other process takes the embedded store.
        self._keeper = Connection(replace(self.address, database="default"))
        self._writer = Connection(self.address, self.retry.answer_s)
        self._turn = threading.Lock()
        self.newest_revision = 0
        """The largest revision or step that this sink has written."""

    def migrate(self) -> tuple[str, ...]:
        """Brings the store to this version's schema; returns what was done, a line each (rule 16: also what was set
        aside). A user without DDL rights may call it when nothing is to be done. Raises StoreOwned, StoreNewer,
        StoreDamaged, StoreRefused, StoreError."""
        generated = [t for t in self.tables.values() if t not in FIXED]
        with self._turn:
            self._refuse_closed()
            if self.address.path is not None:
                self._keeper.open()
            self._ensure_database()
            # Not the writer's connection: setting up may take longer than a write may.
            connection = Connection(self.address)
            try:
                done = migrate(connection, migrations(fsync=self.fsync), generated, fsync=self.fsync)
                if self.keep_revisions:
                    for table in (name for name, declared in self.tables.items() if declared.version is not None):
                        connection.command(f"SYSTEM STOP MERGES {quoted(table)}")
                        # Without merges parts only grow in number, which else slows and then refuses inserts.
                        connection.command(f"ALTER TABLE {quoted(table)} MODIFY SETTING {UNMERGED}")
                return done
            except ClickHouseError as error:
                raise explained(error, self.address.shown, "setting up the store") from error
            finally:
                connection.close()

    def write(self, table: str, frame: pl.DataFrame) -> None:
        """Writes a frame (times as Int64 UTC ms); durable when it returns, and harmless when it is repeated.

        Raises LookupError (no such table), FrameRefused (nothing was written), StoreRefused (a person has to act),
        StoreGivenUp, StoreError (write it again, whole).
        """
        declared = self._declared(table)
        ready = stored(declared, frame)
        with self._turn:
            self._refuse_closed()
            for piece in pieces(declared, ready):
                self._insert(declared, piece)
            if declared.version is not None and isinstance(newest := ready[declared.version].max(), int):
                self.newest_revision = max(self.newest_revision, newest)

    def freeze(self, name: str) -> Frozen:
        """An image of the embedded store as it is now, made of hard links, in its folder shadow/<name>; writing waits
        for some tens of milliseconds. StoreError when it cannot be made, or when the store is on a server."""
        if self.address.path is None:
            raise StoreError(
                f"{self.address.shown} is on a server; back it up there (BACKUP DATABASE ... TO Disk(...))"
            )
        with self._turn:
            self._refuse_closed()
            self._keeper.open()
            try:
                return freeze(self._writer, self.address.path, name, self.newest_revision)
            except (ClickHouseError, OSError) as error:
                raise explained(error, self.address.shown, "making an image of the store") from error

    def drop_before(self, table: str, before_ms: int) -> int:
        """Drops the monthly partitions of a table that lie wholly before that time (rule 26); returns how many."""
        declared = self._declared(table)
        if declared.month is None:
            raise ValueError(f"table {table!r} is not partitioned by time; nothing of it is dropped")
        known = (
            "SELECT DISTINCT partition FROM system.parts WHERE active AND database = {database:String}"
            " AND table = {table:String} AND toUInt32OrZero(partition)"
            " < toYYYYMM(fromUnixTimestamp64Milli({before:Int64}, 'UTC'))"
        )
        bound = {"database": self.address.database, "table": table, "before": before_ms}
        dropped = set[int]()

        def drop() -> None:
            for (name,) in self._writer.query(known, bound).iter_rows():
                self._writer.command(f"ALTER TABLE {quoted(table)} DROP PARTITION {int(name)}")
                dropped.add(int(name))

        with self._turn:
            try:
                self.retry.until_done(drop)
            except ClickHouseError as error:
                raise explained(error, self.address.shown, f"dropping months of {table}") from error
        return len(dropped)

    def empty(self) -> None:
        """Removes every row of every table that a run writes. Raises StoreRefused where the user may not."""
        with self._turn:
            for table in self.tables:
                try:
                    self._writer.command(f"TRUNCATE TABLE {quoted(table)}")
                except ClickHouseError as error:
                    raise explained(error, self.address.shown, f"emptying {table}") from error

    def close(self) -> None:
        """Waits for the write that is under way and lets go of the store; other processes may open it."""
        with self._turn:
            self._writer.close()
        super().close()
        self._keeper.close()

    def __enter__(self) -> ClickHouseSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _declared(self, name: str) -> Table:
        if name not in self.tables:
            near = difflib.get_close_matches(name, self.tables, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LookupError(f"there is no table {name!r}; there are {', '.join(self.tables)}.{hint}")
        return self.tables[name]

    def _insert(self, table: Table, frame: pl.DataFrame) -> None:
        def send(part: pl.DataFrame) -> None:
            self.retry.until_done(lambda: self._writer.insert(quoted(table.name), part))

        try:
            if self.refused is None:
                return send(frame)
            for rows, why in divided(send, frame):
                self.refused(table.name, rows, why)
        except (ClickHouseError, OSError, ArrowInvalid) as error:
            raise explained(error, self.address.shown, f"writing {len(frame)} rows of {table.name}") from error

    def _ensure_database(self) -> None:
        """Makes the database if it is missing; asks the database itself first, which every user may."""
        name = self.address.database
        if name == "default":
            return
        try:
            if self.address.path is None and self._answers():
                return
            connection = Connection(replace(self.address, database="default"))
            try:
                known = "SELECT count() FROM system.databases WHERE name = {name:String}"
                if not connection.query(known, {"name": name}).item():
                    connection.command(f"CREATE DATABASE IF NOT EXISTS {quoted(name)}")
            finally:
                connection.close()
        except (ClickHouseError, StoreError) as error:
            raise explained(error, self.address.shown, f"making the database {name}") from error

    def _answers(self) -> bool:
        """Whether the database is there; what else is wrong is raised."""
        connection = Connection(self.address)
        try:
            connection.query("SELECT 1")
        except (ClickHouseError, StoreRefused) as error:
            if getattr(error, "code", None) != 81:
                raise
            return False
        finally:
            connection.close()
        return True
