"""The detail of a reading is canonical JSON, whether it is written column by column or row by row."""

from __future__ import annotations

import random

import orjson
import polars as pl

from pipelines.cells import detail_json

DETAIL = pl.Struct(
    {
        "primary": pl.List(pl.String),
        "iaqi": pl.Struct({"so2": pl.Int64, "co": pl.Int64}),
        "concentration": pl.Struct({"so2": pl.Float64, "co": pl.Float64}),
        "z": pl.Int64,
        "note": pl.String,
    }
)
FLOATS = (0.0, 1.0, -1.5, 0.1, 1.2, 1e-9, 123456789.123456789, 1e15, 5e-324, 1 / 3, None)


def slow(detail: dict[str, object], reason: str | None) -> str:
    kept = {k: v for k, v in detail.items() if v is not None}
    return orjson.dumps(kept | ({"reason": reason} if reason else {}), option=orjson.OPT_SORT_KEYS).decode()


def some(rng: random.Random) -> dict[str, object]:
    number = lambda: rng.choice([None, 0, 7, -3, 2**60])  # noqa: E731
    return {
        "primary": rng.choice([None, [], ["pm25"], ["o3", "no2"]]),
        "iaqi": rng.choice([None, {"so2": number(), "co": number()}]),
        "concentration": rng.choice([None, {"so2": rng.choice(FLOATS), "co": rng.choice(FLOATS)}]),
        "z": number(),
        "note": rng.choice([None, "", "a", '"quoted" \\', "长安街", "tab\t"]),
    }


def test_columns_and_rows_write_the_same() -> None:
    rng = random.Random(3)
    details = [some(rng) for _ in range(2000)]
    reasons = [rng.choice([None, "NA", "too_few_samples"]) for _ in details]
    found = detail_json(pl.Series(details, dtype=DETAIL), pl.Series(reasons, dtype=pl.String)).to_list()
    expected = [slow(d, r) for d, r in zip(details, reasons, strict=True)]
    assert found == expected
    assert len(set(expected)) > 1000 and "{}" in expected


def test_nothing_at_all() -> None:
    assert detail_json(pl.Series([None], dtype=DETAIL), pl.Series([None], dtype=pl.String)).to_list() == ["{}"]
    assert detail_json(pl.Series([], dtype=DETAIL), pl.Series([], dtype=pl.String)).to_list() == []
