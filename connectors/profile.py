"""What is in a file before you trust it: its columns, duplicates, and how late its rows are (`citybrain profile`).

Columns are described as they stand in the file. With a mapping the events that it makes are described too: how many,
what is refused and why, which repeat, and by how much they lag behind the largest event time before them in the file
(rule 4: D must cover that). Without one the time is guessed from the column that reads like one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import polars as pl

from connectors.decompressed import decompressed
from connectors.fields import Field, Words
from connectors.formats.csv import CsvFormat, CsvOptions, header
from connectors.formats.foreign import BLANKS, Foreign
from connectors.formats.json_lines import JsonLinesFormat, first_keys
from connectors.formats.parquet import ParquetFormat, columns
from connectors.mapped_rows import RECORD, MappedRows
from connectors.mapping import Mapping, MappingError, format_of
from connectors.numbers import NUMBER
from connectors.times import TimeFormat
from pipelines.model import DeadLetter
from pipelines.streams import STREAMS

RECORDS: Final = 2_000_000
"""How many records are looked at, from the start of the file."""
BLOCK: Final = 4 << 20
NULL_WORDS: Final = ("NA", "N/A", "n/a", "NULL", "null", "None", "NaN", "nan", "-", "--", "?", "-1", "-999", "-9999")
"""Texts that often stand for a missing value; a column that holds some is shown with their number."""
DELIMITERS: Final = (",", "\t", ";", "|")
TIME_FORMATS: Final = (
    "iso", "%d/%m/%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y%m%d%H%M%S",
)  # fmt: skip
EPOCH_RANGES: Final = {"unix_s": (400_000_000, 4_000_000_000), "unix_ms": (400_000_000_000, 4_000_000_000_000)}
"""Integers within these, in a column whose name speaks of time, are taken for a time."""
TIME_WORDS: Final = ("time", "date", "stamp", "when", "epoch", "ts", "_at", "created")
QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)
BOUNDS_S: Final = (0, 1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""The disorder bounds that are proposed; where even the last leaves more than `TOLERATED` late, sorting is."""
TOLERATED: Final = 0.001


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """`kind`: integer, decimal, time, text or empty. `low` and `high` in the order of the kind, as they stand."""

    name: str
    kind: str
    empty: int
    null_words: tuple[tuple[str, int], ...]
    distinct: int
    low: str
    high: str
    top: tuple[tuple[str, int], ...]
    time_format: str | None = None


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far events lag behind the largest event time before them, in file order (ms)."""

    events: int
    late: int
    """Events older than the largest before them."""
    largest_ms: int
    quantiles_ms: tuple[int, ...]
    """Of the late ones, at `QUANTILES`."""
    shares: tuple[float, ...]
    """Share of all events that each of `BOUNDS_S` leaves late."""
    first_ms: int
    last_ms: int

    @property
    def proposed_s(self) -> int | None:
        """The smallest bound that leaves at most one event in a thousand late; None where none does."""
        return next((b for b, share in zip(BOUNDS_S, self.shares, strict=True) if share <= TOLERATED), None)


@dataclass(frozen=True, slots=True)
class MappedProfile:
    """What the mapping makes of the records."""

    name: str
    stream: str
    events: int
    places: int
    duplicates: int | None
    """Events whose key another has before them; None where the mapping has no key."""
    refused: tuple[tuple[str, int], ...]
    examples: tuple[DeadLetter, ...]
    ranges: tuple[tuple[str, int | str | None, int | str | None], ...]


@dataclass(frozen=True, slots=True)
class Profile:
    path: Path
    format_name: str
    delimiter: str
    records: int
    whole: bool
    """False where the file goes on after `RECORDS`."""
    broken: tuple[DeadLetter, ...]
    """Records that could not be split into cells."""
    repeated: int
    """Records that are equal to one before them in all columns."""
    columns: tuple[ColumnProfile, ...]
    time_column: str | None
    lateness: Lateness | None
    mapped: MappedProfile | None = None


def profile(path: Path, mapping: Mapping | None = None, *, limit: int = RECORDS) -> Profile:
    """The profile of the first `limit` records of a file; MappingError where the file cannot be read as what it is."""
    name = mapping.format_name if mapping is not None and mapping.format_name is not None else format_of(path)
    options = mapping.csv if mapping is not None else CsvOptions()
    format_ = _every_column(path, name, options if mapping is not None else None)
    parts: list[pl.DataFrame] = []
    broken: list[DeadLetter] = []
    records, whole = 0, True
    with _file(path) as file:
        for block in format_.blocks(file, BLOCK):
            if records >= limit:
                whole = False
                break
            texts = format_.texts(block, str(path))
            parts.append(texts.frame)
            broken += texts.letters
            records += texts.records
    frame = pl.concat(parts) if parts else pl.DataFrame(schema={RECORD: pl.Int64})
    cells = frame.drop(RECORD).select(pl.all().str.strip_chars(BLANKS).replace("", None))
    described = tuple(_column(series) for series in cells)
    best = next((c for c in described if c.time_format), None)
    lateness = None
    mapped = None
    if mapping is not None:
        mapped, lateness = _mapped(path, mapping, limit)
    elif best is not None and best.time_format is not None:
        times = TimeFormat(best.time_format, None if best.time_format.startswith("unix") else "UTC").column(
            cells[best.name]
        )
        lateness = _lateness(times.drop_nulls().to_numpy())
    return Profile(
        path,
        name,
        format_.options.delimiter if isinstance(format_, CsvFormat) else "",
        records,
        whole,
        tuple(broken),
        cells.height - cells.n_unique() if cells.width else 0,
        described,
        best.name if best else None,
        lateness,
        mapped,
    )


def _file(path: Path) -> BinaryIO:
    try:
        return decompressed(path)[0]
    except OSError as error:
        raise MappingError(f"{path} cannot be read: {error.strerror}") from None


def _every_column(path: Path, name: str, options: CsvOptions | None) -> CsvFormat | JsonLinesFormat | ParquetFormat:
    """The file's format with all its columns read."""
    with _file(path) as file:
        if name == "csv":
            head = file.read(1 << 16)
    if name == "csv":
        options = options or CsvOptions(max(DELIMITERS, key=head.split(b"\n", 1)[0].decode("latin-1").count))
        with _file(path) as file:
            names = header(file, options)
        if not names:
            raise MappingError(f"{path} is empty: it has no header, so its columns are unknown")
        return CsvFormat(_foreign(names), names, options)
    with _file(path) as file:
        names = columns(file) if name == "parquet" else first_keys(file)
    if not names:
        raise MappingError(f"{path} holds no record with a column")
    return ParquetFormat(_foreign(names)) if name == "parquet" else JsonLinesFormat(_foreign(names))


