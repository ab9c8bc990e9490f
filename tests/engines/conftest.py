"""One broker and one Flink cluster for all tests that do not start one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.stack.broker import Broker
from tools.stack.flink_cluster import Cluster

USERS = {"reader": "right-secret"}
"""Who is let in at its guarded listener."""


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    one = Broker(tmp_path_factory.mktemp("broker"), users=USERS)
    one.start()
    yield one
    one.end()


@pytest.fixture(scope="session")
def broker(kafka_broker: Broker) -> str:
    """Its address."""
    return kafka_broker.address


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("flink"))
    one.start()
    yield one
    one.end()
