"""Failpoints: named places at which a test lets this process die, as a power cut would.

`CITYBRAIN_FAILPOINT=name:nth` kills the process (SIGKILL) when it passes that place for the nth time.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import Final

NAME, _, NTH = os.environ.get("CITYBRAIN_FAILPOINT", "").partition(":")
_passes: Final = count(1)


def reached(name: str) -> None:
    """Says that the place was reached; returns unless the environment names it."""
    if name == NAME and next(_passes) == int(NTH or 1):
        os.kill(os.getpid(), signal.SIGKILL)
