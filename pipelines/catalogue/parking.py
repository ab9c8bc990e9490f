"""Car parks (stream `park`): the last state of each lot, valid for a while after it was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

from pipelines.catalogue.rollups import LOTS, packed, unpacked
from pipelines.indicator import Case, Indicator, Panes, Thresholds
from pipelines.streams import MINUTE_MS
from pipelines.windows import Slide


def occupancy(validity_min: int = 10) -> Indicator:
    """Occupied over usable spaces as of each minute, from the last state at most `validity_min` old (2 to 1440).

    The window is the validity: it slides by a minute. A parent adds its lots' spaces. Above 100 % the value stays, and
    the reading is `degraded`: more cars than spaces are cars outside the bays, or a wrong count.
    """
    if not 2 <= validity_min <= 1440:
        raise ValueError(f"validity_min is {validity_min}; it must be from 2 to 1440")
    occupied, total, out_of_service = (_latest(m) for m in ("occupied", "total", "out_of_service"))
    usable = pl.col("total") - pl.col("out_of_service")
    return Indicator(
        id="parking.occupancy",
        method_id=f"occupied/(total-oos), V={validity_min} min",
        zh="停车占有率",
        en="Parking occupancy",
        unit="%",
        domain="traffic",
        window=Slide(validity_min * MINUTE_MS, MINUTE_MS),
        kind=Panes(
            LOTS,
            aggregate=(occupied, total, out_of_service),
            partial=(
                pl.when(usable > 0).then(pl.col("occupied")).alias("num"),
                pl.when(usable > 0).then(usable).alias("den"),
            ),
            value=100 * pl.col("num") / pl.col("den"),
            reason=pl.when(pl.col("den").fill_null(0) == 0).then(pl.lit("no_capacity")),
            caution=pl.when(pl.col("num") > pl.col("den")).then(pl.lit("above_capacity")),
            reduce=True,
        ),
        thresholds=Thresholds((60.0, 80.0, 90.0), "P", "target 60-80 % [V] SFpark (lewis.ucla.edu); 90 % ours"),
        case=Case(
            (_state(0, 20, 100, 0), _state(validity_min - 1, 60, 100, 20)),
            75.0,
            "the later state counts: 60 of the 80 bays in service",
        ),
    )


def _latest(measure: str) -> pl.Expr:
    """The measure in the last pane of the window that has one."""
    return unpacked(LOTS, measure).sort_by("pane_start").last().alias(measure)


def _state(minute: int, occupied: int, total: int, out_of_service: int) -> dict[str, int]:
    given = {"occupied": occupied, "total": total, "out_of_service": out_of_service}
    return {"pane_start": minute * MINUTE_MS} | {m: packed(LOTS, m, v) for m, v in given.items()}


INDICATORS: Final = (occupancy(),)
TUNABLE: Final[Mapping[str, Callable[..., Indicator]]] = {"parking.occupancy": occupancy}
