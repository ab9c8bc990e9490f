"""Mappings: what turns the columns of a foreign file into events of a stream, read once from TOML into frozen data.

`docs/mapping-files.md` describes every key. The keys are closed lists (below); unknown keys, columns and units are
refused with what is allowed and the nearest name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from connectors.conditions import OPERATORS
from connectors.decompressed import decompressed
from connectors.formats import Format, FormatError
from connectors.formats.csv import CsvFormat, CsvOptions, header
from connectors.formats.foreign import Foreign
from connectors.formats.json_lines import JsonLinesFormat, first_keys
from connectors.formats.parquet import ParquetFormat, columns
from pipelines.city import Site
from pipelines.streams import Stream

FormatName = Literal["csv", "ndjson", "parquet"]
Order = Literal["arrival", "event_time"]

TOP_KEYS: Final = (
    "stream", "source", "format", "csv", "time", "place", "fields", "event_id", "dedup", "null_when", "where",
    "unpivot", "lookup", "order", "disorder", "period", "horizon",
)  # fmt: skip
CSV_KEYS: Final = ("delimiter", "quoted", "encoding", "columns")
TIME_KEYS: Final = ("column", "columns", "join", "format", "zone", "stamp", "length", "ambiguous", "nonexistent")
PLACE_KEYS: Final = ("column", "columns", "join", "constant", "default", "values", "other")
FIELD_KEYS: Final = (
    *PLACE_KEYS, "unit", "unit_column", "gas", "scale", "format", "zone", "ambiguous", "nonexistent",
)  # fmt: skip
WHERE_KEYS: Final = ("column", *OPERATORS)
UNPIVOT_KEYS: Final = ("time", "fields", "where")
LOOKUP_KEYS: Final = ("file", "key", "district", "attributes", "valid_from", "csv")
ATTRIBUTE_KEYS: Final = ("column", "constant", "unit", "scale")
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "": TOP_KEYS,
    "csv": CSV_KEYS,
    "time": TIME_KEYS,
    "place": PLACE_KEYS,
    "fields": FIELD_KEYS,
    "where": WHERE_KEYS,
    "unpivot": UNPIVOT_KEYS,
    "lookup": LOOKUP_KEYS,
    "lookup.attributes": ATTRIBUTE_KEYS,
}
"""Every key, by the table it may stand in."""
COMMAS: Final = CsvOptions()
SUFFIXES: Final[dict[str, FormatName]] = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".stream": "csv",
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
"""The format of a file by its suffix (one of a compression aside), where the mapping does not say it."""


class MappingError(ValueError):
    """A mapping that cannot be used, as such or with this file; the text says where, what and what to do."""


def refuse_unknown(where: str, what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """MappingError for the first name that is not allowed, with the allowed ones and the nearest."""
    allowed = tuple(allowed)
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise MappingError(f"{where}: unknown {what} {name!r}; allowed are {', '.join(allowed)}.{hint}")


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping that was read and checked.

    `stream` is the declared stream with what the mapping overrides (`disorder`, `period`, `horizon`, `dedup`).
    `sites` are the places of the side table, with their attributes; empty without `lookup`, or when the mapping was
    read without a data file.
    """

    path: Path
    source: str
    stream: Stream
    foreign: Foreign
    format_name: FormatName | None = None
    csv: CsvOptions = COMMAS
    disorder_ms: int | None = None
    """The mapping's own bound; None where the stream's holds."""
    sites: tuple[Site, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def order(self) -> Order:
        return self.foreign.order

    @property
    def dedup(self) -> tuple[str, ...] | None:
        """Columns of the dedup key: of the source (`event_id`), else of the stream; None for `dedup = "none"`."""
        return None if self.stream.dedup is None else self.foreign.rows.key or self.stream.dedup

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source that are read."""
        return self.foreign.columns

    def format(self, path: Path) -> Format:
        """How to read this file. Opens it, to compare its columns with those of the mapping: MappingError."""
        name = self.format_name or format_of(path)
        if name == "csv":
            options = self.csv if path_suffix(path) != ".tsv" else _tabs(self.csv)
            with _content(path) as file:
                names = header(file, options)
            self._columns(path, names)
            doubled = [c for c in self.columns if names.count(c) > 1]
            if doubled:
                raise MappingError(f"{path}: column {doubled[0]!r} stands in the header twice")
            return CsvFormat(self.foreign, names, options)
        if name == "parquet":
            self._columns(path, column_names(path))
            return ParquetFormat(self.foreign)
        with _content(path) as file:
            keys = first_keys(file)
        rows = self.foreign.rows
        needed = [*rows.place.columns, *(rows.time.columns if rows.time else ())]
        if keys:
            refuse_unknown(f"{self.path} for {path}", "column", needed, keys)
        return JsonLinesFormat(self.foreign)

    def _columns(self, path: Path, names: tuple[str, ...]) -> None:
        if not names:
            raise MappingError(f"{path} is empty: it has no header, so its columns are unknown")
        if not all(name.isprintable() for name in names):
            raise MappingError(
                f"{path} is no text, and {self.path} is for a file of lines; is it compressed, or Parquet?"
            )
        if names[0].lstrip().startswith("{"):
            raise MappingError(
                f"{path} holds JSON, and {self.path} is for a file with columns; replay it without --map"
            )
        refuse_unknown(f"{self.path} for {path}", "column", self.columns, names)


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a CSV (by commas; tabs in `.tsv`) or Parquet file; MappingError where it cannot be read as one."""
    with _content(path) as file:
        if format_of(path) == "csv":
            return header(file, _tabs(COMMAS) if path_suffix(path) == ".tsv" else COMMAS)
        if not file.seekable():
            raise MappingError(f"{path} is a compressed Parquet file; decompress it (Parquet compresses inside)")
        try:
            return columns(file)
        except FormatError as error:
            raise MappingError(f"{path}: {error}") from None


def _content(path: Path) -> BinaryIO:
    try:
        return decompressed(path)[0]
    except OSError as error:
        raise MappingError(f"{path} cannot be read: {error.strerror}") from None


def _tabs(options: CsvOptions) -> CsvOptions:
    return CsvOptions("\t", options.quoted, options.encoding, options.columns) if options.delimiter == "," else options


def path_suffix(path: Path) -> str:
    """The suffix that names the format: that of a compression is passed over."""
    suffixes = [s.lower() for s in path.suffixes]
    while suffixes and suffixes[-1] in (".gz", ".zst", ".zstd"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def format_of(path: Path) -> FormatName:
    """The format by the file's suffix; MappingError names the suffixes that are known."""
    suffix = path_suffix(path)
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise MappingError(
            f'{path}: the suffix {suffix!r} says no format; known are {known}. Or write format = "csv" into the mapping'
        )
    return SUFFIXES[suffix]


def read_mapping(path: Path, *, data: Path | None = None, lookup: Path | None = None) -> Mapping:
    """The mapping of a TOML file; MappingError says what is wrong with it.

    With `data` (the file, or one of the files, it is for) the side table of `[lookup]` is read: `lookup`, else the
    mapping's `file` beside the mapping, beside the data or in the folder above it. Without `data` and `lookup` the
    mapping is checked and has no `sites`.
    """
    from connectors.mapping_reader import read

    return read(path, data, lookup)
