"""Reads a mapping's TOML into the compiled mapping; what a writer can get wrong is a MappingError that says what."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping as Table
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from connectors.conditions import OPERATORS, Condition, Operator
from connectors.fields import Field, Number, Words
from connectors.formats.csv import CsvOptions
from connectors.formats.foreign import EVERY, Foreign
from connectors.lookup import read_sites
from connectors.mapped_rows import Branch, MappedRows
from connectors.mapping import (
    CSV_KEYS,
    PLACE_KEYS,
    TIME_KEYS,
    TOP_KEYS,
    UNPIVOT_KEYS,
    WHERE_KEYS,
    Mapping,
    MappingError,
    column_names,
    refuse_unknown,
)
from connectors.mapping_fields import FieldReader
from connectors.mapping_tables import Tables, text
from connectors.units import UnitError, is_count
from pipelines.catalogue import STREAMS
from pipelines.city import Site
from pipelines.pack import PackError, duration_ms
from pipelines.streams import Flag, Int, Stream, Text, Time


def read(path: Path, data: Path | None, lookup: Path | None) -> Mapping:
    """See `connectors.mapping.read_mapping`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise MappingError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"{path} is no TOML: {error}") from None
    try:
        return _Reader(path, raw).mapping(data, lookup)
    except (PackError, UnitError) as error:
        raise MappingError(f"{path}: {error}") from None


def canonical(stream: Stream, path: Path) -> Mapping:
    """The mapping of a CSV or Parquet file whose columns are the stream's own; MappingError where one is missing."""
    present = column_names(path)
    if not present:
        raise MappingError(f"{path} has no header: it is empty, or breaks off before the end of its first line")
    needed = ["t", stream.place, *(c.name for c in stream.columns if not c.nullable)]
    if missing := [name for name in needed if name not in present]:
        raise MappingError(
            f"{path} has no column {missing[0]!r}, which a file of stream {stream.name!r} needs; it has "
            f"{', '.join(present)}. If its columns are others, give --map; `citybrain profile` proposes a mapping"
        )
    fields = {
        c.name: {"column": c.name, **({"unit": c.unit} if isinstance(c, Int) and not is_count(c.unit) else {})}
        for c in stream.columns
        if c.name in present
    }
    raw: dict[str, Any] = {
        "stream": stream.name, "source": str(path), "place": {"column": stream.place}, "fields": fields,
        "time": {"column": "t", "format": "unix_ms", "stamp": "instant"},
    }  # fmt: skip
    return _Reader(path, raw).mapping(None, None)


