"""The rows topic as bytes: one JSON object a row or manifest, named by rollup and frame (rules 15 and 16)."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
import polars as pl

from pipelines.rollup import Rollup


def row_columns(rollup: Rollup) -> list[str]:
    """The fields of a row beside its rollup and frame."""
    keys = ["place", "pane_start", *(["bucket"] if rollup.histogram else [])]
    return [*keys, *(m.name for m in rollup.measures), "n", "as_of", "late", "part", "off"]


def row_records(rollup: Rollup, rows: pl.DataFrame) -> list[bytes]:
    """Rows of an engine whose places are names."""
    named = rows.select(
        pl.lit(rollup.name).alias("rollup"), pl.lit(rollup.frame_hash).alias("frame"), *row_columns(rollup)
    )
    return named.write_ndjson().encode().splitlines()


def manifest_records(rollup: Rollup, manifests: Iterable[tuple[int, int]]) -> list[bytes]:
    """(pane_start, on-time events), in pane order."""
    own = {"rollup": rollup.name, "frame": rollup.frame_hash, "manifest": True}
    return [orjson.dumps({**own, "pane_start": start, "n": n}) for start, n in manifests]
