"""Faults of the ClickHouse stand-in: what a server or the way to it does wrong, for so many requests or at random."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["reset_before", "reset_after", "unavailable", "error", "hang_before", "hang_after", "slow", "poison"]
"""`reset_*`: the connection is torn down before or after the statement ran; `unavailable`: 503 as a proxy sends it;
`error`: the statement does not run, code and text as given; `hang_*`: no answer for `seconds`; `slow`: that much later;
`poison`: refused with the code when some text of the inserted rows contains `text`."""
MODES: tuple[Mode, ...] = (
    "reset_before", "reset_after", "unavailable", "error", "hang_before", "hang_after", "slow", "poison"
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    mode: Mode
    code: int = 0
    text: str = "said the test"
    seconds: float = 0.0


TOO_MANY_PARTS = Fault("error", 252, "Too many parts (3000). Merges are processing significantly slower than inserts")
TOO_MANY_PARTITIONS = Fault("error", 252, "Too many partitions for single INSERT block (more than 100)")
WRONG_PASSWORD = Fault("error", 516, "city_writer: Authentication failed: password is incorrect, or there is no user")
READ_ONLY = Fault("error", 164, "city_reader: Cannot execute query in readonly mode")
NO_RIGHT = Fault(
    "error", 497, "city_reader: Not enough privileges. To execute this query, it's necessary to have INSERT"
)
DISK_FULL = Fault("error", 243, "Cannot reserve 1.00 MiB, not enough space")
MEMORY = Fault("error", 241, "Memory limit (total) exceeded")


class Faults:
    """What goes wrong next. `queued` come first, one a request; then each request draws from `mix` with probability `p`.

    Only statements whose kind is in `kinds` are struck (none given: all). `struck` counts by mode.
    """

    def __init__(self) -> None:
        self.queued: list[Fault] = []
        self.mix: tuple[Fault, ...] = ()
        self.p = 0.0
        self.kinds: tuple[str, ...] = ()
        self.struck: Counter[str] = Counter()
        self._dice = random.Random(0)
        self._turn = threading.Lock()

    def next(self, *fault: Fault, kinds: tuple[str, ...] = ("INSERT",)) -> None:
        """These, one a request, in this order; nothing at random."""
        with self._turn:
            self.queued, self.mix, self.p, self.kinds = list(fault), (), 0.0, kinds

    def at_random(self, *mix: Fault, p: float, seed: int = 0, kinds: tuple[str, ...] = ("INSERT",)) -> None:
        """One of these for each request, with probability p, until `clear`."""
        with self._turn:
            self.queued, self.mix, self.p, self.kinds = [], mix, p, kinds
            self._dice = random.Random(seed)

    def clear(self) -> None:
        self.next(kinds=())

    def draw(self, kind: str) -> Fault | None:
        """What happens to a statement of that kind."""
        with self._turn:
            if self.kinds and kind not in self.kinds:
                return None
            if self.queued:
                found = self.queued.pop(0)
            elif self.mix and self._dice.random() < self.p:
                found = self._dice.choice(self.mix)
            else:
                return None
            self.struck[found.mode] += 1
            return found

    def configure(self, order: dict[str, Any]) -> None:
        """The same by the control endpoint: {"next": [fault, ...]} or {"mix": [fault, ...], "p": 0.5, "seed": 1} or {}."""
        kinds = tuple(order.get("kinds", ("INSERT",)))
        if "next" in order:
            self.next(*(Fault(**f) for f in order["next"]), kinds=kinds)
        elif "mix" in order:
            self.at_random(*(Fault(**f) for f in order["mix"]), p=order["p"], seed=order.get("seed", 0), kinds=kinds)
        else:
            self.clear()
