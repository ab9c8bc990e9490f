"""Exact rounding in integers, a mean from (sum, weight) without a double in between; and division by a constant."""

from __future__ import annotations

from typing import Final

import polars as pl

MILLION: Final = 1_000_000


def over(value: pl.Expr, constant: float) -> pl.Expr:
    """`value / constant`, the double nearest to it, whatever else is computed at the same time; `value` is finite.

    Polars divides one row by a constant, and multiplies several by its reciprocal: 3 / 10 is 0.3 alone and
    0.30000000000000004 in company. A value must not depend on that (rule 16), least of all at a threshold.
    """
    return value / (value * 0 + constant)


def half_even(total: pl.Expr, weight: pl.Expr) -> pl.Expr:
    """`total / weight` rounded half to even (GB/T 8170) as Int64; null where the weight is null or not above 0.

    Both are Int64, `total` not negative, `weight` below 2**62.
    """
    whole = total // weight
    twice = (total - whole * weight) * 2
    up = (twice > weight) | ((twice == weight) & (whole % 2 == 1))
    return pl.when(weight > 0).then(whole + up.cast(pl.Int64))


def half_even_scaled(total: pl.Expr, weight: pl.Expr, scale: int = MILLION) -> pl.Expr:
    """`total * scale / weight` rounded half to even, without forming `total * scale`; `scale` is even.

    Needs `weight * scale` and the result below 2**63.
    """
    whole = total // weight
    # whole * scale is even, so the parity that breaks a tie is that of the rest.
    return whole * scale + half_even((total - whole * weight) * scale, weight)
