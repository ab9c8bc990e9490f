"""A record fares the same alone and in a frame: `check` and `check_record` give the same verdict in the same words."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import polars as pl
import pytest

from connectors.formats.decoded import schema
from pipelines import records
from pipelines.records import Refused, check, check_record
from pipelines.streams import AIR, CASE, DET, LINK, TKT, Flag, Int, Stream, Text

STREAMS = (LINK, DET, AIR, CASE, TKT)
BIG = 2**63 - 1


def values(stream: Stream, rng: random.Random) -> dict[str, Any]:
    """Values of the right type, now and then outside what is valid."""
    odd = rng.random() < 0.4

    def pick(good: list[Any], bad: list[Any]) -> Any:
        return rng.choice(bad) if odd and rng.random() < 0.3 else rng.choice(good)

    out: dict[str, Any] = {"t": pick([0, 5, 1_700_000_000_000], [None, -1, 253_370_764_800_000, BIG, -BIG])}
    out["place"] = pick(["a", "长安街", "x" * 128], [None, "", "x" * 129, "a\x00", "\x7f", "长" * 43])
    for column in stream.columns:
        if isinstance(column, Int):
            out[column.name] = pick([column.low, column.high], [None, column.low - 1, column.high + 1, BIG, -BIG])
        elif isinstance(column, Text):
            out[column.name] = pick(list(column.values) or ["a", ""], [None, "", "zz", "x" * 129, "a\nb"])
        elif isinstance(column, Flag):
            out[column.name] = pick([0, 1, None], [2, -1, BIG])
        else:
            out[column.name] = pick([0, None, 99], [-1, BIG])
    return out


def verdicts(stream: Stream, rows: list[dict[str, Any]], coded: bool) -> tuple[int, list[str]]:
    frame = pl.DataFrame(rows, schema={k: v for k, v in schema(stream).items() if k in rows[0]})
    if coded:
        frame = frame.with_columns(pl.col("place").cast(pl.Categorical()))
    good, refused = check(frame, stream)
    wrong = []
    kept = []
    for i, row in enumerate(rows):
        alone = check_record({(stream.place if k == "place" else k): v for k, v in row.items()}, stream)
        if isinstance(alone, Refused):
            if refused.get(i) != alone:
                wrong.append(f"{stream.name} {row}: {refused.get(i)} != {alone}")
        else:
            kept.append(alone)
            if i in refused:
                wrong.append(f"{stream.name} {row}: {refused[i]} != accepted")
    if good.with_columns(pl.col("place").cast(pl.String)).to_dicts() != kept:
        wrong.append(f"{stream.name}: other rows kept")
    return len(refused), wrong


@pytest.mark.parametrize("coded", [False, True], ids=["texts", "categories"])
def test_alone_and_together_agree(coded: bool) -> None:
    rng = random.Random(11)
    refused = compared = 0
    for _ in range(30):
        for stream in STREAMS:
            rows = [values(stream, rng) for _ in range(rng.choice([1, 5, 60]))]
            bad, wrong = verdicts(stream, rows, coded)
            assert not wrong, wrong[0]
            refused, compared = refused + bad, compared + len(rows)
    print(f"{compared} records compared, {refused} refused")
    assert refused > 300
    assert compared - refused > 1_000


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_bound", lambda *args: None)
    rng = random.Random(11)
    found = [w for stream in STREAMS for w in verdicts(stream, [values(stream, rng) for _ in range(60)], False)[1]]
    assert found


def test_the_first_violation_counts() -> None:
    assert check_record({"t": -1, "link": "", "tt_ms": 0, "n": None}, LINK) == records._when("t", -1)
    assert check_record({"t": 1, "link": "", "tt_ms": 0, "n": None}, LINK) == records._empty("link")
    assert check_record({"t": 1, "link": "a", "tt_ms": 0, "n": None}, LINK) == records._range("tt_ms", 0, 1, 36_000_000)


def test_reasons_of_values_of_another_type() -> None:
    good = {"t": 1, "station": "s", "pollutant": "o3", "ngm3": 5, "covered_ms": 60_000}
    cases: list[tuple[str, object, str]] = [
        ("t", True, "bad_time"), ("t", 1.0, "bad_time"), ("t", "1", "bad_time"), ("t", [], "bad_time"),
        ("station", 5, "wrong_type"), ("station", {}, "wrong_type"), ("pollutant", False, "wrong_type"),
        ("ngm3", "5", "wrong_type"), ("ngm3", 5.0, "wrong_type"), ("ngm3", True, "wrong_type"),
        ("ngm3", 1e30, "out_of_range"),
        ("ngm3", 10**30, "out_of_range"), ("pollutant", "xx", "unknown_value"), ("covered_ms", None, "null_value"),
    ]  # fmt: skip
    seen = Counter[str]()
    for name, value, reason in cases:
        verdict = check_record(good | {name: value}, AIR)
        assert isinstance(verdict, Refused)
        assert verdict.reason == reason, (name, value)
        assert name in verdict.detail
        seen[reason] += 1
    without = dict(good)
    del without["ngm3"]
    verdict = check_record(without, AIR)
    assert isinstance(verdict, Refused)
    assert verdict.reason == "missing_field"
    assert len(seen) == 5
