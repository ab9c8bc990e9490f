"""The table that a run prints: a row a case, its seconds (or another unit), its ratio and its bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

HEAD: Final = ("case", "unit", "median", "min", "max", "ratio", "required", "goal", "met?")


@dataclass(frozen=True, slots=True)
class Row:
    """`figure` is what the bars are about: the ratio where there is one, else the median. `bar` says which side of
    `required` is good."""

    case: str
    unit: str
    values: Sequence[float]
    ratio: float | None = None
    required: float | None = None
    goal: float | None = None
    bar: Literal["at least", "at most"] = "at least"

    @property
    def median(self) -> float:
        ordered = sorted(self.values)
        half = len(ordered) // 2
        return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

    @property
    def figure(self) -> float:
        return self.median if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """None where nothing is required."""
        if self.required is None:
            return None
        return self.figure >= self.required if self.bar == "at least" else self.figure <= self.required

    def cells(self) -> tuple[str, ...]:
        sign = ">=" if self.bar == "at least" else "<="
        bars = ["" if bar is None else f"{sign} {bar:g}" for bar in (self.required, self.goal)]
        met = {None: "", True: "yes", False: "NO"}[self.met]
        numbers = [
            f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}" for x in (self.median, min(self.values), max(self.values))
        ]
        return (self.case, self.unit, *numbers, "" if self.ratio is None else f"{self.ratio:.2f}", *bars, met)


def table(rows: Sequence[Row]) -> str:
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(HEAD))]
    out = []
    for line in cells:
        parts = [c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))]
        out.append("  ".join(parts).rstrip())
    out.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(out)
