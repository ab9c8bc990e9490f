"""Places at which a test ends the process as a power cut would: `CITYBRAIN_FAILPOINT=name:nth` kills it at the nth pass."""

from __future__ import annotations

import os
import signal

_passed: dict[str, int] = {}


def reached(name: str) -> None:
    """Does nothing unless the environment names this point and this is the pass that it counts to."""
    wanted = os.environ.get("CITYBRAIN_FAILPOINT")
    if not wanted:
        return
    point, _, nth = wanted.partition(":")
    if point == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)
