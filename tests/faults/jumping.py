"""A wall clock that jumps back and forth by hours, for a process of its own.

    python -m tests.faults.jumping SEED MODULE ARGUMENT...

What was counted up to a jump says a line on stderr when the process ends.
"""

from __future__ import annotations

import atexit
import random
import runpy
import sys
import time

HOURS = 5
EVERY_S = 0.3


class Jumping:
    """`time.time` that is off by up to `HOURS` either way, by another amount every `EVERY_S`."""

    def __init__(self, seed: int) -> None:
        self.dice, self.real, self.off, self.jumps, self.next = random.Random(seed), time.time, 0.0, 0, 0.0

    def __call__(self) -> float:
        if (now := time.monotonic()) >= self.next:
            # Each way and back: a clock that was right at the start is what a run begins with.
            self.off = self.dice.uniform(-HOURS, HOURS) * 3600 if self.next and self.jumps % 3 else 0.0
            self.next, self.jumps = now + EVERY_S, self.jumps + 1
        return self.real() + self.off


def main() -> None:
    seed, module, *rest = sys.argv[1:]
    clock = Jumping(int(seed))
    time.time = clock
    atexit.register(lambda: print(f"jumps: {clock.jumps}", file=sys.stderr))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
