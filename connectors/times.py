"""Text that becomes event time: closed time formats, zones, and what daylight saving repeats or skips (rule 2).

A format is compiled to one regular expression that both the single text and the column of texts are read by, so the
two cannot disagree on the language. Fractions of a second are cut to milliseconds, never rounded up into the future.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from typing import Final, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from connectors.numbers import number
from pipelines.records import Refused, show

Ambiguous = Literal["earliest", "latest", "refuse"]
Nonexistent = Literal["shift", "refuse"]
MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_OFFSET: Final = r"Z|[+-](?:0[0-9]|1[0-8]):?[0-5][0-9]"
DIRECTIVES: Final[dict[str, str]] = {
    "%Y": r"(?P<Y>[0-9]{4})",
    "%y": r"(?P<y>[0-9]{2})",
    "%m": r"(?P<m>[0-9]{1,2})",
    "%b": r"(?P<b>[A-Za-z]{3})",
    "%d": r"(?P<d>[0-9]{1,2})",
    "%H": r"(?P<H>[0-9]{1,2})",
    "%I": r"(?P<I>[0-9]{1,2})",
    "%p": r"(?P<p>[AaPp][Mm])",
    "%M": r"(?P<M>[0-9]{1,2})",
    "%S": r"(?P<S>[0-9]{1,2})",
    "%f": r"(?P<f>[0-9]{1,9})",
    "%z": rf"(?P<z>{_OFFSET})",
    "%%": "%",
}
"""The directives of `format`, with the meaning that strptime gives them; `%b` is English, `%f` has 1 to 9 digits."""
ISO: Final = (
    r"(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})"
    rf"(?:[T ](?P<H>[0-9]{{2}}):(?P<M>[0-9]{{2}})(?::(?P<S>[0-9]{{2}})(?:[.,](?P<f>[0-9]{{1,9}}))?)?(?P<z>{_OFFSET})?)?"
)
EPOCHS: Final[dict[str, Fraction]] = {
    "unix_s": Fraction(1000),
    "unix_ms": Fraction(1),
    "unix_us": Fraction(1, 1000),
}
"""Formats that count from 1970, with the milliseconds of one."""
CHUNK_DISTINCT: Final = 4
"""A column with fewer than one distinct text in this many is read once per distinct text."""
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """How a text is a point in time. `zone` is that of texts without an offset; None refuses them (rule 2)."""

    format: str = "iso"
    zone: str | None = None
    ambiguous: Ambiguous = "refuse"
    nonexistent: Nonexistent = "refuse"

    def __post_init__(self) -> None:
        """ValueError for a format that is not closed or not complete."""
        if self.format in EPOCHS:
            return
        if self.format != "iso" and "%" not in self.format:
            known = ", ".join(["iso", *EPOCHS])
            raise ValueError(f'format {self.format!r} is unknown; write {known} or directives such as "%Y-%m-%d %H:%M"')
        names = set(re.compile(self.pattern).groupindex)
        if not names & {"Y", "y"} or not names & {"m", "b"} or "d" not in names:
            raise ValueError(f"format {self.format!r} lacks a year, a month or a day")
        if "I" in names and "p" not in names:
            raise ValueError(f"format {self.format!r} has %I (12 hours) without %p")
        if self.format != "iso" and "z" in names and self.zone:
            raise ValueError(f"format {self.format!r} reads an offset (%z), so zone {self.zone!r} would say it twice")

    @property
    def pattern(self) -> str:
        if self.format == "iso":
            return ISO
        out = []
        for part in re.split(r"(%.)", self.format):
            if part.startswith("%"):
                if part not in DIRECTIVES:
                    raise ValueError(
                        f"directive {part!r} of format {self.format!r} is unknown; {', '.join(DIRECTIVES)}"
                    )
                out.append(DIRECTIVES[part])
            else:
                out.append(re.escape(part))
        try:
            re.compile("".join(out))
        except re.error:
            raise ValueError(f"format {self.format!r} has a directive twice") from None
        return "".join(out)

    # One text ------------------------------------------------------------------------------------------------------

    def read(self, text: str, name: str) -> int | Refused:
        """UTC ms of a text; `name` is the column's, for the refusal."""
        if self.format in EPOCHS:
            value = number(text, name)
            if isinstance(value, Refused):
                return Refused("bad_time", f"{name} is {show(text)}; a number ({self.format}) is wanted")
            stored = math.floor(value * EPOCHS[self.format])
            return stored if abs(stored) < 2**62 else Refused("bad_time", f"{name} is {show(text)}; it is no date")
        found = re.compile(self.pattern).fullmatch(text) if len(text) <= 64 else None
        if found is None:
            return Refused("bad_time", f"{name} is {show(text)}; the format is {self.format}")
        parts = found.groupdict()
        local = _local(parts)
        if local is None:
            return Refused("bad_time", f"{name} is {show(text)}; there is no such date or time of day")
        if parts.get("z"):
            return _ms(local.replace(tzinfo=_fixed(parts["z"])))
        return self._zoned(local, text, name)

    def _zoned(self, local: datetime, text: str, name: str) -> int | Refused:
        if self.zone is None:
            return Refused("bad_time", f"{name} is {show(text)}, without an offset, and the mapping names no zone")
        first = local.replace(tzinfo=ZoneInfo(self.zone), fold=0)
        second = first.replace(fold=1)
        before, after = first.utcoffset(), second.utcoffset()
        assert before is not None and after is not None
        if before > after:
            if self.ambiguous == "refuse":
                return Refused(
                    "bad_time", f'{name} is {show(text)}, which {self.zone} has twice; "ambiguous" may say which'
                )
            return _ms(first if self.ambiguous == "earliest" else second)
        if before < after and self.nonexistent == "refuse":
            return Refused("bad_time", f'{name} is {show(text)}, which {self.zone} skips; "nonexistent" may shift it')
        return _ms(first)

    # A column ------------------------------------------------------------------------------------------------------

    def column(self, texts: pl.Series) -> pl.Series:
        """UTC ms as Int64; null where the text is null or only `read` can say what it is."""
        if self.format in EPOCHS:
            by = EPOCHS[self.format]
            whole = texts.cast(pl.Int64, strict=False)
            usable = whole.abs() < 2**52
            whole = pl.DataFrame({"v": whole, "ok": usable}).select(pl.when("ok").then("v"))["v"]
            return whole * by.numerator if by.denominator == 1 else whole // by.denominator
        distinct = texts.unique()
        if len(distinct) * CHUNK_DISTINCT < len(texts):
            known = distinct.drop_nulls()
            values = self._column(known)
            return texts.replace_strict(known, values, default=None, return_dtype=pl.Int64)
        return self._column(texts)

    def _column(self, texts: pl.Series) -> pl.Series:
        if not len(texts):
            return texts.cast(pl.Int64)
        pattern = re.compile(self.pattern)
        parts = texts.to_frame("x").select(pl.col("x").str.extract_groups(f"^(?:{self.pattern})$")).unnest("x")
        have = {n: parts[n] for n in pattern.groupindex}
        local, good = _local_column(have)
        shift = np.zeros(len(local), dtype=np.int64)
        zoned = np.zeros(len(local), dtype=np.bool_)
        if "z" in have:
            zoned = have["z"].is_not_null().to_numpy()
            shift = _offsets(have["z"])
        frame = pl.DataFrame({"v": local - shift, "ok": good & zoned})
        if zoned.all() or self.zone is None:
            return frame.select(pl.when("ok").then("v"))["v"]
        wall = (
            pl.DataFrame({"v": local, "ok": good & ~zoned}).select(pl.when("ok").then("v"))["v"].cast(pl.Datetime("ms"))
        )
        ambiguous = "null" if self.ambiguous == "refuse" else self.ambiguous
        instant = wall.dt.replace_time_zone(self.zone, ambiguous=ambiguous, non_existent="null")
        frame = frame.with_columns(instant.dt.epoch("ms").alias("w"))
        return frame.select(pl.when("ok").then("v").otherwise("w"))["v"]


