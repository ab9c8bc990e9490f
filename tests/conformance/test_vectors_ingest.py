"""Rules 4 to 11: ingest's log, refused records, counters and watermark equal the golden ones, whatever its blocks."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines import ingest, input_clock
from pipelines.file_order import FileOrder
from pipelines.ingest import Bounds
from pipelines.places import Places
from pipelines.watermark import LiveWatermark
from tests.conformance.ingest_run import compare, generated
from tests.conformance.toy import golden
from tests.mutants import mutant


def test_golden_log() -> None:
    compared = compare(golden())
    print(f"golden: {dict(compared)}")
    assert compared["cases"] >= 46 and compared["records"] > 200 and compared["refused"] and compared["duplicate"]


def test_generated_log() -> None:
    compared = compare(generated())
    print(f"generated: {dict(compared)}")
    assert compared["cases"] == 1000 and compared["records"] > 20_000 and compared["ticks"] > 10_000
    assert compared["late"] > 1000 and compared["refused"] > 100 and compared["duplicate"] > 100


def wrong(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, make: Any) -> None:
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))


BREAK = {
    # What is broken: (owner, attribute, what to make of the original).
    "D is one ms too long": (
        Bounds,
        "of",
        lambda of: classmethod(lambda cls, stream, o: of(stream, o | {"disorder_ms": o["disorder_ms"] + 1})),
    ),
    "the horizon is a minute too long": (
        Bounds,
        "of",
        lambda of: classmethod(lambda cls, stream, o: of(stream, o | {"horizon_ms": o["horizon_ms"] + 60_000})),
    ),
    "silence does not move ticks": (LiveWatermark, "_all_silent", lambda _: lambda self, partition, now: None),
    "files in the opposite order": (
        ingest,
        "merge_order",
        lambda order: lambda shares: None if order(shares) is None else order(shares)[::-1],
    ),
    "files by turns": (
        FileOrder,
        "_first",
        lambda first: lambda self: next((f for f in self.files.values() if not f.feed.ended), None),
    ),
    "three in a row are enough to jump": (input_clock, "_read", lambda _: loop("if run == RUN:", "if run == 3:")),
    "a duplicate does not count as seen": (
        input_clock,
        "_read",
        lambda _: loop("slots[slot, 1] = m\n                duplicate", "duplicate"),
    ),
    "one place more than allowed": (
        Places,
        "__init__",
        lambda init: lambda self, registry, configured, most: init(self, registry, configured, most + 1),
    ),
}


def loop(old: str, new: str) -> Any:
    """The loop of the input clock with one change."""
    return mutant(input_clock, old, new)._read


@pytest.mark.parametrize("what", BREAK)
def test_negative_control(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is broken must be seen in the golden cases or in the first generated ones."""
    cases = golden() + generated(100)
    owner, name, make = BREAK[what]
    wrong(monkeypatch, owner, name, make)
    with pytest.raises(AssertionError):
        compare(cases)
