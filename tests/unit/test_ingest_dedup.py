"""Rule 5 against a dictionary: exact duplicates within the horizon, bounded memory, and ids that never change."""

from __future__ import annotations

import pickle
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import input_clock
from pipelines.event_id import event_ids
from pipelines.input_clock import InputClock
from pipelines.model import NEVER
from pipelines.streams import AIR, CASE, HTTP, LINK
from tests.mutants import mutant

GOLDEN = [4281579289110573322, 11999687986948295354, 16454207446033607791, 16901320236331205182]


def naive(t: list[int], keys: list[int], horizon: int) -> list[bool]:
    seen: dict[int, int] = {}
    m, out = NEVER, []
    for time, key in zip(t, keys, strict=True):
        duplicate = key in seen and m - seen[key] < horizon
        m = m if duplicate else max(m, time)
        seen[key] = m
        out.append(duplicate)
    return out


def found(t: list[int], keys: list[int], horizon: int, rnd: random.Random) -> list[bool]:
    clock, out, at = InputClock(None, horizon), [], 0
    while at < len(t):
        n = rnd.choice([1, 5, 100, 5000])
        block = np.array(keys[at : at + n], dtype=np.uint64)
        _, duplicate = clock.read(np.array(t[at : at + n], dtype=np.int64), block)
        out += [False] * len(block) if duplicate is None else duplicate.tolist()
        at += n
        if rnd.random() < 0.2:
            clock.seen = pickle.loads(pickle.dumps(clock.seen))
    return out


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([1, 50, 400, 10**6]), st.sampled_from([3, 300, 4000]))
def test_equals_a_dictionary(seed: int, horizon: int, distinct: int) -> None:
    rnd = random.Random(seed)
    # Few low bits make the keys collide in the table; copies with a later time decide what M is, and so what is a copy.
    pool = [(rnd.getrandbits(64) & ~0x3FF | rnd.randint(0, 3)) or 1 for _ in range(distinct)]
    t, keys = [], []
    for k in range(rnd.choice([10, 600, 3000])):
        t.append(k + rnd.choice([0, 0, -30, -300, 90]))
        keys.append(rnd.choice(pool))
    assert found(t, keys, horizon, rnd) == naive(t, keys, horizon)


def test_a_long_stream_needs_bounded_memory() -> None:
    clock = InputClock(None, 10_000)
    assert clock.seen is not None
    rng, largest, duplicates = np.random.default_rng(1), 0, 0
    for k in range(200):  # 5,000 new keys a second of event time: 50,000 live ones
        ids = rng.integers(1, 2**64, 5_000, dtype=np.uint64)
        ids[1::100] = ids[::100]
        _, duplicate = clock.read(np.full(len(ids), k * 1000), ids)
        duplicates += 0 if duplicate is None else int(duplicate.sum())
        largest = max(largest, len(clock.seen))
    print(f"{duplicates} duplicates among 1,000,000 keys, at most {largest} slots")
    assert duplicates == 200 * 50 and largest <= 1 << 18


def test_id_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="event id 0"):
        InputClock(None, 1000).read(np.zeros(1, np.int64), np.zeros(1, dtype=np.uint64))


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not found again must be seen."""
    t, keys = [1, 2, 3], [7, 8, 7]
    assert found(t, keys, 1000, random.Random(1)) == naive(t, keys, 1000)
    broken = mutant(input_clock, "slots[slot, 0] = keys[i]", "slots[slot, 0] = keys[i] + 1")
    monkeypatch.setattr(input_clock, "_read", broken._read)
    assert found(t, keys, 1000, random.Random(1)) != naive(t, keys, 1000)


def after_a_jump() -> list[int]:
    """Which records are duplicates when M jumps by 5 s with the fourth record ahead, and copies of the four follow."""
    clock = InputClock(600, 60)
    t = np.array([1, 2, 3, 4, 5000, 5001, 5002, 5003, 5000, 5001, 5003])
    _, duplicate = clock.read(t, np.array([1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 8], dtype=np.uint64))
    return [] if duplicate is None else np.flatnonzero(duplicate).tolist()


def test_the_records_before_a_jump_are_seen_as_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6 (c1): their age is measured from where M jumped to, not from where it was when they were read."""
    assert after_a_jump() == [8, 9, 10]
    broken = mutant(input_clock, "slots[find(slots, ahead[i, 1]), 1] = m", "pass")
    monkeypatch.setattr(input_clock, "_read", broken._read)
    assert after_a_jump() == [10]


def frame(kind: type[pl.DataType] | pl.DataType) -> pl.DataFrame:
    places = ["L00001", "L2", "", "a rather long name of a place", "路口", "L00001", "x" * 100, "L2\0"]
    return pl.DataFrame({"t": range(8), "place": pl.Series(places).cast(kind)})


def test_ids_do_not_depend_on_block_type_or_neighbours() -> None:
    plain = frame(pl.String)
    ids = event_ids(plain, LINK).to_list()
    names = pl.Enum(plain["place"].unique(maintain_order=True).reverse())
    assert event_ids(frame(pl.Categorical), LINK).to_list() == ids == event_ids(frame(names), LINK).to_list()
    assert [event_ids(plain[k : k + 1], LINK)[0] for k in range(8)] == ids
    assert len(set(ids)) == 8 and 0 not in ids


def test_ids_are_those_of_every_earlier_version() -> None:
    """Written down: a checkpoint and the store of an older version hold such ids (rule 3)."""
    assert event_ids(frame(pl.String), LINK).to_list()[:4] == GOLDEN


def test_ids_of_other_keys() -> None:
    case = pl.DataFrame({"t": [1, 1, 2, 1], "case_id": ["a", "b", "a", None], "milestone": ["submit"] * 4})
    assert event_ids(case, CASE).n_unique() == 4
    swapped = pl.DataFrame({"t": [1], "case_id": ["submit"], "milestone": ["a"]})
    assert event_ids(swapped, CASE)[0] not in event_ids(case, CASE)
    assert event_ids(frame(pl.String), HTTP).to_list() == [0] * 8
    assert event_ids(frame(pl.String).head(0), LINK).len() == 0
    with pytest.raises(LookupError, match="'pollutant'"):
        event_ids(frame(pl.String), AIR)


def test_a_million_ids_differ() -> None:
    n = 1_000_000
    block = pl.DataFrame(
        {"t": np.arange(n) // 1000 * 60_000, "place": pl.Series([f"L{k:05d}" for k in range(1000)] * 1000)}
    )
    assert event_ids(block, LINK).n_unique() == n
