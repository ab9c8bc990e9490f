"""Brings a store to the schema of this version: numbered migrations for the fixed tables, comparison with the
declarations for the generated ones (rows and lifecycles), whose columns grow with the catalogue.

Forward only. Nothing is dropped: what a changed definition can no longer use is set aside under its old hash (rule 16).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from pipelines.failpoints import reached
from sinks.backup_writer import repair_by_backup
from sinks.claims import lease_table
from sinks.connection import Connection
from sinks.ddl import FIXED, Table, quoted
from sinks.errors import StoreDamaged, StoreError, StoreNewer

SCHEMA_VERSION: Final = (
    "CREATE TABLE IF NOT EXISTS schema_version (version UInt32, applied_at DateTime64(3, 'UTC'))\n"
    "ENGINE = ReplacingMergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
)
DEFINITIONS: Final = (
    "CREATE TABLE IF NOT EXISTS definitions (name String, part String, hash String)\n"
    "ENGINE = ReplacingMergeTree ORDER BY (name, part) SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """Statements that may run again (a crash between them is repeated), never edited once released."""

    version: int
    what: str
    statements: tuple[str, ...]


def migrations(*, fsync: bool = True) -> tuple[Migration, ...]:
    """All migrations in order; `fsync` is of the tables that they create."""
    return (
        Migration(1, "readings, episodes, transitions, dead letters", tuple(t.create(fsync=fsync) for t in FIXED)),
        Migration(2, "lease", (lease_table(fsync=fsync),)),
    )


def migrate(
    connection: Connection, steps: Sequence[Migration], generated: Iterable[Table], *, fsync: bool = True
) -> tuple[str, ...]:
    """Applies what is missing; returns what was done, a line each. Raises StoreNewer, StoreDamaged."""
    database = connection.address.database
    _refuse_damage(connection)
    # Asked first, so that a user without DDL rights can start when there is nothing to do.
    for name, create in (("schema_version", SCHEMA_VERSION), ("definitions", DEFINITIONS)):
        if not _columns(connection, database, name):
            connection.command(create)
    have = int(connection.query("SELECT max(version) AS version FROM schema_version").item())
    newest = steps[-1].version
    if have > newest:
        raise StoreNewer(
            f"the store {connection.address.shown} has schema version {have}, this program knows up to {newest}; "
            f"install the newer citybrain, or use another store: `--data DIR`"
        )
    done = []
    for step in steps:
        if step.version > have:
            for statement in step.statements:
                connection.command(statement)
                reached("store_migrated")
            now = "INSERT INTO schema_version SELECT {version}, now64(3, 'UTC')"
            connection.command(now.format(version=int(step.version)))
            done.append(f"schema version {step.version}: {step.what}")
    for table in generated:
        done += _generated(connection, database, table, fsync)
    return tuple(done)


def _refuse_damage(connection: Connection) -> None:
    broken = connection.query(
        "SELECT table, name, reason, path FROM system.detached_parts"
        " WHERE database = {database:String} AND reason LIKE '%broken%'",
        {"database": connection.address.database},
    )
    if not broken.is_empty():
        table, name, reason, path = broken.row(0)
        folder = connection.address.path
        back = "replay the input into a new store" if folder is None else repair_by_backup(folder)
        raise StoreDamaged(
            f"the store {connection.address.shown} has {len(broken)} damaged parts, the first: {name} of {table} "
            f"({reason}). Their rows are missing, and such a part cannot be attached again: {back}; or, when "
            f"those rows may be lost or were written again, `rm -r {path}` and start again"
        )


def _columns(connection: Connection, database: str, table: str) -> dict[str, str]:
    frame = connection.query(
        "SELECT name, type FROM system.columns WHERE database = {database:String} AND table = {table:String}",
        {"database": database, "table": table},
    )
    return dict(frame.select("name", "type").iter_rows())


def _generated(connection: Connection, database: str, table: Table, fsync: bool) -> list[str]:
    """Creates the table, or sets aside what has another meaning and adds what is new."""
    done = []
    before = _definition(connection, table.name)
    now = dict(table.definition)
    columns = _columns(connection, database, table.name)
    if columns and "" in before and before[""] != now.get(""):
        aside, again = f"{table.name}__{before['']}", f"{table.name}__{now['']}"
        if not _columns(connection, database, aside):
            _define(connection, aside, before.items())
            connection.command(f"RENAME TABLE {quoted(table.name)} TO {quoted(aside)}")
            done.append(f"{table.name}: rows of another definition were set aside as {aside}")
            columns = {}
            if _columns(connection, database, again):
                connection.command(f"RENAME TABLE {quoted(again)} TO {quoted(table.name)}")
                columns = _columns(connection, database, table.name)
                done.append(f"{table.name}: earlier rows of this definition were taken back")
                before = _definition(connection, again)
    if not columns:
        connection.command(table.create(fsync=fsync))
        reached("store_migrated")
        done.append(f"{table.name}: created")
    else:
        done += _alter(connection, table, columns, before, now)
    _define(connection, table.name, [(part, value) for part, value in now.items() if before.get(part) != value])
    return done


def _definition(connection: Connection, name: str) -> dict[str, str]:
    """The hashes that a table's rows were written under; the part '' is the frame, the others are measures."""
    sql = "SELECT part, hash FROM definitions FINAL WHERE name = {name:String}"
    return dict(connection.query(sql, {"name": name}).iter_rows())


def _define(connection: Connection, name: str, hashes: Iterable[tuple[str, str]]) -> None:
    rows = [(name, part, value) for part, value in hashes]
    if rows:
        connection.insert("definitions", pl.DataFrame(rows, schema=["name", "part", "hash"], orient="row"))


def _alter(
    connection: Connection, table: Table, columns: dict[str, str], before: dict[str, str], now: dict[str, str]
) -> list[str]:
    done = []
    alter = f"ALTER TABLE {quoted(table.name)}"
    after = ""
    for field in table.fields:
        name, old, new = field.name, before.get(field.name), now.get(field.name)
        if name in columns and old and old != new:
            aside = f"{name}__{old}"
            if aside not in columns:
                connection.command(f"{alter} RENAME COLUMN {quoted(name)} TO {quoted(aside)}")
                done.append(f"{table.name}.{name}: values of another definition were set aside as {aside}")
                columns[aside] = columns.pop(name)
        if name not in columns and new and f"{name}__{new}" in columns:
            connection.command(f"{alter} RENAME COLUMN {quoted(f'{name}__{new}')} TO {quoted(name)}")
            columns[name] = columns.pop(f"{name}__{new}")
            done.append(f"{table.name}.{name}: earlier values of this definition were taken back")
        if name not in columns:
            if not field.nullable:
                raise StoreError(
                    f"{table.name}.{name} is missing in the store {connection.address.shown} and cannot be null; "
                    f"replay the input into a new store"
                )
            connection.command(f"{alter} ADD COLUMN {quoted(name)} {field.sql}{after}")
            done.append(f"{table.name}.{name}: column added; null in older rows")
        elif columns[name] != field.type:
            raise StoreError(
                f"{table.name}.{name} is {columns[name]} in the store {connection.address.shown}, it is declared as "
                f"{field.type}; rename the column in the declaration, or replay the input into a new store"
            )
        after = f" AFTER {quoted(name)}"
    return done
