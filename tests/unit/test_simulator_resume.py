"""A simulated stream goes on after a restart with the very next record, wherever it was kept."""

from __future__ import annotations

import random

import pytest

from commands.inputs import city_of
from connectors.simulator_source import SimulatorSource
from pipelines import catalogue
from pipelines.delivery import Now
from pipelines.model import Parts
from pipelines.streams import MINUTE_MS

START = 1_772_409_600_000
CITY = city_of("demo")
STREAMS = {s.name: s for s in catalogue.STREAMS}


def source(name: str, now: Now) -> SimulatorSource:
    return SimulatorSource(CITY, STREAMS[name], START, now, seed=3)


def records(one: SimulatorSource, limit: int | None = None) -> tuple[list[tuple[int, int]], int]:
    """(record, t) of what is there now, up to a position; and the position."""
    out: list[tuple[int, int]] = []
    position = 0
    while limit is None or position < limit:
        decoded = one.read()
        if decoded is None:
            break
        out += decoded.events.select("record", "t").rows()
        position = decoded.next_position
    return out, position


@pytest.mark.parametrize("name", ["tkt", "inc", "air"])
@pytest.mark.parametrize("seed", range(3))
def test_it_goes_on_with_the_next_record(name: str, seed: int) -> None:
    """Kept at random, whole or in parts, also right after a step that was done again and stopped at its last record."""
    rnd = random.Random(seed)
    beats = [START + k * 37_000 for k in range(1, 120)]
    whole = Now(START)
    calm = source(name, whole)
    expected: list[tuple[int, int]] = []
    ends = {}
    for whole.at in beats:
        got, position = records(calm)
        expected += got
        ends[whole.at] = position or ends.get(whole.at - 37_000, 0)
    now = Now(START)
    one, found, kept, position, again = source(name, now), list[tuple[int, int]](), Parts(), 0, False
    kept |= one.saved(True)
    for now.at in beats:
        got, reached = records(one, ends[now.at] if again else None) if ends[now.at] > position else ([], 0)
        if not again and not got:
            records(one)
        found, position, again = found + got, reached or position, False
        if rnd.random() < 0.4:
            kept = one.saved(True) if rnd.random() < 0.3 else kept | one.saved(False)
            if rnd.random() < 0.7:
                one = source(name, now)
                one.load(kept, position, now.at)
                kept, again = one.saved(True), True
    assert found == expected and len(expected) > 20
    assert found[-1][1] > START + 30 * MINUTE_MS
