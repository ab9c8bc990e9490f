"""`python -m tools.compile_ahead`: compiles what runs as machine code, so that the first start does not have to.

Part of setting up. An installation without it compiles at its first replay, which then takes some seconds longer.
"""

from __future__ import annotations

import numpy as np

from connectors.formats import Block
from connectors.formats.ndjson import Ndjson
from pipelines.input_clock import InputClock
from pipelines.streams import LINK


def main() -> None:
    decoded = Ndjson(LINK).decode(Block(1, b'{"t":1,"link":"a","tt_ms":1,"n":1}\n' * 2), "ahead")
    t, ids = decoded.events["t"].to_numpy(), decoded.events["id"].to_numpy()
    clock = InputClock(LINK.jump_ms, LINK.horizon_ms)
    clock.read(t, ids)
    clock.settle()
    assert clock.seen is not None
    clock.seen.reserve(1 << 20, clock.m)
    clock.saved(whole=True)
    clock.read(t, ids)
    _, keys = clock.saved(whole=False)
    clock.seen.pairs(clock.m, ids.view(np.int64)[:1])
    clock.seen.add(keys, clock.m)


if __name__ == "__main__":
    main()
