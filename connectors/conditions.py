"""Conditions of a mapping's `where`: which foreign records, or events of one, are taken. A closed list, no language.

Texts are compared as texts and numbers as exact numbers. A null cell is neither equal to anything nor a number: it
passes `not_equals`, `not_in` and `present = false` only. A text that is no number, where one is compared, makes the
record bad instead of leaving it out in silence.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import polars as pl

from connectors.fields import Cells, Refusals
from connectors.numbers import number
from pipelines.records import Refused

Operator = Literal["equals", "not_equals", "in", "not_in", "present", "gt", "ge", "lt", "le"]
OPERATORS: Final[tuple[Operator, ...]] = ("equals", "not_equals", "in", "not_in", "present", "gt", "ge", "lt", "le")
ORDERED: Final[dict[str, Callable[[Fraction, Fraction], bool]]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`column operator operands`; one operand but for `in` and `not_in`; all texts, or all numbers."""

    column: str
    operator: Operator
    texts: frozenset[str] = frozenset()
    numbers: tuple[Fraction, ...] = ()
    present: bool = True

    def one(self, cells: Cells) -> bool | Refused:
        text = cells.get(self.column)
        if self.operator == "present":
            return (text is not None) == self.present
        if text is None:
            return self.operator in ("not_equals", "not_in")
        return self._judge(text)

    def _judge(self, text: str) -> bool | Refused:
        inside: bool
        if self.numbers:
            value = number(text, self.column)
            if isinstance(value, Refused):
                return value
            if self.operator in ORDERED:
                return ORDERED[self.operator](value, self.numbers[0])
            inside = value in self.numbers
        else:
            inside = text in self.texts
        return inside if self.operator in ("equals", "in") else not inside

    def column_mask(self, cells: pl.DataFrame) -> tuple[pl.Series, Refusals]:
        """A Boolean per row (false where refused), and the refusals."""
        texts = cells[self.column]
        if self.operator == "present":
            return texts.is_not_null() if self.present else texts.is_null(), {}
        if not self.numbers:
            inside = texts.is_in(list(self.texts))
            mask = inside if self.operator in ("equals", "in") else ~inside
            return mask.fill_null(self.operator in ("not_equals", "not_in")), {}
        return self._numeric_mask(texts)

    def _whole(self, values: pl.Series) -> pl.Series:
        """The mask of a column of integers; bounds that are fractions move to the integer that says the same."""
        bound = self.numbers[0]
        match self.operator:
            case "gt":
                return values > math.floor(bound)
            case "ge":
                return values >= math.ceil(bound)
            case "lt":
                return values < math.ceil(bound)
            case "le":
                return values <= math.floor(bound)
        inside = values.is_in([int(n) for n in self.numbers if n.denominator == 1])
        return inside if self.operator in ("equals", "in") else ~inside

    def _numeric_mask(self, texts: pl.Series) -> tuple[pl.Series, Refusals]:
        values = texts.cast(pl.Int64, strict=False)
        if values.null_count() == texts.null_count():
            return self._whole(values).fill_null(self.operator in ("not_equals", "not_in")), {}
        known = texts.unique().drop_nulls()
        verdicts = [self._judge(t) for t in known]
        flags = [v is True for v in verdicts]
        mask = (
            texts.replace_strict(known, pl.Series(flags, dtype=pl.Boolean), default=None, return_dtype=pl.Boolean)
            if len(known)
            else texts.is_not_null()
        )
        wrong = {t: v for t, v in zip(known, verdicts, strict=True) if isinstance(v, Refused)}
        rows = texts.is_in(list(wrong)).fill_null(False).arg_true().to_list() if wrong else []
        return mask.fill_null(self.operator in ("not_equals", "not_in")), {r: wrong[texts[r]] for r in rows}
