"""All sources pass one contract suite; the one over Kafka does in `tests/engines/test_kafka_source.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from commands.inputs import city_of
from connectors.files import FileSource, Reading
from connectors.formats import Block
from connectors.formats.ndjson import Ndjson
from connectors.simulator_source import SimulatorSource
from pipelines import catalogue
from pipelines.delivery import Now
from pipelines.model import Decoded, Source
from pipelines.spool import Spool
from pipelines.spool_source import SpoolSource
from pipelines.streams import LINK, MINUTE_MS
from tests.contract.sources import keeps_its_promises
from tests.fakes.listed import ListedSource

START = 1_772_409_600_000
LINES = [
    orjson.dumps({"t": START + i, "link": f"l{i % 40}", "tt_ms": 1_000 + i, "n": i % 90}) if i % 97 else b"broken"
    for i in range(1, 2_001)
]
Maker = Callable[[], Source]


@pytest.fixture(params=["file", "spool", "simulator", "listed"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Maker, int]]:
    """How to make a source, and how many records it has."""
    if request.param == "file":
        path = tmp_path / "link.ndjson"
        path.write_bytes(b"\n".join(LINES) + b"\n")
        yield lambda: FileSource(path, LINK, Ndjson(LINK), reading=Reading(2_000, 2, 2)), len(LINES)
    elif request.param == "spool":
        spool = Spool(tmp_path / "spool", "push:a:link", "link")
        for n in range(0, len(LINES), 5):
            block = Block(1, b"\n".join(LINES[n : n + 5]) + b"\n")
            spool.append(Ndjson(LINK).decode(block, "push:a:link"), START)
        yield lambda: SpoolSource(spool), len(LINES)
        spool.close()
    elif request.param == "simulator":
        streams = {s.name: s for s in catalogue.STREAMS}
        now = Now(START + 20 * MINUTE_MS)

        def made() -> SimulatorSource:
            return SimulatorSource(city_of("demo"), streams["air"], START, now, until=now.at)

        whole, count = made(), 0
        while not whole.ended:
            decoded = whole.read()
            count += 0 if decoded is None else decoded.records
        yield made, count
    else:
        listed = [{"t": START + i, "place": "l1", "tt_ms": 5, "n": 1} if i % 9 else {"bad": "bad"} for i in range(900)]
        yield lambda: ListedSource("in", LINK, listed, blocks=iter([70] * 20)), 900


def test_promises(source: tuple[Maker, int]) -> None:
    make, count = source
    sought = keeps_its_promises(make, count)
    print(f"{count} records, read again from {sought} positions")
    assert count > 100 and sought >= 1


class Forgetful(ListedSource):
    """Begins a record late after `seek`."""

    def seek(self, position: int) -> None:
        super().seek(position + 1)


class Twice(ListedSource):
    """Delivers its second block again."""

    again: Decoded | None = None

    def read(self) -> Decoded | None:
        if self.again is not None:
            again, self.again = self.again, None
            return again
        decoded = super().read()
        if decoded is not None and decoded.next_position == 140:
            self.again = decoded
        return decoded


@pytest.mark.parametrize("broken", [Forgetful, Twice])
def test_negative_control(broken: type[ListedSource]) -> None:
    listed = [{"t": START + i, "place": "l1", "tt_ms": 5, "n": 1} for i in range(900)]
    with pytest.raises(AssertionError):
        keeps_its_promises(lambda: broken("in", LINK, listed, blocks=iter([70] * 20)), 900)
