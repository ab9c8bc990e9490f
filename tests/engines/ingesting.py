"""`citybrain ingest` in small batches, as a process of its own: what is killed.

python -m tests.engines.ingesting [--broken] ARGUMENTS...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from commands import ingest_session
from connectors import kafka
from pipelines.log_writer import Records
from sinks.kafka_log import KafkaLog

PACE_S = 0.03


def main() -> None:
    kafka.READ_MESSAGES = ingest_session.READ = 400
    ingest_session.COMMIT_S = 0.05
    commit = KafkaLog.commit

    def slowly(log: KafkaLog, runs: Sequence[Records]) -> None:
        if "--broken" not in sys.argv:
            commit(log, runs)
            time.sleep(PACE_S)
            return
        # The state in a transaction of its own, after the events.
        commit(log, [run for run in runs if not run.topic.startswith("state.")])
        time.sleep(4 * PACE_S)
        commit(log, [run for run in runs if run.topic.startswith("state.")])

    KafkaLog.commit = slowly
    sys.argv = ["citybrain", "ingest", *(a for a in sys.argv[1:] if a != "--broken")]
    from citybrain import main as command

    command()


if __name__ == "__main__":
    main()
