"""Reads the fields and times of a mapping: which column, which unit, which format, for which column of the stream."""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from connectors.fields import Field, Instant, Kind, Number, NumberByUnit, Truth, Words
from connectors.mapping import FIELD_KEYS, MappingError, refuse_unknown
from connectors.mapping_tables import Tables, text
from connectors.times import TimeFormat
from connectors.units import UNITS, UnitError, factor, is_count
from pipelines.pack import duration_ms
from pipelines.streams import Flag, Int, Stream, Text, Time

TIME_DEFAULTS: Final = ("format", "zone", "ambiguous", "nonexistent")
"""Keys that times in `[fields]` and `[[unpivot]]` take from `[time]` where they do not say them."""


class FieldReader:
    """Reads fields of one stream; `times` is the mapping's `[time]`, whose format and zone are the defaults."""

    def __init__(self, tables: Tables, stream: Stream, times: Table[str, Any]) -> None:
        self.tables, self.path = tables, tables.path
        self.stream = stream
        self.times = times

    def fields(self, value: object, where: str, shared: Table[str, Field]) -> dict[str, Field]:
        names = tuple(c.name for c in self.stream.columns)
        table = self.tables.table(value, where, names)
        gas = table.get("pollutant", {})
        gas = gas.get("constant") if isinstance(gas, dict) else None
        if gas is None and "pollutant" in shared:
            gas = shared["pollutant"].constant
        return {
            name: self.field(spec, f"{where}: {name}", FIELD_KEYS, self.stream.column(name), gas)
            for name, spec in table.items()
        }

    def field(
        self, value: object, where: str, keys: tuple[str, ...], column: Int | Text | Flag | Time, gas: str | None = None
    ) -> Field:
        table = self.tables.table(value, where, keys)
        names = self.tables.columns(table, where)
        if bool(names) == ("constant" in table):
            raise MappingError(f'{self.path}: {where} needs "column", "columns" or "constant", and one of them only')
        values = table.get("values", {})
        if not isinstance(values, dict):
            raise MappingError(f"{self.path}: {where}: values is {values!r}; a table of texts is wanted")
        if "other" in table and not values:
            raise MappingError(
                f'{self.path}: {where}: "other" is for texts that are not among "values"; there are none'
            )

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

    def _kind(self, column: Int | Text | Flag | Time, table: Table[str, Any], where: str, gas: str | None) -> Kind:
        numeric = [k for k in ("unit", "unit_column", "gas", "scale") if k in table]
        timed = [k for k in TIME_DEFAULTS if k in table]
        misplaced = [
            *(numeric if not isinstance(column, Int) else []),
            *(timed if not isinstance(column, Time) else []),
        ]
        if misplaced:
            raise MappingError(
                f"{self.path}: {where}: {misplaced[0]!r} does not fit {column.name!r}, a {type(column).__name__}"
            )
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
                    f'{self.path}: {where}: "unit" is missing: the unit of the source, such as {column.unit!r}'
                )
            return Number(by, True)
        try:
            return Number(by * factor(text(table["unit"], where), column.unit, gas), is_count(column.unit))
        except UnitError as error:
            raise MappingError(f"{self.path}: {where}: {error}") from None

    # Times ---------------------------------------------------------------------------------------------------------

    def time(self, table: Table[str, Any], where: str) -> Field:
        names = self.tables.columns(table, where)
        if not names:
            raise MappingError(f'{self.path}: {where}: "column" (or "columns") is missing')
        stamp = self.tables.one_of(
            f"{where}: stamp", table.get("stamp", self.stream.stamp), ("instant", "start", "end")
        )
        length = self.stream.length_ms
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
            self.tables.one_of(f"{where}: ambiguous", table["ambiguous"], ("earliest", "latest", "refuse"))
        if "nonexistent" in table:
            self.tables.one_of(f"{where}: nonexistent", table["nonexistent"], ("shift", "refuse"))
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
