"""The side table of a mapping: places with their attributes (lengths, free-flow times, capacities), as sites.

Attributes are integers above 0 in the unit that their name ends with (`length_m`, `free_ms`), converted exactly. A
side table is configuration, so a wrong cell in it is an error and not a dead letter.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NoReturn

from connectors.decompressed import decompressed
from connectors.fields import Cells, Field, Instant, Kind, Number, Words
from connectors.formats.csv import CsvOptions, rows_of
from connectors.formats.foreign import BLANKS
from connectors.mapping import (
    ATTRIBUTE_KEYS,
    LOOKUP_KEYS,
    PLACE_KEYS,
    TIME_KEYS,
    MappingError,
    path_suffix,
    refuse_unknown,
)
from connectors.times import TimeFormat
from connectors.units import UnitError, factor, is_count
from pipelines.city import Site
from pipelines.records import PLACE_BYTES, Refused
from pipelines.streams import Stream

UNASSIGNED: Final = "unassigned"
"""The district of a place for which the mapping says none (rule 10)."""
ATTRIBUTES: Final = {"length_m": "m", "free_ms": "ms", "capacity": "spaces"}
"""The attributes that a side table may give, and the unit of each."""


class SideTable:
    """The `[lookup]` of a mapping, checked; `sites` reads a file with it."""

    def __init__(self, where: str, value: object, stream: Stream, options: CsvOptions) -> None:
        self.where = where
        self.stream = stream
        self.options = options
        table = self._table(value, "lookup", LOOKUP_KEYS)
        for key in ("file", "key", "attributes"):
            if key not in table:
                self._fail(f"lookup: {key!r} is missing")
        self.file = str(table["file"])
        self.key = Field("place", Words(), (str(table["key"]),))
        self.district = self._place(table["district"]) if "district" in table else None
        self.valid_from = self._since(table["valid_from"]) if "valid_from" in table else None
        attributes = self._table(table["attributes"], "lookup: attributes", tuple(ATTRIBUTES))
        self.attributes = [self._attribute(name, spec) for name, spec in attributes.items()]

    def _fail(self, message: str) -> NoReturn:
        raise MappingError(f"{self.where}: {message}")

    def _table(self, value: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(f"{where} is {value!r}; a table is wanted")
        refuse_unknown(f"{self.where}: {where}", "key", value, keys)
        return value

    def _place(self, value: object) -> Field:
        table = self._table(value, "lookup: district", PLACE_KEYS)
        if ("column" in table) == ("constant" in table):
            self._fail('lookup: district needs "column" or "constant"')
        names = (str(table["column"]),) if "column" in table else ()
        values = {str(k): str(v) for k, v in table.get("values", {}).items()}
        return Field(
            "district", Words(), names, table.get("constant"), table.get("default"), values, table.get("other")
        )

    def _since(self, value: object) -> Field:
        """A text in ISO 8601 with its offset, or a column with its format and zone."""
        if isinstance(value, str):
            since = Field("valid_from", Instant(TimeFormat()), constant=value)
            if isinstance(read := since.one({}), Refused):
                self._fail(f"lookup: {read.detail}")
            return since
        table = self._table(value, "lookup: valid_from", tuple(k for k in TIME_KEYS if k not in ("stamp", "length")))
        names = (str(table["column"]),) if "column" in table else tuple(table.get("columns", ()))
        if not names:
            self._fail('lookup: valid_from needs "column" (or "columns"), or is a text')
        said = {k: v for k, v in table.items() if k in ("format", "zone", "ambiguous", "nonexistent")}
        try:
            return Field("valid_from", Instant(TimeFormat(**said)), names, join=table.get("join", " "))
        except ValueError as error:
            self._fail(f"lookup: valid_from: {error}")

    def _attribute(self, name: str, value: object) -> Field:
        where = f"lookup: attributes: {name}"
        table = self._table(value, where, ATTRIBUTE_KEYS)
        if ("column" in table) == ("constant" in table):
            self._fail(f'{where} needs "column" or "constant"')
        target = ATTRIBUTES[name]
        if "unit" not in table and not is_count(target):
            self._fail(f'{where}: "unit" is missing: the unit of the side table, such as {target!r}')
        scale = table.get("scale", 1)
        if isinstance(scale, bool) or not isinstance(scale, int | Decimal) or scale <= 0:
            self._fail(f"{where}: scale is {scale!r}; a number above 0 is wanted")
        try:
            by = Fraction(scale) * factor(str(table.get("unit", target)), target)
        except UnitError as error:
            self._fail(f"{where}: {error}")
        kind: Kind = Number(by, is_count(target))
        constant = None if "constant" not in table else str(table["constant"])
        return Field(name, kind, (str(table["column"]),) if "column" in table else (), constant)

    # Reading -------------------------------------------------------------------------------------------------------

    def path(self, mapping: Path, data: Path, given: Path | None) -> Path:
        """Where the side table is: as given, beside the mapping, beside the data or in the folder above it."""
        if given is not None:
            if not given.is_file():
                raise MappingError(f"--lookup {given}: there is no such file")
            return given
        places = [mapping.parent, data.resolve().parent, data.resolve().parent.parent]
        for folder in places:
            if (folder / self.file).is_file():
                return folder / self.file
        looked = ", ".join(str(p) for p in dict.fromkeys(places))
        return self._fail(f"lookup: file {self.file!r} is in none of {looked}; say where it is with --lookup FILE")

    def sites(self, path: Path) -> tuple[Site, ...]:
        options = self.options
        if path_suffix(path) == ".tsv" and options.delimiter == ",":
            options = CsvOptions("\t", options.quoted, options.encoding, options.columns)
        with decompressed(path)[0] as file:
            content = file.read()
        try:
            names, rows = rows_of(content, options, str(path))
        except ValueError as error:
            raise MappingError(str(error)) from None
        fields = [self.key, *self.attributes, *([self.district] if self.district else [])]
        fields += [self.valid_from] if self.valid_from else []
        refuse_unknown(f"{self.where}: lookup in {path}", "column", (c for f in fields for c in f.columns), names)
        sites: dict[tuple[str, int], Site] = {}
        for line, raw in rows:
            cells = {k: v.strip(BLANKS) or None for k, v in raw.items()}
            site = self._site(cells, f"{path}:{line}")
            if (site.id, site.valid_from) in sites:
                raise MappingError(f"{path}:{line}: {site.id!r} stands twice with the same valid_from")
            sites[site.id, site.valid_from] = site
        return tuple(sites.values())

    def _site(self, cells: Cells, where: str) -> Site:
        def of(field: Field) -> int | str | None:
            value = field.one(cells)
            if isinstance(value, Refused):
                raise MappingError(f"{where}: {value.detail}")
            return value

        place = of(self.key)
        if not isinstance(place, str) or len(place.encode()) > PLACE_BYTES:
            raise MappingError(f"{where}: {self.key.label} is {place!r}; a place of 1 to {PLACE_BYTES} bytes is wanted")
        attributes: dict[str, int] = {}
        for field in self.attributes:
            value = of(field)
            if isinstance(value, int):
                if value <= 0:
                    raise MappingError(f"{where}: {field.label} is {cells.get(field.label)!r}; it must be above 0")
                attributes[field.name] = value
        district = of(self.district) if self.district else None
        since = of(self.valid_from) if self.valid_from else 0
        return Site(
            self.stream.name,
            place,
            str(district) if district is not None else UNASSIGNED,
            attributes=attributes,
            valid_from=since if isinstance(since, int) else 0,
            period_ms=self.stream.period_ms,
        )


def read_sites(
    mapping: Path, value: object, stream: Stream, options: CsvOptions, data: Path | None, given: Path | None
) -> tuple[Site, ...]:
    """The sites of a mapping's side table; checked but not read, so empty, without `data` and `given`."""
    table = SideTable(str(mapping), value, stream, options)
    if data is None and given is None:
        return ()
    return table.sites(table.path(mapping, data or mapping, given))
