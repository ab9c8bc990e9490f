"""`citybrain ingest`: any source, checked and stamped once, onto the canonical log on Kafka.

One session after the other (`commands/ingest_session.py`): where the cluster takes nothing more from one, and no other process
has taken over, the next begins from what was committed.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from commands.clocks import WallClock
from commands.ingest_inputs import Options, Plan, planned
from commands.ingest_session import Session
from commands.job_metrics import exposed_ingest
from pipelines.job_counts import JobCounts
from pipelines.kafka_client import Cluster, Connection, Stopped, say
from pipelines.kafka_options import KafkaFailed, KafkaOptions
from pipelines.log_writer import LogWriter
from sinks.kafka_log import Fenced

SETTLE_S: Final = 3.0
"""How long the session that fenced this one has to say who it is."""
MOST_LOST: Final = 5
"""Sessions in a row from which the cluster took nothing; then it is an error."""


def ingest(options: Options, stop: threading.Event) -> dict[str, Any]:
    """Runs until the files end or `stop` is set; returns the summary that is printed."""
    wall = WallClock()
    started = time.perf_counter()

    def clusters(kafka: KafkaOptions) -> Cluster:
        return Cluster(Connection(kafka), stop.is_set)

    plan = planned(options, clusters, wall)
    try:
        running: list[Session] = []
        with exposed_ingest(options.metrics, counts := JobCounts(), lambda: running[-1] if running else None):
            last = sessions(plan, clusters(plan.target), wall, stop, options.until, counts, running.append)
    finally:
        plan.close()
    return summary(plan, last.writer, time.perf_counter() - started)


def sessions(
    plan: Plan,
    cluster: Cluster,
    wall: Callable[[], int],
    stop: threading.Event,
    until: int | None,
    counts: JobCounts,
    begun: Callable[[Session], None],
) -> Session:
    """One after the other, each told to `begun`, until one ends as it should; returns that."""
    lost, owner = 0, uuid.uuid4().hex
    while True:
        session = Session(plan, cluster, wall, stop, until, owner, counts)
        begun(session)
        try:
            session.run()
        except Stopped:
            say(
                "ended while it waited for the cluster; what was read since the last batch is read again at the next start"
            )
        except Fenced as why:
            lost = 0 if session.batches > 1 else lost + 1
            if lost == MOST_LOST:
                raise KafkaFailed(f"{plan.target.shown} takes no batch: {why}") from None
            if stop.wait(SETTLE_S):
                break
            if session.taken_over():
                raise KafkaFailed(
                    f"ingest {plan.id!r} of {plan.target.shown} was started again elsewhere; this one ends. Give each ingest "
                    "of a stream an --id of its own"
                ) from None
            say(f"the cluster takes nothing more from this session ({why}); it begins again from what was committed")
            continue
        finally:
            session.close()
        break
    return session


def summary(plan: Plan, writer: LogWriter | None, wall_s: float) -> dict[str, Any]:
    counters = {} if writer is None else dict(writer.ingest.counters)
    return {
        **counters,
        "dead_letters": 0 if writer is None else writer.letters,
        "batches": 0 if writer is None else writer.step,
        "wall_s": round(wall_s, 3),
        "ingest": plan.id,
        "to": plan.target.shown,
    }
