"""Named points at which a test may kill the process; nothing happens unless an environment variable names one.

`CITYBRAIN_FAILPOINT=store_written:2` ends the process with SIGKILL when it passes that point for the second time.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "CITYBRAIN_FAILPOINT"
POINTS: Final = (
    "plan_made", "plan_synced", "inputs_read", "step_judged", "store_begun", "store_between", "store_written",
    "checkpoint_begun", "checkpoint_written", "checkpoint_synced", "base_drafted", "base_renamed", "step_published",
    "inputs_committed", "spool_written", "spool_synced", "spool_trimmed", "rows_dropped", "store_migrated",
    "backup_copied", "restore_copied", "batch_begun", "batch_written", "batch_committed",
)  # fmt: skip
"""Every boundary of a step (rule 35), of a new journal, of a transaction on Kafka, and of what happens beside the steps."""

_name, _, _nth = os.environ.get(VARIABLE, "").partition(":")
if _name and _name not in POINTS:
    raise LookupError(f"{VARIABLE} names {_name!r}, which is no failpoint; there are {', '.join(POINTS)}")
_left = int(_nth or 1)


def reached(name: str) -> None:
    """Marks a point; kills this process if it is the one asked for."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
