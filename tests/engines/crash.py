"""Kills at random of all that a city over Kafka consists of, and handovers from one engine to another in the middle of a pane;
what is left equals the embedded engine's rows and one undisturbed run.

python -m tests.engines.crash [ROUNDS [SEED]]     (make crash); a seeded selection is part of make test

SEED is that of the first batch. What happens in a batch is by its seed; at which record it does is not.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.engines.children import Child, Engine, OnCluster, Recovering, until
from tests.engines.crashing import LONGEST_S, Ends, Town
from tools.stack.broker import Broker
from tools.stack.flink_cluster import Cluster

AROUND = ("brain", "ingest", "broker")
"""What is killed beside the engine."""
OTHERS = ("taskmanager", "flink", "flink with state", "beam")
"""Engines to which Polars hands over, and which hand back to it."""
KILLS = 8
"""Of a batch, beside its two handovers."""
HANDOVER = "handover"


def planned(rnd: random.Random, kills: int) -> list[str]:
    """What happens in a batch, in order: who is killed (`engine`: the one that runs), and the two handovers."""
    first = last = kills // 4
    some = [rnd.choice(("engine", *AROUND)) for _ in range(first + last)]
    between = ["engine", *(rnd.choice(("engine", *AROUND)) for _ in range(kills - first - last - 1))]
    return [*some[:first], HANDOVER, *between, HANDOVER, *some[first:]]


class Batch:
    """Rounds over one city, and a comparison at their end."""

    def __init__(
        self, town: Town, cluster: Cluster | None, rnd: random.Random, polars: Sequence[object] = ("citybrain", "run")
    ) -> None:
        """`polars`: the module that is the Polars job."""
        self.town, self.rnd, self.cluster = town, rnd, cluster
        self.log = town.folder / "engine.log"
        self._polars = self._job("polars", *polars)
        self.engine: Engine = self._polars
        self.handovers: list[Ends] = []
        self._began = 0

    def rounds(self, plan: Sequence[str], other: str, total: Counter[str], longest_s: float = LONGEST_S) -> None:
        """All of the plan, with work between; then compares, `longest_s` long if need be."""
        town = self.town
        try:
            town.start()
            self.engine.start()
            for n, what in enumerate(plan, 1):
                town.feed.allow(n / (len(plan) + 1))
                self._round(what, other, total)
                for one in (*town.children, self.engine):
                    one.refuse_ended()
            total.update(town.check(self.handovers, longest_s))
            total["comparisons"] += 1
            self.engine.end()
        finally:
            self.engine.quit()
            self.town.quit()

    def _round(self, what: str, other: str, total: Counter[str]) -> None:
        if what in ("engine", HANDOVER):
            until(lambda: self.town.rows_end() > self._began, f"{self.engine.name} writes no rows: {self._told()}")
        time.sleep(self.rnd.uniform(0.2, 3.0))
        assert self.town.feed.left > 0, "all was sent before the kill"
        name = self._killed(what) if what != HANDOVER else self._handed(other)
        total[name] += 1
        total["rounds"] += 1

    def _killed(self, what: str) -> str:
        town = self.town
        pause = self.rnd.uniform(0.0, 2.0)
        match what:
            case "engine":
                self.engine.kill()
                self._began = town.rows_end()
                time.sleep(pause)
                self.engine.again()
                return f"kills of {self.engine.name}"
            case "broker":
                town.broker.end(signal.SIGKILL)
                time.sleep(pause)
                town.broker.start()
                until(town.readable, "the broker does not lead its partitions")
            case _:
                child = town.brain if what == "brain" else town.ingests[self.rnd.choice([*town.ingests])]
                child.kill()
                time.sleep(pause)
                child.start()
        return f"kills of {what}"

    def _handed(self, other: str) -> str:
        """The running engine ends in order, another one begins."""
        self.engine.end()
        self.handovers.append(self.town.log_ends())
        before, self.engine = self.engine, self._other(other) if self.engine is self._polars else self._polars
        self._began = self.town.rows_end()
        self.engine.start()
        return f"handovers {before.name} to {self.engine.name}"

    def _other(self, name: str) -> Engine:
        town = self.town
        if name == "taskmanager":
            assert self.cluster is not None
            return OnCluster(self.cluster, town.pack, town.broker.address)
        if name == "flink with state":
            return Recovering(self.log, town.name, town.broker.address, town.folder / "checkpoints")
        return self._job(name, "citybrain", "run", "--engine", name)

    def _job(self, name: str, *command: object) -> Child:
        return Child(name, self.log, *command, "--kafka", self.town.broker.address, "--city", self.town.pack)

    def _told(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def batch(
    broker: Broker, cluster: Cluster, folder: Path, seed: int, other: str, total: Counter[str], kills: int = KILLS
) -> None:
    """One batch by its seed; fails on the first difference."""
    rnd = random.Random(seed)
    Batch(Town(broker, folder, f"crash{seed}", seed), cluster, rnd).rounds(planned(rnd, kills), other, total)


def main() -> None:
    rounds, seed = [*map(int, sys.argv[1:]), *(200, 1)[len(sys.argv) - 1 :]]
    began, total = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="citybrain-crash-") as name:
        folder = Path(name)
        broker, cluster = Broker(folder / "broker"), Cluster(folder / "flink")
        try:
            broker.start()
            cluster.start()
            while total["rounds"] < rounds:
                here = folder / str(seed)
                here.mkdir()
                other = OTHERS[seed % len(OTHERS)]
                try:
                    batch(broker, cluster, here, seed, other, total)
                except BaseException as error:
                    error.add_note(f"seed {seed}, Polars and {other}, after {dict(total)}")
                    raise
                shutil.rmtree(here)
                print(f"seeds to {seed}, after {time.monotonic() - began:.0f} s: {dict(total)}", flush=True)
                seed += 1
        finally:
            cluster.end()
            broker.end()
    assert total["rounds"] and total["comparisons"] and total["readings"], "nothing was compared"
    print(f"crash of engines: 0 differences, after {time.monotonic() - began:.0f} s: {dict(total)}", flush=True)


if __name__ == "__main__":
    main()
