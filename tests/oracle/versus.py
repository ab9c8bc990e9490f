"""The product's newest revisions against the batch, cell by cell (rule 32)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tests.oracle.arrive import Tally
from tests.oracle.cases import Found
from tests.oracle.climbing import Reading

FRACTIONS = {"traffic.tpi", "city.vital_sign"}
"""Their formulas take several steps in doubles (the batch takes fractions, or other steps): 1e-12 of the value. All
others are one division of integers: 1 ulp."""
FIELDS = ("begin", "value", "num", "den", "samples", "state", "completeness", "as_of", "detail")


@dataclass
class Verdict:
    """`cells`: compared, by indicator; `wrong`: how many differ, by indicator and field; `shown`: the first of each."""

    cells: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def compared(self) -> int:
        return self.cells.total()

    def blame(self, what: str, text: str) -> None:
        self.wrong[what] += 1
        if self.wrong[what] <= 3:
            self.shown.append(f"{what}: {text}")

    def report(self, name: str) -> str:
        lines = [
            f"oracle {name}: {self.compared} cells of {len(self.cells)} indicators compared, {self.wrong.total()} differences"
        ]
        return "\n".join([*lines, *(f"  {n:>9} {i}" for i, n in sorted(self.cells.items())), *self.shown])


def compare(
    product: pl.DataFrame, batch: Iterable[tuple[Found, Tally]], summary: dict[str, Any] | None = None
) -> Verdict:
    """`product`: readings as `replay --out` writes them. Every cell of both sides; a missing or an extra one differs."""
    verdict = Verdict()
    times = ("window_start", "window_end", "as_of")
    product = product.with_columns(pl.col(c).dt.epoch("ms") for c in times if product.schema[c] != pl.Int64)
    rest = set(product["indicator"].unique())
    for found, tally in batch:
        verdict.counters.update(tally.counters)
        for name, (method, expected) in found.items():
            rest.discard(name)
            one(verdict, name, method, product.filter(pl.col("indicator") == name), expected)
    for name in rest:
        verdict.blame(f"{name}: unexpected", "the batch has no such indicator")
    for counter, n in verdict.counters.items():
        if summary is not None and summary[counter] != n:
            verdict.blame(counter, f"the product counted {summary[counter]}, the batch {n}")
    return verdict


def one(verdict: Verdict, name: str, method: str, product: pl.DataFrame, expected: dict[Any, Reading]) -> None:
    columns = ("place_kind", "place", "window_end", "method_id", "window_start", "value", "num", "den", "samples", "state",
               "completeness", "as_of", "detail")  # fmt: skip
    seen = set()
    for kind, place, end, by, *values in product.select(columns).iter_rows():
        key = kind, place, end
        reading = expected.get(key)
        where = f"{key}"
        if by != method:
            verdict.blame(f"{name}: method", f"{where} {by!r}, expected {method!r}")
        if reading is None or key in seen:
            verdict.blame(f"{name}: extra cell", f"{where} {values}")
            continue
        seen.add(key)
        for column, got, want in zip(FIELDS, values, reading, strict=True):
            if not same(name, column, got, want):
                verdict.blame(f"{name}: {column}", f"{where} product {got!r}, batch {want!r}")
    verdict.cells[name] += len(seen)
    for key in expected.keys() - seen:
        verdict.blame(f"{name}: missing cell", f"{key} {expected[key]}")


def same(name: str, column: str, got: Any, want: Any) -> bool:
    if column == "value":
        return got is want if got is None or want is None else near(name, got, want)
    if column == "detail":
        if got == "{}":
            return not want
        entries = json.loads(got)
        if json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False) != got:
            return False
        if name != "city.vital_sign":
            return bool(entries == want)
        scores, mine = entries.pop("scores"), dict(want)
        theirs = mine.pop("scores")
        close = scores.keys() == theirs.keys() and all(
            math.isclose(scores[k], theirs[k], rel_tol=0, abs_tol=1e-9) for k in scores
        )
        return close and entries == mine
    return bool(got == want)


def near(name: str, got: float, want: float) -> bool:
    if name in FRACTIONS:
        return math.isclose(got, want, rel_tol=1e-12, abs_tol=1e-12)
    return abs(got - want) <= math.ulp(max(abs(got), abs(want)))
