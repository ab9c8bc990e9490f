"""Tiles: the newest reading of an indicator at a place, as JSON carries it to the page and to other clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
import polars as pl

Key = tuple[str, str, str]
"""(indicator, place_kind, place)."""
Tile = dict[str, Any]
"""A reading for JSON: times are ISO 8601 in UTC, `detail` is an object, `provisional` says that it may still change."""

KEY: Final = ("indicator", "place_kind", "place")
LAST_TIME_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last instant that ISO 8601 writes with four digits."""


@lru_cache(maxsize=16384)
def iso(ms: int | None) -> str | None:
    """`2026-03-02T00:00:00.000Z`; None where there is no time or it is minus infinity (`NEVER`)."""
    if ms is None or not 0 <= ms <= LAST_TIME_MS:
        return None
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


@lru_cache(maxsize=4096)
def unpacked(detail: str) -> Any:
    """Canonical JSON of `detail` as an object; a text that is no JSON is shown as it is."""
    if not detail or detail == "{}":
        return {}
    try:
        return orjson.loads(detail)
    except orjson.JSONDecodeError:
        return {"text": detail}


def tile(row: dict[str, Any], provisional: bool) -> Tile:
    """One row of READINGS_SCHEMA for JSON. No data stays null, never 0 (rule 21)."""
    return {
        "indicator": row["indicator"],
        "place_kind": row["place_kind"],
        "place": row["place"],
        "window_start": iso(row["window_start"]),
        "window_end": iso(row["window_end"]),
        "value": row["value"],
        "unit": row["unit"],
        "state": row["state"],
        "completeness": row["completeness"],
        "samples": row["samples"],
        "num": row["num"],
        "den": row["den"],
        "detail": unpacked(row["detail"] or ""),
        "as_of": iso(row["as_of"]),
        "method_id": row["method_id"],
        "revision": row["revision"],
        "provisional": provisional,
        "no_data_since": iso(row["window_start"]) if row["state"] == "no_data" else None,
    }


def newest(frame: pl.DataFrame) -> pl.DataFrame:
    """Of each (indicator, place_kind, place) the row with the last window, and of that the last revision."""
    return frame.sort("window_end", "revision").unique(KEY, keep="last", maintain_order=True)


def rows(frame: pl.DataFrame) -> Iterator[tuple[Key, dict[str, Any]]]:
    for row in frame.iter_rows(named=True):
        yield (row["indicator"], row["place_kind"], row["place"]), row


class Sites:
    """Newest readings below the districts: kept as frames, because there may be a million of them.

    They are asked for rarely, so batches are only collected, and merged when there are many or when someone asks. One
    thread adds, others find; neither holds the lock while frames are merged.
    """

    def __init__(self, merge_after: int = 16) -> None:
        self._merge_after = merge_after
        self._lock = threading.Lock()
        self._batches: tuple[pl.DataFrame, ...] = ()
        self._provisional: pl.DataFrame | None = None

    def add(self, finals: pl.DataFrame, provisional: pl.DataFrame | None) -> None:
        """`provisional` replaces the previous ones; None leaves them."""
        with self._lock:
            if len(finals):
                self._batches = (*self._batches, newest(finals))
            if provisional is not None:
                self._provisional = provisional
        if len(self._batches) > self._merge_after:
            self._merged()

    def _merged(self) -> pl.DataFrame | None:
        batches = self._batches
        if len(batches) < 2:
            return batches[0] if batches else None
        merged = newest(pl.concat(batches))
        with self._lock:
            # Batches that came meanwhile stay behind the merged ones; a merge by another thread is left as it is.
            if len(self._batches) >= len(batches) and all(a is b for a, b in zip(self._batches, batches, strict=False)):
                self._batches = (merged, *self._batches[len(batches) :])
        return merged

    def find(self, wanted: Sequence[pl.Expr], after: Key | None, limit: int) -> list[Tile]:
        """At most `limit` tiles in the order of their keys, from the one after `after`; provisional where newer."""
        merged, provisional = self._merged(), self._provisional
        frames = [f.with_columns(pl.lit(True).alias("provisional")) for f in (provisional,) if f is not None]
        frames += [f.with_columns(pl.lit(False).alias("provisional")) for f in (merged,) if f is not None]
        if not frames:
            return []
        found = pl.concat(frames).filter(*wanted)
        if after is not None:
            kind, place = pl.col("place_kind"), pl.col("place")
            found = found.filter(
                (pl.col("indicator") > after[0])
                | ((pl.col("indicator") == after[0]) & ((kind > after[1]) | ((kind == after[1]) & (place > after[2]))))
            )
        found = found.sort("window_end", "provisional", "revision", descending=[False, True, False])
        found = found.unique(KEY, keep="last", maintain_order=True).sort(KEY).head(limit)
        return [tile(row, row["provisional"]) for _, row in rows(found)]
