"""The job of a city on Flink in a Java of its own, with checkpoints: what is killed, and goes on from one.

python -m tests.engines.recovering CITY BROKER CHECKPOINTS [CHECKPOINT]
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pipelines import catalogue
from pipelines.engines.flink_job import Job, submitted


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    city, broker, checkpoints, *state = sys.argv[1:]
    settings = {
        "execution.checkpointing.interval": "2 s",
        "execution.checkpointing.dir": Path(checkpoints).as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
    }
    if state:
        settings["execution.state-recovery.path"] = Path(*state).as_uri()
    job = Job(city, catalogue.rollups(catalogue.CATALOGUE), {"bootstrap.servers": broker}, settings=settings)
    submitted(job).wait()


if __name__ == "__main__":
    main()
