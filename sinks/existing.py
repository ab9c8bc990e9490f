"""A store as it lies there, whatever program wrote it: its tables are read from the store itself, nothing is changed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from sinks.connection import Address, Connection
from sinks.ddl import Field, Kind, Table
from sinks.errors import StoreError
from sinks.reader import Reader

KINDS: Final[dict[str, Kind]] = {
    "String": "text",
    "LowCardinality(String)": "word",
    "Int64": "int",
    "Int32": "small",
    "Float64": "float",
    "DateTime64(3, 'UTC')": "time",
    "Bool": "flag",
    "UInt64": "version",
}
OWN: Final = ("schema_version", "definitions")
"""Tables that say how the store is made; they hold nothing that came from a city."""
ASIDE: Final = "__"
"""In the names of what was set aside under an older definition (rule 16)."""


class ExistingStore(Reader):
    """Reads a store without bringing it to this version's schema.

    Raises StoreOwned, StoreError (it cannot be opened), FileNotFoundError (no store is there).
    """

    def __init__(self, dsn: str) -> None:
        address = Address.of(dsn)
        if address.path is not None and not is_store(address.path):
            raise FileNotFoundError(f"{address.path} is no store: it has no folder metadata/; is the name right?")
        # Never queried, so never closed by an error: while it is open no other process takes the embedded store.
        self._keeper = Connection(replace(address, database="default"))
        self._keeper.open()
        super().__init__(address, {})
        try:
            self.tables = self._found()
        except BaseException:
            self.close()
            raise

    @property
    def schema_version(self) -> int:
        """The newest migration that was applied; 0 when the store has none."""
        if not self.exists("schema_version"):
            return 0
        return int(self.query("SELECT max(version) AS version FROM schema_version").item())

    def exists(self, table: str) -> bool:
        known = "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}"
        return bool(self.query(known, {"database": self.address.database, "name": table}).item())

    def close(self) -> None:
        super().close()
        self._keeper.close()

    def __enter__(self) -> ExistingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self) -> dict[str, Table]:
        made = self.query(
            "SELECT name, sorting_key, partition_key, engine_full FROM system.tables"
            " WHERE database = {database:String} AND engine = 'ReplacingMergeTree' ORDER BY name",
            {"database": self.address.database},
        )
        columns = self.query(
            "SELECT table, name, type FROM system.columns WHERE database = {database:String} ORDER BY table, position",
            {"database": self.address.database},
        )
        fields: dict[str, list[Field]] = {}
        for table, name, kind in columns.iter_rows():
            if ASIDE not in name and ASIDE not in table and table not in OWN:
                fields.setdefault(table, []).append(_field(table, name, kind))
        return {
            name: Table(
                name,
                tuple(fields[name]),
                key=tuple(k.strip() for k in key.strip("()").split(",")),
                version=found[1] if (found := re.match(r"ReplacingMergeTree\((\w+)\)", engine)) else None,
                month=found[1] if (found := re.match(r"toYYYYMM\((\w+)\)", partition)) else None,
            )
            for name, key, partition, engine in made.iter_rows()
            if name in fields
        }


def is_store(path: Path) -> bool:
    """Whether the folder holds an embedded store, damaged or not."""
    return (path / "metadata").is_dir()


def _field(table: str, name: str, kind: str) -> Field:
    plain = re.sub(r"Nullable\((.*?)\)(?=\)|\Z)", r"\1", kind)
    if plain not in KINDS:
        raise StoreError(
            f"{table}.{name} is {kind} in the store, which this version does not know; use the citybrain that wrote it"
        )
    return Field(name, KINDS[plain], nullable=plain != kind)


def newest_revision(store: Reader) -> int:
    """The largest revision or step in the store, 0 when it is empty; `>> 32` is the epoch that wrote it (rule 33)."""
    newest = 0
    for name, table in store.tables.items():
        if table.version is not None:
            frame: pl.DataFrame = store.query(f"SELECT max({table.version}) AS newest FROM {name}")
            newest = max(newest, int(frame.item() or 0))
    return newest
