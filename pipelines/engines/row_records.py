"""The rows topic as bytes: one JSON object a row or manifest, named by rollup and frame (rules 15 and 16)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson
import polars as pl

from pipelines.model import PlaceRegistry
from pipelines.rollup import Rollup

NAMED_MANIFESTS: Final[dict[str, Any]] = {
    "rollup": pl.String, "frame": pl.String, "manifest": pl.Boolean, "pane_start": pl.Int64, "n": pl.Int64,
}  # fmt: skip
OTHERS: Final[dict[str, Any]] = {"place": pl.String, "bucket": pl.Int32, "late": pl.Boolean, "part": pl.String}
"""The fields of a row that are no Int64."""


def row_columns(rollup: Rollup) -> list[str]:
    """The fields of a row beside its rollup and frame."""
    keys = ["place", "pane_start", *(["bucket"] if rollup.histogram else [])]
    return [*keys, *(m.name for m in rollup.measures), "n", "as_of", "late", "part", "off"]


def row_records(rollup: Rollup, rows: pl.DataFrame, job: str = "") -> list[bytes]:
    """Rows of an engine whose places are names. `job`: the id that it announced."""
    own = {"rollup": rollup.name, "frame": rollup.frame_hash, **({"job": job} if job else {})}
    named = rows.select(*(pl.lit(value).alias(name) for name, value in own.items()), *row_columns(rollup))
    return named.write_ndjson().encode().splitlines()


def manifest_records(rollup: Rollup, manifests: Iterable[tuple[int, int]], job: str = "") -> list[bytes]:
    """(pane_start, on-time events), in pane order."""
    own = {"rollup": rollup.name, "frame": rollup.frame_hash, **({"job": job} if job else {}), "manifest": True}
    return [orjson.dumps({**own, "pane_start": start, "n": n}) for start, n in manifests]


def rows_of(records: Iterable[bytes], rollups: Sequence[Rollup], registry: PlaceRegistry) -> dict[str, pl.DataFrame]:
    """By rollup the rows among runs of records (lines), as `Rows` has them. `registry` knows their places already."""
    schema = NAMED_MANIFESTS | {c: OTHERS.get(c, pl.Int64) for rollup in rollups for c in row_columns(rollup)}
    frames = [pl.DataFrame(schema=schema), *(pl.read_ndjson(run, schema=schema) for run in records if run)]
    rows = pl.concat(frames).filter(pl.col("manifest").is_null())
    codes = pl.col("place").replace_strict(registry.known, return_dtype=pl.UInt32)
    return {
        rollup.name: rows.filter(rollup=rollup.name, frame=rollup.frame_hash)
        .select(row_columns(rollup))
        .with_columns(codes if registry.known else pl.col("place").cast(pl.UInt32))
        for rollup in rollups
    }


def manifests_of(records: Iterable[bytes]) -> pl.DataFrame:
    """The manifests among runs of records, columns of `NAMED_MANIFESTS`."""
    frames = [pl.read_ndjson(run, schema=NAMED_MANIFESTS) for run in records if run]
    return pl.concat([pl.DataFrame(schema=NAMED_MANIFESTS), *frames]).filter(pl.col("manifest").is_not_null())