def _ms(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _fixed(text: str) -> timezone:
    if text == "Z":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _hour(parts: dict[str, str | None]) -> int:
    if (half := parts.get("I")) is None:
        return int(parts.get("H") or 0)
    hour = int(half)
    if not 1 <= hour <= 12:
        return 99
    return hour % 12 + (12 if (parts.get("p") or "").lower() == "pm" else 0)


def _local(parts: dict[str, str | None]) -> datetime | None:
    """The naive local time of the parts of a text; None where there is no such day or time of day."""
    if (short := parts.get("y")) is not None:
        year = int(short) + (1900 if int(short) >= 69 else 2000)
    else:
        year = int(parts["Y"] or 0)
    name = parts.get("b")
    if name is not None and name.lower() not in MONTHS:
        return None
    month = MONTHS.index(name.lower()) + 1 if name is not None else int(parts["m"] or 0)
    fraction = (parts.get("f") or "").ljust(3, "0")[:3]
    try:
        return datetime(
            year, month, int(parts["d"] or 0), _hour(parts), int(parts.get("M") or 0), int(parts.get("S") or 0),
            int(fraction) * 1000,
        )  # fmt: skip
    except ValueError:
        return None


Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_LENGTHS: Final = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def _ints(parts: dict[str, pl.Series], name: str, size: int) -> Ints:
    """0 for a part that the format lacks or the text leaves out."""
    if name not in parts:
        return np.zeros(size, dtype=np.int64)
    values: Ints = parts[name].cast(pl.Int64, strict=False).fill_null(0).to_numpy()
    return values


def _local_column(parts: dict[str, pl.Series]) -> tuple[Ints, Bools]:
    """Local milliseconds since 1970, and where they may be trusted: years 1970 to 2099 and every part in range."""
    size = len(parts["d"])
    year = _ints(parts, "Y", size)
    if "y" in parts:
        short = _ints(parts, "y", size)
        year = short + np.where(short >= 69, 1900, 2000)
    month = _ints(parts, "m", size)
    if "b" in parts:
        names = parts["b"].str.to_lowercase()
        month = names.replace_strict(list(MONTHS), list(range(1, 13)), default=0, return_dtype=pl.Int64).to_numpy()
    day, minute, second = _ints(parts, "d", size), _ints(parts, "M", size), _ints(parts, "S", size)
    hour = _ints(parts, "H", size)
    good = parts["d"].is_not_null().to_numpy() & (year >= 1970) & (year <= 2099) & (month >= 1) & (month <= 12)
    if "I" in parts:
        half = _ints(parts, "I", size)
        good &= (half >= 1) & (half <= 12)
        hour = half % 12 + np.where((parts["p"].str.to_lowercase() == "pm").fill_null(False).to_numpy(), 12, 0)
    safe = np.where(good, month, 1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    good &= (day >= 1) & (day <= _LENGTHS[safe] + (leap & (safe == 2))) & (hour < 24) & (minute < 60) & (second < 60)
    millis = np.zeros(size, dtype=np.int64)
    if "f" in parts:
        millis = parts["f"].fill_null("").str.pad_end(3, "0").str.slice(0, 3).cast(pl.Int64).to_numpy()
    days = _days(year, safe, day)
    return ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis, good


def _days(year: Ints, month: Ints, day: Ints) -> Ints:
    """Days since 1970-01-01 of the proleptic Gregorian calendar (years from March, so that leap days come last)."""
    y = year - (month <= 2)
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    days: Ints = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return days


def _offsets(texts: pl.Series) -> Ints:
    """Milliseconds east of UTC of `Z`, `+hh:mm` and `+hhmm`; 0 for null."""
    known = texts.unique().drop_nulls()
    if not len(known):
        return np.zeros(len(texts), dtype=np.int64)
    values = []
    for text in known:
        delta = _fixed(text).utcoffset(None)
        values.append(int(delta.total_seconds()) * 1000)
    east: Ints = texts.replace_strict(known, values, default=0, return_dtype=pl.Int64).to_numpy()
    return east
