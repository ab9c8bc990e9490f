"""Reads a mapping's TOML into the compiled mapping; whatever a writer can get wrong is a MappingError that says what."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping as Table
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from connectors.conditions import OPERATORS, Condition, Operator
from connectors.fields import Field, Instant, Kind, Number, NumberByUnit, Truth, Words
from connectors.formats.csv import CsvOptions
from connectors.formats.foreign import EVERY, Foreign
from connectors.lookup import read_sites
from connectors.mapped_rows import Branch, MappedRows
from connectors.mapping import (
    CSV_KEYS,
    FIELD_KEYS,
    PLACE_KEYS,
    TIME_KEYS,
    TOP_KEYS,
    UNPIVOT_KEYS,
    WHERE_KEYS,
    Mapping,
    MappingError,
    refuse_unknown,
)
from connectors.times import TimeFormat
from connectors.units import UNITS, UnitError, factor, is_count
from pipelines.pack import PackError, duration_ms
from pipelines.streams import STREAMS, Flag, Int, Stream, Text, Time

TEXTS_OF_SCALARS: Final = {True: "true", False: "false"}
TIME_DEFAULTS: Final = ("format", "zone", "ambiguous", "nonexistent")
"""Keys that times in `[fields]` and `[[unpivot]]` take from `[time]` where they do not say them."""


def read(path: Path, data: Path | None, lookup: Path | None) -> Mapping:
    """See `connectors.mapping.read_mapping`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except FileNotFoundError:
        raise MappingError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: {error}") from None
    try:
        return _Reader(path, raw).mapping(data, lookup)
    except (PackError, UnitError) as error:
        raise MappingError(f"{path}: {error}") from None


def text(value: object, where: str) -> str:
    """A TOML scalar as the text that would stand in a file."""
    match value:
        case bool():
            return TEXTS_OF_SCALARS[value]
        case str():
            return value
        case int() | Decimal():
            return str(value)
    raise MappingError(f"{where} is {value!r}; a text, a number, true or false is wanted")


