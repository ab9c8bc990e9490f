"""`python -m sinks.setup URL [CITY]`: sets a store up, or brings it up to date, with a user who may; then a user without
DDL rights can run the city. CITY is the folder of a city pack whose parameters differ from the shipped ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import catalogue
from pipelines.pack import read_city
from sinks.clickhouse import ClickHouseSink
from sinks.errors import StoreError


def set_up(dsn: str, city: Path | None = None) -> tuple[str, ...]:
    """What was done, a line each; nothing when it was up to date. Raises what `ClickHouseSink.migrate` does."""
    indicators = catalogue.CATALOGUE
    if city is not None:
        indicators = catalogue.for_city(read_city(city, catalogue.IDS, catalogue.STREAMS))
    streams = [s for s in catalogue.STREAMS if s.lifecycle]
    with ClickHouseSink(dsn, catalogue.rollups(indicators), streams) as sink:
        return sink.migrate()


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 when the store refused, 2 when the arguments make no sense."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        done = set_up(arguments[0], Path(arguments[1]) if len(arguments) == 2 else None)
    except (StoreError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(done) or "nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
