"""A Flink job over all logs of the tests as a process of its own: what is killed.

python -m tests.engines.grouping CITY BROKER PARALLELISM
"""

from __future__ import annotations

import sys

from pipelines.engines.flink_job import Job, submitted
from tests.engines.logs import rollups


def main() -> None:
    city, broker, parallelism = sys.argv[1:]
    submitted(Job(city, rollups(), {"bootstrap.servers": broker}, bounded=True, parallelism=int(parallelism))).wait()


if __name__ == "__main__":
    main()
