"""The product in this process with its store in memory, so that a test may break it and see the comparison fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from commands.inputs import resolve
from pipelines import catalogue
from pipelines.delivery import COMMIT_EVENTS, Run
from pipelines.indicator import Indicator
from sinks.memory import MemorySink
from sinks.writer import StoreThread


def readings(
    files: Sequence[Path],
    city: str,
    indicators: tuple[Indicator, ...] | None = None,
    commit_events: int = COMMIT_EVENTS,
) -> pl.DataFrame:
    """The newest readings of a replay of canonical files."""
    inputs = resolve(files, city=city, map_=None, stream=None, lookup=None, disorder=None)
    used = catalogue.for_city(inputs.city) if indicators is None else indicators
    sink = MemorySink(catalogue.rollups(used), tuple(s for s in catalogue.STREAMS if s.lifecycle))
    store = StoreThread(sink)
    run = Run(
        inputs.city, used, inputs.streams, inputs.attached, store, live=False, epoch=1, commit_events=commit_events
    )
    run.replay()
    store.close()
    return sink.newest_readings()
