"""`citybrain up`: everything in one process, the simulated city as its input."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from commands.inputs import UserError, city_of
from commands.live import CATCH_UP_MS, Around, Live, Options, Pushed
from commands.living import Home, lived
from connectors.http_push import Push, push_router
from connectors.simulator import GENERATORS
from connectors.simulator_source import sources
from connectors.tokens import TokenError, Tokens
from dashboards.app import Routers
from pipelines.city import City
from pipelines.delivery import Attached, Now
from pipelines.intake import Opener
from pipelines.journal import Recovered
from pipelines.streams import Stream
from pipelines.watermark import Input


def run(options: Options, stop: threading.Event) -> None:
    """Runs until `stop` is set, or to simulated `until`."""
    city = city_of(options.city)
    if not any(s.stream == "link" for s in city.sites):
        raise UserError(
            f"city {city.id!r} has no links to simulate; `citybrain up` runs the demo city or a pack with places like it"
        )
    lived(options, stop, city, Simulated(options))


class Simulated:
    """The simulated city, and what is pushed over HTTP (`commands.living.Feed`)."""

    remote = False
    origin_ms = CATCH_UP_MS

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pushed: Pushed | None = None

    @property
    def push(self) -> Push | None:
        return None if self.pushed is None else self.pushed.push

    def identity(self, city: City) -> dict[str, Any]:
        return {"run": "up", "city": city.id, "seed": self.options.seed, "start": self.options.start}

    def open(self, home: Home, streams: Mapping[str, Stream], clock: Callable[[], int]) -> Routers:
        tokens = Tokens(home.folder)
        try:
            tokens.all()
        except TokenError as error:
            print(f"citybrain: warning: pushes are refused: {error}", file=sys.stderr, flush=True)
        self.pushed = Pushed(home.kept / "spool", tokens, dict(streams), clock)
        return [push_router(self.pushed.push)]

    def attached(self, city: City, streams: Mapping[str, Stream], beat: Now, found: Recovered | None) -> list[Attached]:
        made = sources(city, {name: streams[name] for name in GENERATORS}, beat(), beat, seed=self.options.seed)
        return [Attached(s, Input(s.input, f"simulator:{s.stream}")) for s in made]

    def opener(self) -> Opener | None:
        return None if self.pushed is None else self.pushed.opened

    def live(self, around: Around) -> Live:
        a = around
        return Live(self.options, a.run, a.board, a.metrics, a.clock, a.stop, self.pushed, a.between)

    def close(self) -> None:
        if self.push is not None:
            self.push.close()
