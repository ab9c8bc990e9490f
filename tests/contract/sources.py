"""What `pipelines.model.Source` promises, as one check over any source."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.model import Decoded, Source

LONGEST_S = 0.25
"""How long `read` may wait."""
Record = tuple[int, int, int]
"""Number, index, and the event's id; -1 for a refused record."""


@dataclass(slots=True)
class Reading:
    """What was read of a source: records in their order, the positions after each block, and how long a read took."""

    records: list[Record] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    """By position, in their order, how many records lie before it."""
    longest_s: float = 0.0


def records_of(decoded: Decoded) -> list[Record]:
    good = list(decoded.events.select("record", "index", "id").iter_rows())
    bad = [(int(r), int(i or 0), -1) for r, _, i in (letter.position.partition(":") for letter in decoded.refused)]
    return sorted(good + bad)


def read(source: Source, count: int, longest_s: float = 30.0) -> Reading:
    """Reads until there are so many records or the source ended; fails where that takes too long."""
    found, ends = Reading(), time.monotonic() + longest_s
    while len(found.records) < count and not source.ended:
        began = time.monotonic()
        decoded = source.read()
        found.longest_s = max(found.longest_s, time.monotonic() - began)
        if decoded is not None:
            assert (decoded.input, decoded.stream) == (source.input, source.stream)
            assert decoded.records >= 0 and list(decoded.events.columns)[:5] == ["record", "index", "t", "id", "place"]
            found.records += records_of(decoded)
            assert decoded.next_position not in found.counts, "positions grow"
            found.counts[decoded.next_position] = len(found.records)
        assert time.monotonic() < ends, f"{len(found.records)} of {count} records in {longest_s} s"
    return found


def keeps_its_promises(make: Callable[[], Source], count: int, seed: int = 1) -> int:
    """A source with so many records: each once and in order, none beyond, and from any position on the same. Returns how
    often it was sought."""
    rnd, source = random.Random(seed), make()
    whole = read(source, count)
    assert len(whole.records) == count and len({r[:2] for r in whole.records}) == count
    assert whole.records == sorted(whole.records), "in their order"
    assert [*whole.counts] == sorted(whole.counts), "positions grow"
    for _ in range(3):
        assert source.read() is None, "nothing more than there is"
    assert source.ended == source.finite
    assert whole.longest_s < 4 * LONGEST_S, f"a read took {whole.longest_s:.2f} s"  # the machine may be slow
    places = rnd.sample([*whole.counts][:-1], min(4, len(whole.counts) - 1))
    for position in places:
        source.seek(position)
        assert not source.ended
        rest = whole.records[whole.counts[position] :]
        assert read(source, len(rest)).records == rest
        other = make()
        other.seek(position)
        assert read(other, len(rest)).records == rest
        other.close()
    source.close()
    source.close()
    return len(places)
