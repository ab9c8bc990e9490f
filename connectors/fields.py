"""Fields of a mapping: how cells of a foreign record (texts, or null) become one value of a stream.

Every class reads a single record (`one`) and a whole column of texts (`column`), with the same values and the same
refusals (rule 12). A column is read in a few vectorised passes; only texts that these cannot judge are read one by
one, each distinct text once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, assert_never

import polars as pl

from connectors.numbers import complete, scaled, scaled_column
from connectors.times import TimeFormat
from pipelines.records import Refused, show

Cells = Mapping[str, str | None]
"""One foreign record: its columns as texts, trimmed; null where empty or declared to mean null."""
Value = int | str | None
Refusals = dict[int, Refused]
"""Row of the frame -> why it is refused."""
FLAGS: Final = {"true": 1, "t": 1, "yes": 1, "y": 1, "1": 1, "false": 0, "f": 0, "no": 0, "n": 0, "0": 0}
"""What a Flag column reads, in any case; other texts need `values`."""


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal number times `by`, rounded half to even to the stream's scaled integer; `whole` refuses a fraction."""

    by: Fraction = Fraction(1)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class NumberByUnit:
    """A number whose unit stands in another column: `factors` by unit text."""

    unit_column: str
    factors: Mapping[str, tuple[Fraction, bool]]


@dataclass(frozen=True, slots=True)
class Words:
    """A text, as it is."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A flag (`FLAGS`)."""


@dataclass(frozen=True, slots=True)
class Instant:
    """A point in time in UTC ms, plus `shift_ms` (from the end that the source stamps to the end of the interval)."""

    format: TimeFormat
    shift_ms: int = 0


Kind = Number | NumberByUnit | Words | Truth | Instant


@dataclass(frozen=True, slots=True)
class Field:
    """One value of the stream: from a column, from several joined by `join` (null if one of them is), or a constant.

    In this order: the cell, `default` where it is null, `values` (a text that is not among them becomes `other`, or is
    refused), then the kind's conversion. Constants, defaults and the results of `values` are texts that are read as
    if they stood in the file.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...] = ()
    constant: str | None = None
    default: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    other: str | None = None
    join: str = " "

    @property
    def label(self) -> str:
        """What a refusal calls it: the columns of the source, else the field."""
        return self.join.join(self.columns) if self.columns else self.name

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the source that it needs."""
        return (*self.columns, self.kind.unit_column) if isinstance(self.kind, NumberByUnit) else self.columns

    # One record ----------------------------------------------------------------------------------------------------

    def one(self, cells: Cells) -> Value | Refused:
        text = self._text(cells)
        if text is None:
            return None
        if self.values:
            mapped = self.values.get(text, self.other)
            if mapped is None:
                return self._unmapped(text)
            text = mapped
        if isinstance(self.kind, NumberByUnit):
            unit = cells.get(self.kind.unit_column)
            if unit is None or unit not in self.kind.factors:
                return _unknown_unit(self.kind, unit)
            return scaled(text, self.label, *self.kind.factors[unit])
        return self._convert(text)

    def _text(self, cells: Cells) -> str | None:
        if not self.columns:
            return self.constant
        parts = [cells.get(c) for c in self.columns]
        known = [p for p in parts if p is not None]
        return self.join.join(known) if len(known) == len(parts) else self.default

    def _convert(self, text: str) -> int | str | Refused:
        match self.kind:
            case Number(by, whole):
                return scaled(text, self.label, by, whole)
            case Words():
                return text
            case Truth():
                truth = FLAGS.get(text.lower())
                if truth is None:
                    return Refused("wrong_type", f"{self.label} is {show(text)}; allowed are {', '.join(FLAGS)}")
                return truth
            case Instant(format_, shift):
                at = format_.read(text, self.label)
                return at if isinstance(at, Refused) else at + shift
            case NumberByUnit():
                raise TypeError("a number by unit is read with its unit")
        assert_never(self.kind)

    def _unmapped(self, text: str) -> Refused:
        allowed = ", ".join(list(self.values)[:20])
        return Refused("unknown_value", f"{self.label} is {show(text)}; the mapping's values are {allowed}")

    # A column ------------------------------------------------------------------------------------------------------

    def column(self, cells: pl.DataFrame) -> tuple[pl.Series, Refusals]:
        """The values of all rows (Int64 or String, null where null or refused), and the refusals."""
        texts = self._texts(cells)
        refused: Refusals = {}
        if self.values:
            mapped = texts.replace_strict(
                list(self.values), list(self.values.values()), default=None, return_dtype=pl.String
            )
            unmapped = (mapped.is_null() & texts.is_not_null()).arg_true()
            if len(unmapped):
                if self.other is not None:
                    mapped = mapped.scatter(unmapped, self.other)
                else:
                    refused = {row: self._unmapped(texts[row]) for row in unmapped.to_list()}
            texts = mapped
        values, wrong = self._converted(texts, cells)
        return values.alias(self.name), wrong | refused

    def _texts(self, cells: pl.DataFrame) -> pl.Series:
        if not self.columns:
            return pl.repeat(self.constant, cells.height, dtype=pl.String, eager=True)
        if len(self.columns) == 1:
            texts = cells[self.columns[0]]
        else:
            texts = cells.select(pl.concat_str(*self.columns, separator=self.join).alias("x"))["x"]
        return texts if self.default is None else texts.fill_null(self.default)

    def _converted(self, texts: pl.Series, cells: pl.DataFrame) -> tuple[pl.Series, Refusals]:
        match self.kind:
            case Number(by, whole):
                return scaled_column(texts, self.label, by, whole)
            case NumberByUnit() as kind:
                return self._by_unit(texts, cells[kind.unit_column], kind)
            case Words():
                return texts, {}
            case Truth():
                truths = texts.str.to_lowercase().replace_strict(FLAGS, default=None, return_dtype=pl.Int64)
                return complete(texts, truths, self._int)
            case Instant(format_, shift):
                times = format_.column(texts)
                return complete(texts, times + shift if shift else times, self._int)
        assert_never(self.kind)

    def _int(self, text: str) -> int | Refused:
        value = self._convert(text)
        if isinstance(value, str):
            raise TypeError(f"{self.name} is a number, not a text")
        return value

    def _by_unit(self, texts: pl.Series, units: pl.Series, kind: NumberByUnit) -> tuple[pl.Series, Refusals]:
        values = pl.repeat(None, len(texts), dtype=pl.Int64, eager=True)
        refused: Refusals = {}
        for unit in units.unique().to_list():
            rows = ((units == unit if unit is not None else units.is_null()) & texts.is_not_null()).arg_true()
            if unit is None or unit not in kind.factors:
                refused |= dict.fromkeys(rows.to_list(), _unknown_unit(kind, unit))
                continue
            some, wrong = scaled_column(texts.gather(rows), self.label, *kind.factors[unit])
            values = values.scatter(rows, some)
            refused |= {rows[row]: why for row, why in wrong.items()}
        return values, refused


def _unknown_unit(kind: NumberByUnit, unit: str | None) -> Refused:
    known = ", ".join(kind.factors)
    return Refused("bad_unit", f"{kind.unit_column} is {show(unit)}; units that become the stream's are {known}")
