"""A local stack on loopback: Kafka, an MQTT broker, Flink with the job of a city; `make stack` runs it.

python -m tools.stack [--city demo] [--folder DIR] [--kafka-port N] [--flink-port N] [--mqtt-port N] [--brain-port N]

It begins empty at each start and runs until Ctrl-C or SIGTERM. What a start after a crash finds of its own is ended first. A
TaskManager that is killed is started again.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import platformdirs

from commands.submit import Options, submit
from pipelines import catalogue
from tools.stack import mosquitto, programs, topics
from tools.stack.broker import Broker
from tools.stack.flink_cluster import JOB_MANAGER, TASK_MANAGER, Cluster
from tools.stack.hivemq import HiveMQ
from tools.stack.leftovers import Started
from tools.stack.process import Process

CHECK_S: Final = 0.5
PORTS: Final = {"kafka": 9092, "flink": 8081, "mqtt": 1883, "brain": 8080}


class Stack:
    """Servers in the order in which they start; they end in the opposite one. Their folders are emptied first."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        """`ports`: those of kafka, flink, mqtt, brain; 0 stands for a free one."""
        self.folder, self.started = folder, Started(folder)
        self.processes, self.own = list[Process](), list[Process]()
        """`own`: those that do not wait for one another's end."""
        for pid in self.started.end_leftovers():
            say(f"ended process {pid}, left over from a stack that crashed")
        for name, port in ports.items():
            refuse_taken(port, f"--{name}-port")
        for name in ports:
            shutil.rmtree(folder / name, ignore_errors=True)
        self.broker = Broker(folder / "kafka", ports["kafka"])
        self.cluster = Cluster(folder / "flink", ports["flink"])
        program = mosquitto.binary()
        self.mqtt: mosquitto.Mosquitto | HiveMQ
        if program:
            self.mqtt = mosquitto.Mosquitto(folder / "mqtt", program, ports["mqtt"])
        else:
            self.mqtt = HiveMQ(folder / "mqtt", ports["mqtt"])
        self.brain_port = ports["brain"]

    def start(self, city: str, servers: bool) -> None:
        """Everything, and a line for each; `servers`: no job and none of citybrain's own processes."""
        self._start(self.broker.process, self.broker.start)
        topics.create(self.broker.address, topics.topics(city, [stream.name for stream in catalogue.STREAMS]))
        say(f"Kafka       {self.broker.address}")
        self._start(self.mqtt.process, self.mqtt.start)
        kind = "HiveMQ; mosquitto is not installed" if isinstance(self.mqtt, HiveMQ) else "mosquitto"
        say(f"MQTT        {self.mqtt.address}  ({kind})")
        self._start(self.cluster.job_manager, self.cluster.start_job_manager)
        self._start(self.cluster.task_manager, self.cluster.start_task_manager)
        of = self.cluster.prometheus
        say(f"Flink       http://{self.cluster.address}")
        say(f"  metrics   http://127.0.0.1:{of[JOB_MANAGER]}/metrics and http://127.0.0.1:{of[TASK_MANAGER]}/metrics")
        if servers:
            return
        say(f"  job       {submit(Options(self.cluster.address, city, self.broker.address))['job']}")
        own = programs.commands(city, self.broker.address, self.mqtt.address, self.folder, self.brain_port)
        if f"ingest {programs.OVER_MQTT}" in own:
            own["devices"] = programs.devices(city, self.mqtt.address)
        for name, command in own.items():
            process = Process(name, self.folder / f"{name.replace(' ', '-')}.log")
            self.own.append(process)
            self._start(process, lambda p=process, c=command: p.start(c, lambda: True))  # type: ignore[misc]
            say(f"{name:<12}{f'http://127.0.0.1:{self.brain_port}' if name == 'brain' else process.log}")

    def fallen(self) -> Process | None:
        """A program that ended by itself."""
        return next((process for process in self.processes if process.pid is None), None)

    def replaced(self, fallen: Process) -> bool:
        """Starts a TaskManager again, as whoever runs a cluster does; its job goes on from the last checkpoint. No other
        program is."""
        if fallen is not self.cluster.task_manager:
            return False
        self.cluster.start_task_manager()
        say(f"{fallen.name} has ended by itself and was started again, as process {fallen.pid}; see {fallen.log}")
        return True

    def end(self) -> None:
        for process in self.own:
            process.tell()
        for process in reversed(self.processes):
            process.end()
        self.started.close()

    def _start(self, process: Process, start: Callable[[], None]) -> None:
        process.noted = self.started.add
        self.processes.append(process)
        start()


def say(line: str) -> None:
    print(f"stack: {line}", flush=True)


def refuse_taken(port: int, option: str) -> None:
    """A port that somebody else listens on; 0 stands for a free one."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise RuntimeError(
                f"port {port} cannot be taken: {error.strerror}; name another with {option}, or 0"
            ) from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.stack", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--city", default="demo", help="city pack whose topics are made and whose job runs")
    parser.add_argument("--folder", type=Path, default=Path(platformdirs.user_cache_dir("citybrain")) / "stack")
    for name, port in PORTS.items():
        parser.add_argument(f"--{name}-port", type=int, default=port)
    parser.add_argument("--servers", action="store_true", help="servers only")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    stack, code = None, 0
    try:
        stack = Stack(given.folder.absolute(), {name: getattr(given, f"{name}_port") for name in PORTS})
        stack.start(given.city, given.servers)
        say(f"ready; data and logs are in {stack.folder}; Ctrl-C ends it")
        while (fallen := stack.fallen()) is None or stack.replaced(fallen):
            time.sleep(CHECK_S)
        print(f"stack: {fallen.name} has ended by itself; see {fallen.log}", file=sys.stderr)
        code = 1
    except Ended:
        say("ending")
    except (RuntimeError, ValueError, LookupError) as error:
        print(f"stack: {error}", file=sys.stderr)
        code = 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if stack is not None:
            stack.end()
    say("ended")
    return code


class Ended(BaseException):
    """Ctrl-C or SIGTERM, however early it comes."""


def _end(number: int, frame: object) -> NoReturn:
    raise Ended


if __name__ == "__main__":
    sys.exit(main())
