"""Composites join as of T: each part gives its newest reading with window_end <= T - lag, if younger than its validity
(rule 24). They read other readings only, so they are computed from a short history of those, and again when one changes.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from pipelines.indicator import Composite, Indicator, composite
from pipelines.model import NEVER
from pipelines.windows import Slide, ends, spread

PLACE = ["place_kind", "place"]
WHERE = {"place_kind": pl.String, "place": pl.String, "window_end": pl.Int64}
PART = {"place_kind": pl.String, "place": pl.String, "window_end": pl.Int64, "value": pl.Float64, "as_of": pl.Int64}


class CompositeTable:
    """One composite indicator. Its windows are final up to the smallest watermark of the streams of the run."""

    def __init__(self, indicator: Indicator) -> None:
        assert isinstance(indicator.kind, Composite) and isinstance(indicator.window, Slide)
        self.indicator, self.kind, self.window = indicator, indicator.kind, indicator.window
        self.history = {p.indicator: pl.DataFrame(schema=PART) for p in self.kind.parts}
        self.final = NEVER

    def step(self, readings: Mapping[str, pl.DataFrame], watermark: int, remember_ms: int) -> pl.DataFrame:
        """New and corrected cells: `place_kind, place, window_end, value, scores, samples, got, expected, as_of`."""
        touched = [pl.DataFrame(schema=WHERE)]
        for name, history in self.history.items():
            if name not in readings:
                continue
            new = readings[name].filter(pl.col("place_kind").is_in(self.kind.levels)).select(list(PART))
            self.history[name] = pl.concat([history, new]).unique([*PLACE, "window_end"], keep="last", maintain_order=True)
            touched.append(self._reached(new, NEVER, self.final))
        if watermark > self.final:
            touched += [self._reached(history, self.final, watermark) for history in self.history.values()]
            self.final = watermark
        wanted = pl.concat(touched).unique()
        for name, history in self.history.items():
            horizon = self.final - self.kind.lag_ms - self.kind.validity_ms - remember_ms
            self.history[name] = history.filter(pl.col("window_end") >= horizon)
        return self._cells(wanted)

    def _reached(self, readings: pl.DataFrame, after: int, until: int) -> pl.DataFrame:
        """The T in (after, until] that readings reach: from window_end + lag on, for the validity."""
        if readings.is_empty():
            return pl.DataFrame(schema=WHERE)
        since = readings["window_end"] + self.kind.lag_ms
        grid = ends(self.window, max(after, int(since.min()) - 1), until, "UTC")  # type: ignore[arg-type]
        rows = readings.select(*PLACE, (since - 1).alias("pane_start"))
        return spread(rows, Slide(self.kind.validity_ms, self.window.step_ms), grid, "UTC").select(list(WHERE)).unique()

    def _cells(self, wanted: pl.DataFrame) -> pl.DataFrame:
        base = wanted.with_columns(at=pl.col("window_end") - self.kind.lag_ms).sort("at")
        for name, history in self.history.items():
            part = history.select(
                *PLACE,
                pl.col("window_end").alias("at"),
                pl.col("window_end").alias(f"{name}:end"),
                pl.col("value").alias(name),
                pl.col("as_of").alias(f"{name}:as_of"),
            ).sort("at")
            base = base.join_asof(part, on="at", by=PLACE, strategy="backward", check_sortedness=False)
            young = pl.col(f"{name}:end") > pl.col("at") - self.kind.validity_ms
            base = base.with_columns(
                pl.when(young).then(c).alias(c) for c in (name, f"{name}:as_of", f"{name}:end")
            )
        names = list(self.history)
        rows = []
        for row in base.iter_rows(named=True):
            cells = sum(row[f"{n}:end"] is not None for n in names)
            if cells:
                value, scores = composite(self.kind, {n: row[n] for n in names})
                as_of = max((row[f"{n}:as_of"] for n in names if row[f"{n}:as_of"] is not None), default=None)
                reason = "weight_missing" if value is None and scores else None
                rows.append(
                    (row["place_kind"], row["place"], row["window_end"], value, {k: round(v, 9) for k, v in scores.items()},
                     len(scores), len(scores), cells, as_of, reason)  # fmt: skip
                )
        return pl.DataFrame(
            rows,
            schema={"place_kind": pl.String, "place": pl.String, "window_end": pl.Int64, "value": pl.Float64, "scores": pl.Object,
                    "samples": pl.Int64, "got": pl.Int64, "expected": pl.Int64, "as_of": pl.Int64, "reason": pl.String},
            orient="row",
        )  # fmt: skip
