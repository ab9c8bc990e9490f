"""`citybrain ingest` in small batches, as a process of its own: what is killed.

python -m tests.engines.ingesting [--broken] ARGUMENTS...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from confluent_kafka import Producer

from commands import ingest_session
from connectors import kafka
from pipelines.log_writer import Records
from sinks.kafka_log import KafkaLog

PACE_S = 0.05


def main() -> None:
    kafka.READ_MESSAGES = ingest_session.READ = 200
    ingest_session.COMMIT_S = 0.0
    commit, produce = KafkaLog.commit, KafkaLog._produce

    def sent(log: KafkaLog, producer: Producer, run: Records) -> None:
        """So that the cluster has it in an open transaction."""
        produce(log, producer, run)
        producer.flush(0.05)

    def slowly(log: KafkaLog, runs: Sequence[Records]) -> None:
        commit(log, runs)
        time.sleep(PACE_S)

    def loosely(log: KafkaLog, runs: Sequence[Records]) -> None:
        """The state in a transaction of its own, after the events."""
        for state in (False, True):
            commit(log, [run for run in runs if run.topic.startswith("state.") == state])

    KafkaLog._produce = sent
    KafkaLog.commit = loosely if "--broken" in sys.argv else slowly
    sys.argv = ["citybrain", "ingest", *(a for a in sys.argv[1:] if a != "--broken")]
    from citybrain import main as command

    command()


if __name__ == "__main__":
    main()
