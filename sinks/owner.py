"""A process as others can recognise it: whether the one that holds a lease is alive can be told on its own machine only.

Machines are told apart by the boot, so a clone or a container with the same host name is another one; processes by
their number and start, so a number that was given out again is another process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_STARTED: Final = 21
"""The field of /proc/PID/stat with the start, in ticks since the boot (proc(5), field 22)."""


def this_process() -> str:
    """`boot/namespace/process/start`; empty where the system does not tell (no /proc)."""
    place, started = _place(), _start(os.getpid())
    return f"{place}/{os.getpid()}/{started}" if place and started else ""


def is_gone(process: str) -> bool:
    """Whether a process, as `this_process` named it, is known to have ended: True only where it ran here."""
    place, _, known = process.rpartition("/")
    place, _, number = place.rpartition("/")
    return bool(place) and place == _place() and number.isdecimal() and _start(int(number)) != known


def _place() -> str:
    """The boot of this machine and the namespace in which process numbers count."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat(_PROC / 'self/ns/pid').st_ino}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When it started; empty when it is not there. One that has ended and was not waited for yet (Z, X) is gone too."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return ""
    # The name, in parentheses, may contain anything; field 3, the state, is the first after it.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[_STARTED - 2]
