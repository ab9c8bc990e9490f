"""Composites join as of T: each part gives its newest reading with window_end <= T - lag, if younger than its validity
(rule 24). They read other readings only, so they are computed from a short history of those, and again when one changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.indicator import Composite, Indicator
from pipelines.model import NEVER, Parts
from pipelines.streams import DAY_MS
from pipelines.windows import Slide, ends, spread

CORRECTED_MS = 7 * DAY_MS
"""How far behind the newest T composites follow corrections of their parts: the history that is kept for it."""
PLACE = ["place_kind", "place"]
WHERE = {"place_kind": pl.String, "place": pl.String, "window_end": pl.Int64}
PART: Final[Any] = {
    "place_kind": pl.String,
    "place": pl.String,
    "window_end": pl.Int64,
    "value": pl.Float64,
    "as_of": pl.Int64,
}


class CompositeTable:
    """One composite indicator. Its windows are final up to the smallest watermark of the streams of the run."""

    def __init__(self, indicator: Indicator) -> None:
        assert isinstance(indicator.kind, Composite) and isinstance(indicator.window, Slide)
        self.indicator, self.kind, self.window = indicator, indicator.kind, indicator.window
        self.history = {p.indicator: pl.DataFrame(schema=PART) for p in self.kind.parts}
        self.final = NEVER
        self._told = dict[str, list[pl.DataFrame]]()
        """What came to each history since the last `saved`, once it was called."""
        self._saves = 0

    def step(self, readings: Mapping[str, pl.DataFrame], watermark: int, remember_ms: int) -> pl.DataFrame:
        """New and corrected cells: `place_kind, place, window_end, value, detail, samples, got, expected, as_of, reason`."""
        kept = max(remember_ms, CORRECTED_MS)
        touched = [pl.DataFrame(schema=WHERE)]
        for name, history in self.history.items():
            if name not in readings:
                continue
            new = (
                readings[name]
                .filter(pl.col("place_kind").cast(pl.String).is_in(self.kind.levels))
                .select(list(PART))
                .cast(PART)
            )
            self.history[name] = pl.concat([history, new]).unique(
                [*PLACE, "window_end"], keep="last", maintain_order=True
            )
            if self._saves:
                self._told.setdefault(name, []).append(new)
            touched.append(self._reached(new, self.final - kept, self.final))
        if watermark > self.final:
            touched += [self._reached(history, self.final, watermark) for history in self.history.values()]
            self.final = watermark
        # Before anything is forgotten: one step may make days of T final.
        cells = self._cells(pl.concat(touched).unique())
        horizon = self.final - self.kind.lag_ms - self.kind.validity_ms - kept
        for name, history in self.history.items():
            self.history[name] = history.filter(pl.col("window_end") >= horizon)
        return cells

    def saved(self, whole: bool) -> Parts:
        """State for a checkpoint: all, or what came since the last call."""
        told = {name: [history] for name, history in self.history.items()} if whole else self._told
        frames = {name: pl.concat(frames) for name, frames in told.items()}
        self._told, self._saves = {}, self._saves + 1
        parts: Parts = {"final": self.final}
        return parts | {f"{self._saves}/{name}": frame for name, frame in frames.items() if len(frame)}

    def load(self, parts: Parts) -> None:
        """Into a fresh table; the parts of a composite that has new ones have no history yet."""
        self.final = parts["final"]
        frames: dict[str, list[tuple[int, pl.DataFrame]]] = {}
        for key, frame in parts.items():
            number, _, name = key.partition("/")
            if name in self.history:
                frames.setdefault(name, []).append((int(number), frame))
        for name, numbered_frames in frames.items():
            ordered = [frame for _, frame in sorted(numbered_frames, key=lambda x: x[0])]
            self.history[name] = pl.concat(ordered).unique([*PLACE, "window_end"], keep="last", maintain_order=True)

    def _reached(self, readings: pl.DataFrame, after: int, until: int) -> pl.DataFrame:
        """The T in (after, until] that readings reach: from window_end + lag on, for the validity."""
        if readings.is_empty():
            return pl.DataFrame(schema=WHERE)
        since = readings["window_end"] + self.kind.lag_ms
        first, last = int(since.min()), int(since.max())  # type: ignore[arg-type]
        grid = ends(self.window, max(after, first - 1), min(until, last + self.kind.validity_ms), "UTC")
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
            base = base.with_columns(pl.when(young).then(c).alias(c) for c in (name, f"{name}:as_of", f"{name}:end"))
        return self._scored(base)

    def _scored(self, base: pl.DataFrame) -> pl.DataFrame:
        """The same numbers as `pipelines.indicator.composite`, over columns."""
        total = sum(p.weight for p in self.kind.parts)
        weight, points = np.zeros(len(base), dtype=np.int64), np.zeros(len(base))
        cells, samples = np.zeros(len(base), dtype=np.int64), np.zeros(len(base), dtype=np.int64)
        scores: dict[str, list[float]] = {}
        for part in self.kind.parts:
            given = base[part.indicator].is_not_null().to_numpy()
            scored = piecewise(part.score, base[part.indicator].fill_null(0).to_numpy())
            weight += part.weight * given
            points += np.where(given, part.weight * scored, 0.0)
            samples += given
            cells += base[f"{part.indicator}:end"].is_not_null().to_numpy()
            scores[part.indicator] = np.where(given, np.round(scored, 9), np.nan).tolist()
        enough = (weight > 0) & (total - weight <= self.kind.missing_share * total)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = pl.Series("value", np.where(enough, points / weight, np.nan)).fill_nan(None)
        names = list(scores)
        detail = [
            {"scores": {n: x for n, x in zip(names, row, strict=True) if x == x}}
            for row in zip(*scores.values(), strict=True)
        ]
        return base.select(
            *WHERE,
            value,
            pl.Series("detail", detail, dtype=pl.Object),
            pl.Series("samples", samples),
            pl.Series("got", samples),
            pl.Series("expected", cells),
            pl.max_horizontal(f"{n}:as_of" for n in names).alias("as_of"),
            pl.when(pl.Series(~enough & (samples > 0))).then(pl.lit("weight_missing")).alias("reason"),
        ).filter(pl.col("expected") > 0)


def piecewise(points: Sequence[tuple[float, float]], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`pipelines.indicator.score` of many values."""
    x, y = (np.array([p[k] for p in points], dtype=np.float64) for k in (0, 1))
    index = np.searchsorted(x, values, side="left")
    i = index.clip(1, len(x) - 1)
    inside = y[i - 1] + (y[i] - y[i - 1]) * (values - x[i - 1]) / (x[i] - x[i - 1])
    out: npt.NDArray[np.float64] = np.where(index == 0, y[0], np.where(index == len(x), y[-1], inside))
    return out
