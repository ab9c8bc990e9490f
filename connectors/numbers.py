"""Decimal text that becomes scaled integers: one text at a time, or a column of texts, with the same results.

The language is that of a decimal number in a file: an optional sign, digits, at most one point, an optional exponent.
The arithmetic is exact and ends with rounding half to even.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import numpy as np
import polars as pl

from pipelines.records import Refused, show

NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
DIGITS: Final = 60
"""A number in a file has no more characters than this."""
PLAIN: Final = r"^([+-]?)([0-9]{1,12})(?:\.([0-9]{0,9}))?$"
"""What the column path reads itself; the rest goes through `number`, once per distinct text."""
LIMIT: Final = 2**62


def half_even(value: Fraction) -> int:
    """The nearest integer; of two the even one."""
    return round(value)


def number(text: str, name: str) -> Fraction | Refused:
    """The exact value of a text; `name` is the column's, for the refusal."""
    if len(text) > DIGITS or not NUMBER.fullmatch(text):
        return Refused("wrong_type", f"{name} is {show(text)}; a decimal number is wanted")
    return Fraction(text)


def scaled(text: str, name: str, by: Fraction, whole: bool) -> int | Refused:
    """`text` times `by`, rounded half to even. With `whole` a fraction is refused instead of rounded."""
    value = number(text, name)
    if isinstance(value, Refused):
        return value
    value *= by
    if whole and value.denominator != 1:
        return Refused("wrong_type", f"{name} is {show(text)}; a whole number is wanted")
    stored = half_even(value)
    if abs(stored) >= LIMIT:
        return Refused("out_of_range", f"{name} is {show(text)}; it does not fit into 64 bits")
    return stored


def scaled_column(texts: pl.Series, name: str, by: Fraction, whole: bool) -> tuple[pl.Series, dict[int, Refused]]:
    """`scaled` for a column: Int64 (null where the text is null or refused) and the refusals by row."""
    stored = _whole_numbers(texts, by)
    if stored is None:
        stored = _decimals(texts, by, whole)
    return complete(texts, stored, lambda text: scaled(text, name, by, whole))


def complete(
    texts: pl.Series, stored: pl.Series, one: Callable[[str], int | Refused]
) -> tuple[pl.Series, dict[int, Refused]]:
    """Reads what the fast path left null with `one`, once per distinct text; gives values and refusals by row."""
    refused: dict[int, Refused] = {}
    if stored.null_count() == texts.null_count():
        return stored, refused
    rows = (stored.is_null() & texts.is_not_null()).arg_true()
    found: dict[str, int | Refused] = {}
    fixed_rows: list[int] = []
    fixed: list[int] = []
    for row, text in zip(rows.to_list(), texts.gather(rows).to_list(), strict=True):
        value = found.get(text)
        if value is None:
            value = found[text] = one(text)
        if isinstance(value, Refused):
            refused[row] = value
        else:
            fixed_rows.append(row)
            fixed.append(value)
    if fixed:
        stored = stored.scatter(fixed_rows, fixed)
    return stored, refused


def _whole_numbers(texts: pl.Series, by: Fraction) -> pl.Series | None:
    """The column times a whole factor, where every text is an integer; else None. Cast and `NUMBER` agree on those."""
    if by.denominator != 1:
        return None
    values = texts.cast(pl.Int64, strict=False)
    if values.null_count() != texts.null_count() or not _fits(values, by.numerator):
        return None
    return values if by == 1 else values * by.numerator


def _fits(values: pl.Series, numerator: int) -> bool:
    low, high = values.min(), values.max()
    if not isinstance(low, int) or not isinstance(high, int):
        return True
    return max(abs(low), abs(high)) * numerator < LIMIT


def _decimals(texts: pl.Series, by: Fraction, whole: bool) -> pl.Series:
    """Int64 where the text is plain and the product fits 64 bits; null elsewhere, with `whole` for fractions too."""
    parts = texts.to_frame("x").select(pl.col("x").str.extract_groups(PLAIN)).unnest("x")
    after = parts["3"].fill_null("")
    longest = after.str.len_bytes().max()
    places = longest if isinstance(longest, int) else 0
    units = parts["2"].cast(pl.Int64)
    rest = after.str.pad_end(places, "0").cast(pl.Int64) if places else pl.zeros(len(texts), pl.Int64, eager=True)
    share = by / 10**places
    nothing = pl.repeat(None, len(texts), dtype=pl.Int64, eager=True)
    low, high = units.min(), units.max()
    if not isinstance(low, int) or not isinstance(high, int):
        return nothing
    if (high + 1) * 10**places * max(share.numerator, 1) >= LIMIT or share.denominator >= LIMIT // 4:
        return nothing
    usable = units.is_not_null().to_numpy()
    value = units.fill_null(0).to_numpy() * 10**places + rest.fill_null(0).to_numpy()
    value = np.where((parts["1"] == "-").fill_null(False).to_numpy(), -value, value) * share.numerator
    quotient, left = np.divmod(value, share.denominator)
    if whole:
        usable &= left == 0
    twice = left * 2
    quotient = quotient + ((twice > share.denominator) | ((twice == share.denominator) & (quotient % 2 == 1)))
    return pl.DataFrame({"v": quotient, "ok": usable}).select(pl.when("ok").then("v"))["v"]
