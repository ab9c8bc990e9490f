"""Reads a store: newest readings, episodes, rows. Every value that a user may give is bound by the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import polars as pl

from pipelines.rollup import Rollup
from pipelines.streams import Stream
from sinks.connection import QUERY_S, Address, Connection
from sinks.ddl import Table, quoted
from sinks.errors import StoreError
from sinks.failures import explained

Some = str | Sequence[str] | None
FINAL: Final = "FINAL"
PARALLEL: Final = 4
"""Readers at once; more wait. A connection is a handle of its own, so a slow query does not hold up the writer."""
BINDING: Final = {
    "text": "String",
    "word": "String",
    "int": "Int64",
    "small": "Int32",
    "float": "Float64",
    "flag": "Bool",
    "version": "UInt64",
}


class Reader:
    """Queries over the tables of a store. Safe to use from several threads.

    Frames carry the schemas of `pipelines.model`, times as Int64 UTC ms, and are sorted by the key of their
    table. Ranges are half-open. A failing query raises StoreError and leaves nothing behind.
    """

    def __init__(self, address: Address, tables: Mapping[str, Table]) -> None:
        self.address = address
        self.tables = tables
        self._free: list[Connection] = []
        self._slots = threading.BoundedSemaphore(PARALLEL)
        self._closed = False

    def query(
        self, sql: str, parameters: Mapping[str, object] | None = None, *, seconds: int = QUERY_S
    ) -> pl.DataFrame:
        """Any SELECT of the program itself, never text from outside: an embedded store has no sandbox."""
        with self._connection() as connection:
            try:
                return connection.query(sql, parameters, seconds=seconds)
            except Exception as error:
                raise explained(error, self.address.shown, "a query") from error

    def newest_readings(
        self,
        *,
        indicator: Some = None,
        place_kind: Some = None,
        place: Some = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        """The newest revision of every reading whose window ends in [from_ms, until_ms).

        `last` keeps only so many of the newest windows of every (indicator, place).
        """
        table = self._table("readings")
        where = _Where()
        where.among("indicator", indicator)
        where.among("place_kind", place_kind)
        where.among("place", place)
        where.within("window_end", from_ms, until_ms)
        tail = ""
        if last is not None:
            by = ", ".join(table.key[:4])
            tail = f"ORDER BY {by}, window_end DESC, window_start DESC LIMIT {int(last)} BY {by}"
        return self._select(table, where, tail).sort(table.key)

    def latest_cells(self) -> pl.DataFrame:
        """The newest reading of every (indicator, place_kind, place): where a restart goes on from."""
        table = self._table("readings")
        cell = "indicator, place_kind, place"
        # Three times as fast as sorting all readings; the newest revision of the newest window needs no FINAL.
        where = _Where()
        where.parts.append(
            f"({cell}, window_end) IN (SELECT {cell}, max(window_end) FROM {quoted(table.name)} GROUP BY {cell})"
        )
        tail = f"ORDER BY window_start DESC, method_id DESC, revision DESC LIMIT 1 BY {cell}"
        return self._select(table, where, tail, final="").sort(table.key)

    def episodes(
        self,
        *,
        episode_id: Some = None,
        rule: Some = None,
        indicator: Some = None,
        place: Some = None,
        state: Some = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        """The newest revision of episodes that were open at some time in [from_ms, until_ms).

        `last` keeps only so many of those that changed last.
        """
        where = _Where()
        where.among("episode_id", episode_id)
        where.among("rule", rule)
        where.among("indicator", indicator)
        where.among("place", place)
        where.among("state", state)
        where.within("started_at", None, until_ms)
        if from_ms is not None:
            where.parts.append("(ended_at IS NULL OR ended_at >= fromUnixTimestamp64Milli({ended:Int64}, 'UTC'))")
            where.parameters["ended"] = from_ms
        tail = "" if last is None else f"ORDER BY revision DESC, episode_id LIMIT {int(last)}"
        return self._select(self._table("episodes"), where, tail).sort("episode_id")

    def transitions(self, *, episode_id: Some = None) -> pl.DataFrame:
        """Transitions by (episode_id, seq)."""
        where = _Where()
        where.among("episode_id", episode_id)
        return self._select(self._table("transitions"), where).sort("episode_id", "seq")

    def panes(self, rollup: Rollup | str, from_ms: int, until_ms: int) -> pl.DataFrame:
        """The rows of a rollup whose pane starts in [from_ms, until_ms), late ones included (rule 26)."""
        where = _Where()
        where.within("pane_start", from_ms, until_ms)
        name = rollup if isinstance(rollup, str) else rollup.name
        table = self._table(f"rows_{name}")
        return self._select(table, where).sort(table.key)

    def lifecycles(self, stream: Stream | str, *, case_id: Some = None) -> pl.DataFrame:
        """The milestones of a lifecycle stream, of these cases or of all (rule 22)."""
        where = _Where()
        where.among("case_id", case_id)
        name = stream if isinstance(stream, str) else stream.name
        table = self._table(f"lifecycles_{name}")
        return self._select(table, where).sort(table.key)

    def counts(self, since: int = 0) -> dict[str, int]:
        """Distinct keys per table; of tables with revisions only those whose newest one is not below `since`."""
        out = {}
        for name, table in self.tables.items():
            newer = f"WHERE revision >= {int(since)}" if since and "revision" in table.schema else ""
            out[name] = int(self.query(f"SELECT count() FROM {quoted(name)} {FINAL} {newer}").item())
        return out

    def page(self, table: str, after: tuple[Any, ...] | None, limit: int, *, newest: bool = True) -> pl.DataFrame:
        """The next `limit` rows by key (and version, where not only the newest is wanted) after that of `after`.

        `after` holds the values of `order(table, newest)` of the last row seen; memory is bounded by `limit`.
        """
        declared = self._table(table)
        names = order(declared, newest)
        where = _Where()
        if after is not None:
            where.after(declared, names, after)
        by = ", ".join(map(quoted, names))
        once = "" if newest else f"LIMIT 1 BY {by} "
        # Parts are merged in their order, which one thread does in half the work of several.
        tail = f"ORDER BY {by} {once}LIMIT {int(limit)} SETTINGS max_threads = 1, max_final_threads = 1"
        return self._select(declared, where, tail, FINAL if newest else "")

    def close(self) -> None:
        """Lets go of the store for good; a query that is under way ends first and then lets go of its connection."""
        self._closed = True
        while self._free:
            self._free.pop().close()

    def _table(self, name: str) -> Table:
        try:
            return self.tables[name]
        except KeyError:
            raise LookupError(f"the store has no table {name!r}; it has {', '.join(self.tables)}") from None

    def _select(self, table: Table, where: _Where, tail: str = "", final: str = FINAL) -> pl.DataFrame:
        names = ", ".join(quoted(f.name) for f in table.fields)
        text = f"SELECT {names} FROM {quoted(table.name)} {final} {where.text} {tail}"
        return self.query(text, where.parameters).cast(pl.Schema(table.schema))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self._slots:
            self._refuse_closed()
            try:
                connection = self._free.pop()
            except IndexError:
                connection = Connection(self.address)
            try:
                yield connection
            finally:
                if self._closed:
                    connection.close()
                else:
                    self._free.append(connection)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.address.shown} was closed; open it again with a new sink")


def order(table: Table, newest: bool) -> tuple[str, ...]:
    """The columns by which the rows of a table are in order: its key as rule 31 has it, then the version."""
    return table.key if newest or table.version is None else (*table.key, table.version)


class _Where:
    """A WHERE clause and its bound values."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.parameters: dict[str, object] = {}

    @property
    def text(self) -> str:
        return f"WHERE {' AND '.join(self.parts)}" if self.parts else ""

    def among(self, column: str, values: Some) -> None:
        """The column is that value, or one of those."""
        if values is not None:
            self.parts.append(f"{column} IN {{{column}:Array(String)}}")
            self.parameters[column] = [values] if isinstance(values, str) else list(values)

    def within(self, column: str, from_ms: int | None, until_ms: int | None) -> None:
        for name, sign, value in (("from", ">=", from_ms), ("until", "<", until_ms)):
            if value is not None:
                self.parts.append(f"{column} {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
                self.parameters[name] = value

    def after(self, table: Table, names: Sequence[str], values: Sequence[Any]) -> None:
        """(names) > (values) in lexicographic order, spelt out so that the index is used for every column."""
        text = ""
        for i in reversed(range(len(names))):
            kind = table.field(names[i]).kind
            self.parameters[f"k{i}"] = values[i]
            if kind == "time":
                bound = f"fromUnixTimestamp64Milli({{k{i}:Int64}}, 'UTC')"
            else:
                bound = f"{{k{i}:{BINDING[kind]}}}"
            name = quoted(names[i])
            text = f"({name} > {bound} OR ({name} = {bound} AND {text}))" if text else f"{name} > {bound}"
        self.parts.append(text)
