"""A real Kafka broker (one node, KRaft) on loopback, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipelines.engines.jars import jars
from pipelines.engines.java import java_home
from tools.stack.process import Process

QUIET: Final = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes=8388608
"""

GUARDED: Final = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},GUARDED://{guarded}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://{guarded}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.guarded.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
"""
"""A later line of a setting counts."""


class Broker:
    """Started with `start`; killed, stopped and started again on the same port and data."""

    def __init__(
        self, folder: Path, port: int | None = None, heap_mb: int = 512, users: Mapping[str, str] | None = None
    ) -> None:
        """`users`: passwords by name; then there is a second listener, at `guarded`, that asks for them (SASL, PLAIN or
        SCRAM-SHA-512)."""
        self.folder, self.heap_mb = folder, heap_mb
        self.port, controller = port or free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        self._settings = folder / "server.properties"
        settings = PROPERTIES.format(port=self.port, controller=controller, logs=folder / "logs")
        self.users = dict(users or {})
        self.guarded = f"127.0.0.1:{free_port()}"
        if users:
            known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
            settings += GUARDED.format(port=self.port, controller=controller, guarded=self.guarded, users=known)
        self._settings.write_text(settings)
        self.process = Process("the Kafka broker", folder / "broker.log")

    def start(self) -> None:
        """Returns when it takes connections and knows its own topics."""
        if not (self.folder / "logs" / "meta.properties").exists():
            scram = [f"--add-scram=SCRAM-SHA-512=[name={name},password={word}]" for name, word in self.users.items()]
            done = subprocess.run(
                self._java("kafka.tools.StorageTool", "format", "-t", "Y2l0eWJyYWluLXN0YWNrLQ", "-c", self._settings, *scram),
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"the broker's folder {self.folder} cannot be set up: {done.stderr[-500:]}")
        self.process.start(self._java("kafka.Kafka", self._settings), lambda: answers(self.address))

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self.process.pid is None:
            raise RuntimeError("the broker does not run")
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.pid is not None

    def end(self, number: int = signal.SIGTERM) -> None:
        """SIGTERM for an orderly end, SIGKILL for none; returns when it is gone."""
        self.process.end(number)

    def _java(self, main: str, *arguments: object) -> list[str]:
        options = [f"-Xmx{self.heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", QUIET]
        path = os.pathsep.join(str(p) for p in jars("kafka"))
        return [str(java_home() / "bin" / "java"), *options, "-cp", path, main, *map(str, arguments)]


def answers(address: str) -> bool:
    """Whether a broker there answers a request for its topics."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    host, _, port = address.rpartition(":")
    with socket.socket() as sock:
        sock.settimeout(1)
        if sock.connect_ex((host, int(port))):
            return False
    try:
        AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=5)
    except KafkaException:
        return False
    return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