def _foreign(names: tuple[str, ...]) -> Foreign:
    return Foreign(MappedRows(STREAMS[0], Field("place", Words(), names)))


def _column(series: pl.Series) -> ColumnProfile:
    known = series.drop_nulls()
    counts = known.alias("text").value_counts(sort=True, name="count")
    words = counts.filter(pl.col("text").is_in(_null_words(known)))
    if words.height < counts.height:
        known = known.filter(~known.is_in(NULL_WORDS))
    kind, time_format = _kind(series.name, known)
    low, high = _range(known, kind)
    return ColumnProfile(
        series.name,
        kind,
        series.null_count(),
        tuple((str(w), int(n)) for w, n in words.iter_rows()),
        counts.height,
        low,
        high,
        tuple((str(w), int(n)) for w, n in counts.head(3).iter_rows()),
        time_format,
    )


def _null_words(known: pl.Series) -> tuple[str, ...]:
    """Texts that may stand for a missing value here: a negative number does not among other negative ones."""
    numbers = known.filter(~known.is_in(NULL_WORDS)).cast(pl.Float64, strict=False)
    signed = (numbers < 0).any()
    return tuple(word for word in NULL_WORDS if not (signed and word[1:].isdigit()))


def _kind(name: str, known: pl.Series) -> tuple[str, str | None]:
    if not len(known):
        return "empty", None
    named = name == "t" or any(word in name.lower() for word in TIME_WORDS)
    numbers = known.cast(pl.Int64, strict=False)
    if not numbers.null_count():
        for form, (low, high) in EPOCH_RANGES.items():
            if named and numbers.is_between(low, high).all():
                return "time", form
        return "integer", None
    if known.str.contains(f"^(?:{NUMBER.pattern})$").all():
        return "decimal", None
    some = known.head(200).unique()
    for form in TIME_FORMATS:
        if not TimeFormat(form, None if "%z" in form else "UTC").column(some).null_count():
            return "time", form
    return "text", None


def _range(known: pl.Series, kind: str) -> tuple[str, str]:
    if not len(known):
        return "", ""
    if kind in ("integer", "decimal"):
        order = known.cast(pl.Float64, strict=False)
        low, high = order.arg_min(), order.arg_max()
        return (str(known[low]), str(known[high])) if low is not None and high is not None else ("", "")
    return str(known.min()), str(known.max())


def _mapped(path: Path, mapping: Mapping, limit: int) -> tuple[MappedProfile, Lateness | None]:
    format_ = mapping.format(path)
    events: list[pl.DataFrame] = []
    letters: list[DeadLetter] = []
    records = 0
    with _file(path) as file:
        for block in format_.blocks(file, BLOCK):
            if records >= limit:
                break
            decoded = format_.decode(block, str(path))
            events.append(decoded.events.with_columns(pl.col("place").cast(pl.String)))
            letters += decoded.refused
            records += decoded.records
    whole = pl.concat(events).sort(RECORD, "index") if events else pl.DataFrame(schema={"t": pl.Int64})
    reasons = Counter(x.reason for x in letters)
    own = [c.name for c in mapping.stream.columns if c.name in whole.columns]
    found = MappedProfile(
        mapping.name,
        mapping.stream.name,
        whole.height,
        whole["place"].n_unique() if events else 0,
        None if mapping.dedup is None else whole.height - (whole["id"].n_unique() if events else 0),
        tuple(reasons.most_common()),
        tuple(letters[:3]),
        tuple((name, _bound(whole[name].min()), _bound(whole[name].max())) for name in own),
    )
    return found, _lateness(whole["t"].to_numpy())


def _bound(value: object) -> int | str | None:
    return value if isinstance(value, int | str) else None


def _lateness(times: Sequence[int] | np.ndarray) -> Lateness | None:
    t = np.asarray(times, dtype=np.int64)
    if not len(t):
        return None
    behind = np.maximum.accumulate(t) - t
    late = behind[behind > 0]
    return Lateness(
        len(t),
        len(late),
        int(behind.max()),
        tuple(int(q) for q in np.quantile(late, QUANTILES, method="inverted_cdf")) if len(late) else (),
        tuple(float((behind > b * 1000).mean()) for b in BOUNDS_S),
        int(t.min()),
        int(t.max()),
    )