class _Reader:
    """One mapping file while it is read."""

    def __init__(self, path: Path, raw: dict[str, Any]) -> None:
        self.path = path
        self.raw = raw
        refuse_unknown(str(path), "key", raw, TOP_KEYS)
        for key in ("stream", "source", "place"):
            if key not in raw:
                raise MappingError(f"{path}: {key!r} is missing")
        names = [s.name for s in STREAMS]
        refuse_unknown(str(path), "stream", [text(raw["stream"], f"{path}: stream")], names)
        self.declared = next(s for s in STREAMS if s.name == raw["stream"])
        self.tables = Tables(path)
        self.times = self.tables.table(raw.get("time", {}), "time", TIME_KEYS)
        self.fields = FieldReader(self.tables, self.declared, self.times)

    def mapping(self, data: Path | None, lookup: Path | None) -> Mapping:
        raw, path = self.raw, self.path
        key = self._key()
        stream = self._stream(key)
        order = self.tables.one_of("order", raw.get("order", "arrival"), ("arrival", "event_time"))
        name = raw.get("format")
        if name is not None:
            self.tables.one_of("format", name, ("csv", "ndjson", "parquet"))
        foreign = Foreign(self._rows(stream, key), self._nulls(), order)  # type: ignore[arg-type]
        sites: tuple[Site, ...] = ()
        if "lookup" in raw:
            table = raw["lookup"]
            options = self.csv(table.get("csv", {}) if isinstance(table, dict) else {})
            sites = read_sites(path, table, stream, options, data, lookup)
        elif lookup is not None:
            raise MappingError(f"{path} has no [lookup], so --lookup {lookup} is of no use")
        own = raw.get("disorder")
        return Mapping(
            path,
            text(raw["source"], f"{path}: source"),
            stream,
            foreign,
            name,
            self.csv(raw.get("csv", {})),
            None if own is None else duration_ms(own, f"{path}: disorder"),
            sites,
        )

    # Tables --------------------------------------------------------------------------------------------------------

    def csv(self, value: object) -> CsvOptions:
        table = self.tables.table(value, "csv", CSV_KEYS)
        delimiter = table.get("delimiter", ",")
        if not isinstance(delimiter, str) or len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise MappingError(
                f'{self.path}: csv: delimiter is {delimiter!r}; one byte is wanted, such as ";" or "\\t"'
            )
        encoding = self.tables.one_of("csv: encoding", table.get("encoding", "utf-8"), ("utf-8", "latin-1"))
        quoted = table.get("quoted", True)
        if not isinstance(quoted, bool):
            raise MappingError(f"{self.path}: csv: quoted is {quoted!r}; true or false is wanted")
        names = self.tables.strings(table["columns"], "csv: columns") if "columns" in table else ()
        return CsvOptions(delimiter, quoted, encoding, names)  # type: ignore[arg-type]

    def _nulls(self) -> dict[str, frozenset[str]]:
        value = self.raw.get("null_when", {})
        if isinstance(value, list):
            value = {EVERY: value}
        if not isinstance(value, dict):
            raise MappingError(f"{self.path}: null_when is {value!r}; a list of texts, or a table of lists by column")
        return {column: frozenset(self.tables.strings(v, f"null_when: {column}")) for column, v in value.items()}

    def _key(self) -> tuple[str, ...] | None:
        return self.tables.strings(self.raw["event_id"], "event_id") if "event_id" in self.raw else None

    def _stream(self, key: tuple[str, ...] | None) -> Stream:
        """The declared stream with what the mapping overrides."""
        raw, stream = self.raw, self.declared

        def of(name: str, declared: int) -> int:
            return duration_ms(raw[name], f"{self.path}: {name}") if name in raw else declared

        stream = replace(
            stream, disorder_ms=of("disorder", stream.disorder_ms), horizon_ms=of("horizon", stream.horizon_ms)
        )
        if "period" in raw:
            stream = replace(stream, period_ms=of("period", 0))
        if "dedup" in raw:
            self.tables.one_of("dedup", raw["dedup"], ("none",))
            if key is not None:
                raise MappingError(f'{self.path}: dedup = "none" and event_id exclude each other')
            return replace(stream, dedup=None, horizon_ms=0)
        if key is not None and stream.dedup is None:
            if "horizon" not in raw:
                raise MappingError(
                    f"{self.path}: stream {stream.name!r} has no duplicates declared, so event_id needs horizon "
                    'as well: how long a key is remembered, such as "10m"'
                )
            return replace(stream, dedup=key)
        return stream

    # Rows ----------------------------------------------------------------------------------------------------------

    def _rows(self, stream: Stream, key: tuple[str, ...] | None) -> MappedRows:
        fields = self.fields.fields(self.raw.get("fields", {}), "fields", {})
        branches = tuple(self._branch(b, n, fields) for n, b in enumerate(self._list("unpivot"), 1))
        time = self.fields.time(self.times, "time") if {"column", "columns"} & self.times.keys() else None
        if time is None and (not branches or any(b.time is None for b in branches)):
            raise MappingError(f'{self.path}: time: "column" (or "columns") is missing')
        fields |= self._missing(fields, branches)
        order = [c.name for c in stream.columns]
        place = self.fields.field(self.raw["place"], "place", PLACE_KEYS, Text("place"))
        return MappedRows(
            stream,
            replace(place, name="place"),
            time,
            tuple(fields[n] for n in order if n in fields),
            branches,
            self._conditions(self._list("where"), "where"),
            key,
        )

    def _list(self, name: str) -> list[Any]:
        value = self.raw.get(name, [])
        if not isinstance(value, list):
            raise MappingError(f"{self.path}: {name} is a list of tables: write [[{name}]]")
        return value

    def _missing(self, fields: Table[str, Field], branches: tuple[Branch, ...]) -> dict[str, Field]:
        """Null for the columns that no one maps and that may be null; MappingError for those that may not."""
        out: dict[str, Field] = {}
        for column in self.declared.columns:
            own = [any(f.name == column.name for f in b.fields) for b in branches]
            if column.name in fields or (own and all(own)):
                continue
            if not (isinstance(column, Flag | Time | Int | Text) and column.nullable):
                known = ", ".join(c.name for c in self.declared.columns)
                raise MappingError(
                    f"{self.path}: fields: {column.name!r} is missing; stream {self.declared.name!r} has {known}"
                )
            out[column.name] = Field(column.name, Words() if isinstance(column, Text) else Number())
        return out

    def _branch(self, value: object, number: int, shared: Table[str, Field]) -> Branch:
        where = f"unpivot {number}"
        table = self.tables.table(value, where, UNPIVOT_KEYS)
        fields = self.fields.fields(table.get("fields", {}), f"{where}: fields", shared)
        time = None
        if "time" in table:
            own = self.tables.table(table["time"], f"{where}: time", TIME_KEYS)
            merged = {**{k: v for k, v in self.times.items() if k not in ("column", "columns")}, **own}
            time = self.fields.time(merged, f"{where}: time")
        needs = dict.fromkeys(time.columns if time else ())
        for name, each in fields.items():
            if not self.declared.column(name).nullable and each.default is None:
                needs |= dict.fromkeys(each.columns)
        conditions = self._conditions(table.get("where", []), f"{where}: where")
        order = [c.name for c in self.declared.columns]
        return Branch(time, tuple(fields[n] for n in order if n in fields), conditions, tuple(needs))

    def _conditions(self, values: object, where: str) -> tuple[Condition, ...]:
        if not isinstance(values, list):
            raise MappingError(f"{self.path}: {where} is {values!r}; a list of conditions is wanted")
        return tuple(self._condition(v, f"{where} {n}") for n, v in enumerate(values, 1))

    def _condition(self, value: object, where: str) -> Condition:
        table = self.tables.table(value, where, WHERE_KEYS)
        found = [k for k in table if k in OPERATORS]
        if "column" not in table or len(found) != 1:
            raise MappingError(
                f"{self.path}: {where} needs a column and one of {', '.join(OPERATORS)}; it has {', '.join(table)}"
            )
        operator: Operator = found[0]
        operand = table[operator]
        column = text(table["column"], f"{self.path}: {where}: column")
        if operator == "present":
            if not isinstance(operand, bool):
                raise MappingError(f"{self.path}: {where}: present is {operand!r}; true or false is wanted")
            return Condition(column, operator, present=operand)
        several = operator in ("in", "not_in")
        if several != isinstance(operand, list):
            wanted = "a list" if several else "one value"
            raise MappingError(f"{self.path}: {where}: {operator} is {operand!r}; {wanted} is wanted")
        operands = operand if several else [operand]
        if operands and all(isinstance(o, int | Decimal) and not isinstance(o, bool) for o in operands):
            return Condition(column, operator, numbers=tuple(Fraction(o) for o in operands))
        if operator in ("gt", "ge", "lt", "le") or not operands or not all(isinstance(o, str) for o in operands):
            raise MappingError(
                f"{self.path}: {where}: {operator} is {operand!r}; numbers are wanted"
                + ("" if operator in ("gt", "ge", "lt", "le") else ", or texts, not both")
            )
        return Condition(column, operator, texts=frozenset(operands))
