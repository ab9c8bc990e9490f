"""The outage of the web server of 1 August 1995 must be an episode of its own (rule 27, `no_data = "raise"`)."""

from __future__ import annotations

import polars as pl

from tests.oracle.batch import listen, readings_of
from tests.oracle.runs import Outcome

SITE, RULE = "ksc-web", "service.errors"


def check_silence(outcome: Outcome) -> str:
    """Compares the no-data episodes of the server with the runs of windows without a value in the batch; says what it saw."""
    prepared = outcome.prepared
    told = listen("http", prepared.files["http"], prepared.read["http"], prepared.town, prepared.until)
    _, readings = readings_of(told)["http.error_ratio"]
    series = sorted((end, r.value) for (kind, place, end), r in readings.items() if (kind, place) == ("site", SITE))
    expected: list[tuple[int, int | None]] = []
    for before, (end, value) in zip([(0, 0.0), *series], series, strict=False):
        if value is None and before[1] is not None:
            expected.append((end, None))
        elif value is not None and before[1] is None:
            expected[-1] = expected[-1][0], end
    episodes = pl.read_parquet(outcome.out / "episodes.parquet").filter(rule=RULE, place=SITE).sort("started_at")
    silent = episodes.filter(pl.col("level") == "no_data")
    times = silent.select(pl.col("started_at", "ended_at").dt.epoch("ms"))
    found = times.rows()
    assert expected and expected[-1][1] is None, "the batch sees no silence at the end of the log"
    assert found == expected, f"no-data episodes {found}, expected {expected}"
    last = f"{silent['state'][-1]} since {silent['started_at'][-1]}"
    return f"oracle nasa: {len(found)} no-data episodes as in the batch; the last, {last}, is the outage"
