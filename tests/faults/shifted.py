"""`citybrain` under a wall clock that is so many seconds ahead: python -m tests.faults.shifted SECONDS COMMAND..."""

from __future__ import annotations

import sys
import time


def main() -> None:
    shift_s = float(sys.argv.pop(1))
    real = time.time
    time.time = lambda: real() + shift_s
    from citybrain import main as run

    run()


if __name__ == "__main__":
    main()
