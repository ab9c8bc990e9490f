"""The Polars job, broken: it commits where it has read to, and so goes on without the events of its open panes. A negative
control for the comparison.

python -m tests.engines.forgetting --kafka HOST:PORT --city CITY
"""

from __future__ import annotations

import sys

from pipelines.engines.polars_job import Log, StreamJob


def newest(job: StreamJob) -> list[tuple[Log, int]]:
    return [(log, log.next) for log in job.logs.values() if log.next >= 0]


def main() -> None:
    StreamJob.positions = newest  # type: ignore[assignment, method-assign]
    sys.argv = ["citybrain", "run", *sys.argv[1:]]
    from citybrain import main as command

    command()


if __name__ == "__main__":
    main()
