"""A selection of `make crash`: kills and handovers of what runs over Kafka leave what an undisturbed run leaves."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.engines.crash import HANDOVER, Batch, batch, planned
from tests.engines.crashing import Town
from tools.stack.broker import Broker
from tools.stack.flink_cluster import Cluster

SEED = 12
KILLS = 3


def test_kills_and_handovers(kafka_broker: Broker, cluster: Cluster, tmp_path: Path) -> None:
    """From Polars to a Flink cluster and back in the middle of panes; between, its TaskManager and two others are killed."""
    total = Counter[str]()
    batch(kafka_broker, cluster, tmp_path, SEED, "taskmanager", total, KILLS)
    print(f"\n{dict(total)}")
    assert total["rounds"] == KILLS + 2 and total["comparisons"] == 1 and total["panes that a handover cut"] >= 2
    kills = {what: n for what, n in total.items() if what.startswith("kills of ")}
    assert len(kills) == KILLS and kills["kills of taskmanager"] == 1, kills


def test_negative_control(kafka_broker: Broker, tmp_path: Path) -> None:
    """A job that goes on behind the events of its open panes is caught by the same comparison."""
    town, total = Town(kafka_broker, tmp_path, "forgets", 1), Counter[str]()
    broken = Batch(town, None, random.Random(1), polars=("tests.engines.forgetting",))
    with pytest.raises(AssertionError, match=r"^(http|lvl|park): (missing|\[\()"):
        broken.rounds(["engine", "engine"], "", total, longest_s=5)
    assert total["kills of polars"] == 2 and not total["comparisons"]


def test_plan() -> None:
    """Each batch has two handovers, and the engine between them is killed; every victim comes."""
    plans = [planned(random.Random(seed), 8) for seed in range(20)]
    assert all(len(plan) == 10 and plan.count(HANDOVER) == 2 for plan in plans)
    assert all(plan[plan.index(HANDOVER) + 1] == "engine" for plan in plans)
    assert {what for plan in plans for what in plan} == {"engine", "brain", "ingest", "broker", HANDOVER}
