"""A Beam job on Flink that goes on until it is told to end: over some logs of a city and, beside it in the same pipeline, over
one of another city where a partition that is ahead takes the watermark of the others with it. Every block is a turn.

python -m tests.engines.streaming CITY BROKEN_CITY BROKER
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipelines import canonical
from pipelines.engines import beam_job, beam_kafka
from pipelines.engines.beam_job import Job, assembled, run
from tests.engines.logs import rollups

STREAMS = ("link", "odd", "air", "http")


def main() -> None:
    city, broken, broker = sys.argv[1:]
    told = beam_kafka.told

    def ahead(topic: str, number: int, messages: list[Any], stamps: Any) -> Iterator[Any]:
        yield from told(topic, number, messages, stamps)
        if topic.startswith(canonical.topic(broken, "")):
            for other, _ in enumerate(stamps.get_estimator_state()):
                stamps.told(other, messages[-1].value())

    def both(job: Job, pipeline: Any) -> None:
        assembled(job, pipeline)
        assembled(replace(job, city=broken, rollups=[r for r in job.rollups if r.stream.name == "link"]), pipeline)

    beam_kafka.told, beam_job.assembled = ahead, both
    beam_kafka.RECORDS, beam_kafka.TURN_S = 500, 0.0  # type: ignore[misc]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mine = [r for r in rollups() if r.stream.name in STREAMS]
    run(Job(city, mine, {"bootstrap.servers": broker}, runner="flink", parallelism=2))


if __name__ == "__main__":
    main()