class _Reader:
    """One mapping file while it is read; `where` in errors is `file: table`."""

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
        self.times = self._table(raw.get("time", {}), "time", TIME_KEYS)

    def mapping(self, data: Path | None, lookup: Path | None) -> Mapping:
        raw, path = self.raw, self.path
        key = self._key()
        stream = self._stream(key)
        order = self._one_of("order", raw.get("order", "arrival"), ("arrival", "event_time"))
        name = raw.get("format")
        if name is not None:
            self._one_of("format", name, ("csv", "ndjson", "parquet"))
        foreign = Foreign(self._rows(stream, key), self._nulls(), order)  # type: ignore[arg-type]
        sites = ()
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

    def _table(self, value: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MappingError(f"{self.path}: {where} is {value!r}; a table is wanted, such as {{ column = \"name\" }}")
        refuse_unknown(f"{self.path}: {where}", "key", value, keys)
        return value

    def _one_of(self, where: str, value: object, allowed: tuple[str, ...]) -> str:
        refuse_unknown(f"{self.path}: {where}", "value", [text(value, where)], allowed)
        return str(value)

    def _strings(self, value: object, where: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise MappingError(f"{self.path}: {where} is {value!r}; a list of texts is wanted")
        return tuple(text(v, f"{self.path}: {where}") for v in value)

    def csv(self, value: object) -> CsvOptions:
        table = self._table(value, "csv", CSV_KEYS)
        delimiter = table.get("delimiter", ",")
        if not isinstance(delimiter, str) or len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise MappingError(f'{self.path}: csv: delimiter is {delimiter!r}; one byte is wanted, such as ";" or "\\t"')
        encoding = self._one_of("csv: encoding", table.get("encoding", "utf-8"), ("utf-8", "latin-1"))
        quoted = table.get("quoted", True)
        if not isinstance(quoted, bool):
            raise MappingError(f"{self.path}: csv: quoted is {quoted!r}; true or false is wanted")
        names = self._strings(table["columns"], "csv: columns") if "columns" in table else ()
        return CsvOptions(delimiter, quoted, encoding, names)  # type: ignore[arg-type]

    def _nulls(self) -> dict[str, frozenset[str]]:
        value = self.raw.get("null_when", {})
        if isinstance(value, list):
            value = {EVERY: value}
        if not isinstance(value, dict):
            raise MappingError(f"{self.path}: null_when is {value!r}; a list of texts, or a table of lists by column")
        return {column: frozenset(self._strings(v, f"null_when: {column}")) for column, v in value.items()}

    def _key(self) -> tuple[str, ...] | None:
        return self._strings(self.raw["event_id"], "event_id") if "event_id" in self.raw else None

    def _stream(self, key: tuple[str, ...] | None) -> Stream:
        """The declared stream with what the mapping overrides."""
        raw, stream = self.raw, self.declared
        for name, attribute in (("disorder", "disorder_ms"), ("period", "period_ms"), ("horizon", "horizon_ms")):
            if name in raw:
                stream = replace(stream, **{attribute: duration_ms(raw[name], f"{self.path}: {name}")})
        if "dedup" in raw:
            self._one_of("dedup", raw["dedup"], ("none",))
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
        fields = self._fields(self.raw.get("fields", {}), "fields", {})
        branches = tuple(self._branch(b, n, fields) for n, b in enumerate(self._list("unpivot"), 1))
        time = self._time(self.times, "time") if {"column", "columns"} & self.times.keys() else None
        if time is None and (not branches or any(b.time is None for b in branches)):
            raise MappingError(f'{self.path}: time: "column" (or "columns") is missing')
        fields |= self._missing(fields, branches)
        order = [c.name for c in stream.columns]
        place = self._field(self.raw["place"], "place", PLACE_KEYS, Text("place"))
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
        table = self._table(value, where, UNPIVOT_KEYS)
        fields = self._fields(table.get("fields", {}), f"{where}: fields", shared)
        time = None
        if "time" in table:
            own = self._table(table["time"], f"{where}: time", TIME_KEYS)
            merged = {**{k: v for k, v in self.times.items() if k not in ("column", "columns")}, **own}
            time = self._time(merged, f"{where}: time")
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
        table = self._table(value, where, WHERE_KEYS)
        found = [k for k in table if k in OPERATORS]
        if "column" not in table or len(found) != 1:
            raise MappingError(
                f"{self.path}: {where} needs a column and one of {', '.join(OPERATORS)}; it has {', '.join(table)}"
            )
        operator: Operator = found[0]  # type: ignore[assignment]
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

    # Fields --------------------------------------------------------------------------------------------------------

    def _fields(self, value: object, where: str, shared: Table[str, Field]) -> dict[str, Field]:
        names = tuple(c.name for c in self.declared.columns)
        table = self._table(value, where, names)
        gas = table.get("pollutant", {})
        gas = gas.get("constant") if isinstance(gas, dict) else None
        if gas is None and "pollutant" in shared:
            gas = shared["pollutant"].constant
        return {
            name: self._field(spec, f"{where}: {name}", FIELD_KEYS, self.declared.column(name), gas)
            for name, spec in table.items()
        }

    def _field(
        self, value: object, where: str, keys: tuple[str, ...], column: Int | Text | Flag | Time, gas: str | None = None
    ) -> Field:
        table = self._table(value, where, keys)
        names = self._columns(table, where)
        if bool(names) == ("constant" in table):
            raise MappingError(f'{self.path}: {where} needs "column", "columns" or "constant", and one of them only')
        values = table.get("values", {})
        if not isinstance(values, dict):
            raise MappingError(f"{self.path}: {where}: values is {values!r}; a table of texts is wanted")
        if "other" in table and not values:
            raise MappingError(f'{self.path}: {where}: "other" is for texts that are not among "values"; there are none')

        def of(key: str) -> str | None:
            return text(table[key], f"{self.path}: {where}: {key}") if key in table else None

        kind = self._kind(column, table, where, gas)
        field = Field(
            column.name,
            kind,
            names,
            of("constant"),
            of("default"),
            {k: text(v, f"{self.path}: {where}: values") for k, v in values.items()},
            of("other"),
            table.get("join", " "),
        )
        self._try(field, where, column)
        return field

    def _try(self, field: Field, where: str, column: Int | Text | Flag | Time) -> None:
        """What the mapping itself says is read now: a constant that is wrong is no fault of any record."""
        plain = replace(field, columns=(), values={}, default=None)
        if isinstance(field.kind, NumberByUnit):
            return
        said = [field.constant] if field.constant is not None and not field.values else []
        for each in [*said, *([field.default] if not field.values else []), field.other, *field.values.values()]:
            if each is None:
                continue
            value = replace(plain, constant=each).one({})
            allowed = column.values if isinstance(column, Text) else ()
            if isinstance(value, tuple):
                raise MappingError(f"{self.path}: {where}: {value.detail}")
            if allowed:
                refuse_unknown(f"{self.path}: {where}", "value", [str(value)], allowed)
            if isinstance(column, Int) and isinstance(value, int) and not column.low <= value <= column.high:
                raise MappingError(
                    f"{self.path}: {where}: {each!r} is {value} {column.unit}; allowed is {column.low} to {column.high}"
                )

    def _columns(self, table: Table[str, Any], where: str) -> tuple[str, ...]:
        if "column" in table and "columns" in table:
            raise MappingError(f'{self.path}: {where} has both "column" and "columns"')
        if "column" in table:
            return (text(table["column"], f"{self.path}: {where}: column"),)
        return self._strings(table["columns"], f"{where}: columns") if "columns" in table else ()

    def _kind(self, column: Int | Text | Flag | Time, table: Table[str, Any], where: str, gas: str | None) -> Kind:
        numeric = [k for k in ("unit", "unit_column", "gas", "scale") if k in table]
        timed = [k for k in TIME_DEFAULTS if k in table]
        misplaced = [*(numeric if not isinstance(column, Int) else []), *(timed if not isinstance(column, Time) else [])]
        if misplaced:
            raise MappingError(f"{self.path}: {where}: {misplaced[0]!r} does not fit {column.name!r}, a {type(column).__name__}")
        match column:
            case Int():
                return self._number(column, table, where, table.get("gas", gas))
            case Text():
                return Words()
            case Flag():
                return Truth()
            case Time():
                said = {k: v for k, v in self.times.items() if k in TIME_DEFAULTS}
                return Instant(self._format({**said, **{k: table[k] for k in timed}}, where))

    def _number(self, column: Int, table: Table[str, Any], where: str, gas: str | None) -> Kind:
        scale = table.get("scale", 1)
        if isinstance(scale, bool) or not isinstance(scale, int | Decimal) or scale <= 0:
            raise MappingError(f"{self.path}: {where}: scale is {scale!r}; a number above 0 is wanted")
        by = Fraction(scale)
        if "unit" in table and "unit_column" in table:
            raise MappingError(f'{self.path}: {where} has both "unit" and "unit_column"')
        if "unit_column" in table:
            factors = {}
            for unit in UNITS:
                try:
                    factors[unit.name] = (by * factor(unit.name, column.unit, gas), is_count(column.unit))
                except UnitError:
                    continue
            return NumberByUnit(text(table["unit_column"], where), factors)
        if "unit" not in table:
            if not is_count(column.unit):
                raise MappingError(
                    f"{self.path}: {where}: \"unit\" is missing: the unit of the source, such as {column.unit!r}"
                )
            return Number(by, True)
        try:
            return Number(by * factor(text(table["unit"], where), column.unit, gas), is_count(column.unit))
        except UnitError as error:
            raise MappingError(f"{self.path}: {where}: {error}") from None

    # Times ---------------------------------------------------------------------------------------------------------

    def _time(self, table: Table[str, Any], where: str) -> Field:
        names = self._columns(table, where)
        if not names:
            raise MappingError(f'{self.path}: {where}: "column" (or "columns") is missing')
        stamp = self._one_of(f"{where}: stamp", table.get("stamp", self.declared.stamp), ("instant", "start", "end"))
        length = self.declared.length_ms
        if "length" in table:
            length = duration_ms(table["length"], f"{self.path}: {where}: length")
        if stamp != "instant" and length <= 0:
            raise MappingError(f'{self.path}: {where}: stamp = "{stamp}" needs a length, such as length = "5m"')
        if stamp == "instant" and "length" in table:
            raise MappingError(f'{self.path}: {where}: a length says nothing without stamp = "start" or "end"')
        shift = {"instant": 0, "start": length - 1, "end": -1}[stamp]
        kind = Instant(self._format({k: table[k] for k in TIME_DEFAULTS if k in table}, where), shift)
        return Field("t", kind, names, join=table.get("join", " "))

    def _format(self, table: dict[str, Any], where: str) -> TimeFormat:
        if "ambiguous" in table:
            self._one_of(f"{where}: ambiguous", table["ambiguous"], ("earliest", "latest", "refuse"))
        if "nonexistent" in table:
            self._one_of(f"{where}: nonexistent", table["nonexistent"], ("shift", "refuse"))
        if (zone := table.get("zone")) is not None:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError, TypeError):
                raise MappingError(
                    f'{self.path}: {where}: zone {zone!r} is unknown; use a tz name such as "Asia/Shanghai" or "UTC"'
                ) from None
        try:
            return TimeFormat(**table)
        except ValueError as error:
            raise MappingError(f"{self.path}: {where}: {error}") from None
