"""Ingest against the reference model on inputs made to be hard: any blocks, many files, jumps, copies."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import dedup
from tests.conformance.ingest_run import Case, Run, compare, expect
from tests.conformance.toy import model

ORIGIN = 1_772_409_600_000
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table so small that short inputs make it grow and forget."""
    monkeypatch.setattr(dedup, "SMALLEST", 4)


def record(rnd: random.Random, s: int, ids: int) -> dict[str, Any]:
    shift = rnd.choice([0, 0, 0, -5, -40, -200, 30]) + (rnd.choice([4000, 9000, -9000]) if rnd.random() < 0.05 else 0)
    value = "x" if rnd.random() < 0.05 else rnd.randint(0, 99)
    place = f"s{rnd.randint(1, 9)}"
    return {"s": s + shift, "id": f"k{rnd.randrange(ids)}", "place": place, "value": value, "weight": 1}


def files(seed: int, inputs: int = 0, most: int = 120) -> Case:
    rnd = random.Random(seed)
    names = [f"f{k}" for k in range(inputs or rnd.randint(1, 5))]
    same = rnd.random() < 0.3
    records: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        s, ids = rnd.randint(0, 300), rnd.choice([5, 60, 1000])
        records[name] = []
        for _ in range(rnd.choice([0, 1, 3, 4, 30, most])):
            s += rnd.choice([0, 1, 7, 30, 30, 60]) + (rnd.choice([1500, 5000]) if rnd.random() < 0.06 else 0)
            records[name].append(record(rnd, s, ids))
    declared = {
        n: {"part": rnd.choice(["p0", "p1"])} | ({} if same else {"D": rnd.choice([0, 20, 60, 400])}) for n in names
    }
    config = {"inputs": declared, "H": rnd.choice([0, 60, 300, 5000]), "J": rnd.choice([600, 3600]), "max_places": 5}
    config |= {"places": {"s1": "north"}, "dedup": rnd.random() < 0.9, "live": False}
    return expect(model().stamp({"origin_ms": ORIGIN, "config": config, "input": records}))


def live(seed: int) -> Case:
    """Many records at one instant, so that blocks are long; inputs that lag, fall idle, join and end."""
    rnd = random.Random(seed)
    names = [f"l{k}" for k in range(rnd.randint(1, 4))]
    declared = {n: {"part": rnd.choice(["p0", "p1"]), "D": rnd.choice([0, 30, 60])} for n in names}
    records: dict[str, list[dict[str, Any]]] = {}
    for n in names:
        joins, lag, ids = rnd.random() < 0.2, rnd.choice([0, 0, 400, 1000]), rnd.choice([5, 50, 1000])
        declared[n]["joins"] = joins
        at, out = 60 * joins, [{"control": "join", "at_s": 60}] * joins
        for _ in range(rnd.randint(0, 12)):
            at += rnd.choice([5, 10, 20, 90])
            for _ in range(rnd.choice([1, 3, 20])):
                r = record(rnd, at - lag + rnd.randint(-20, 20), ids) | {"at_s": at}
                out.append(r | ({"arrival_s": at - lag - rnd.choice([0, 100])} if rnd.random() < 0.1 else {}))
        if rnd.random() < 0.2:
            out.append({"control": "end", "at_s": at + 1})
        records[n] = out
    config = {"inputs": declared, "live": True, "H": rnd.choice([60, 300]), "max_lag": rnd.choice([300, 3600])}
    config |= {"idle_timeout": rnd.choice([0, 15, 60]), "max_places": 5}
    clock = list(range(0, 900, 15))
    return expect(model().stamp({"origin_ms": ORIGIN, "config": config, "input": records, "clock_s": clock}))


@SETTINGS
@given(st.integers(0, 10**9), st.integers(1, 3))
def test_files_equal_the_model(seed: int, cut: int) -> None:
    assert compare([(f"files {seed}", files(seed))], seed=cut)["cases"] == 1


@SETTINGS
@given(st.integers(0, 10**9), st.integers(1, 3))
def test_live_equals_the_model(seed: int, cut: int) -> None:
    assert compare([(f"live {seed}", live(seed))], seed=cut)["cases"] == 1


@settings(SETTINGS, max_examples=20)
@given(st.integers(0, 10**9), st.lists(st.integers(1, 50), min_size=2, max_size=4))
def test_blocks_do_not_change_the_log(seed: int, sizes: list[int]) -> None:
    case = files(seed)
    found = [Run(case, random.Random(size), size).found() for size in sizes]
    assert all(x["log"] == found[0]["log"] and x["counters"] == found[0]["counters"] for x in found)


def test_sixty_files() -> None:
    compared = compare([(f"60 files {seed}", files(seed, inputs=60, most=40)) for seed in (1, 2, 3)])
    print(f"60 files: {dict(compared)}")
    assert compared["records"] > 1000 and compared["late"] and compared["duplicate"]


def test_what_the_cases_contain() -> None:
    """The generators above must reach what they are for: late, duplicate, refused records in both kinds of input."""
    for name, make in (("files", files), ("live", live)):
        compared = compare([(f"{name} {seed}", make(seed)) for seed in range(25)])
        print(f"{name}: {dict(compared)}")
        assert min(compared[x] for x in ("records", "late", "duplicate", "refused")) > 50
