"""`citybrain submit`: the job of a city on a Flink cluster, by `flink run`; stopped with a savepoint, started again from it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from commands.inputs import UserError, city_of, named, refuse_no_file
from pipelines.engines import flink_home
from pipelines.engines.flink_main import client_options, name_of
from pipelines.engines.flink_rest import FlinkCluster, FlinkError
from pipelines.engines.jars import jars

CLIENT: Final = "org.apache.flink.client.cli.CliFrontend"
SUBMITTED: Final = re.compile(r"JobID ([0-9a-f]{32})")
LONGEST_S: Final = 300


@dataclass(frozen=True, slots=True)
class Options:
    flink: str
    city: str
    kafka: str
    kafka_config: Path | None = None
    parallelism: int = 1
    savepoint: str | None = None
    wheel: Path | None = None
    """The wheel whose catalogue is submitted; None: that of this installation."""
    settings: tuple[str, ...] = ()
    """Flink's own, NAME=VALUE."""


def submit(options: Options) -> dict[str, str]:
    """Submits the job and waits until all of it runs; returns its id. One job of a city runs at a time."""
    cluster, city = FlinkCluster(address_of(options.flink, "--flink")), city_of(options.city)
    for address in options.kafka.split(","):
        address_of(address, "--kafka")
    for path in (options.kafka_config, options.wheel):
        if path is not None:
            refuse_no_file(path)
    try:
        client_options(options.kafka, options.kafka_config)
    except ValueError as error:
        raise UserError(f"--kafka-config {error}") from None
    if wrong := next((entry for entry in options.settings if "=" not in entry), None):
        raise UserError(f"--set {wrong!r} is no setting; write NAME=VALUE")
    if there := cluster.running(name_of(city.id)):
        raise UserError(
            f"the job of city {city.id!r} runs already as {there[0]}; stop it first: citybrain submit --flink {options.flink} "
            f"--stop-with-savepoint {there[0]}"
        )
    free = cluster.free_slots()
    if free < options.parallelism:
        raise UserError(
            f"--parallelism {options.parallelism} needs as many task slots and the cluster at {options.flink} has {free} free; "
            "add TaskManagers or ask for less"
        )
    job = _run(options)
    cluster.until_running(job)
    return {"job": job, "name": name_of(city.id)}


def stop(flink: str, job: str, folder: str | None) -> dict[str, str]:
    """Stops a job with a savepoint, in `folder` or where the cluster is configured to keep them; returns its path."""
    if not re.fullmatch(r"[0-9a-f]{32}", job):
        raise UserError(
            f"--stop-with-savepoint {job!r} is no job id; it has 32 hexadecimal digits, as submit printed it"
        )
    cluster = FlinkCluster(address_of(flink, "--flink"))
    return {"job": job, "savepoint": cluster.stopped(job, folder)}


def address_of(text: str, option: str) -> str:
    """HOST:PORT as typed."""
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", text):
        raise UserError(f"{option} {text!r} is no address; write HOST:PORT")
    return text


def _run(options: Options) -> str:
    """`flink run`, detached; returns the job's id. What the client needs on disk is gone afterwards."""
    host, _, port = options.flink.rpartition(":")
    with tempfile.TemporaryDirectory(prefix="citybrain-submit-") as name:
        folder = Path(name)
        flink_home.configure(folder / "conf", {"rest.address": host, "rest.port": port}, level="ERROR")
        arguments = ["run", "-d", "-m", options.flink, "-p", str(options.parallelism)]
        arguments += ["-s", options.savepoint] if options.savepoint else []
        for jar in jars("flink"):
            arguments += ["--jarfile", str(jar)]
        arguments += [
            "-pym",
            "pipelines.engines.flink_main",
            "-pyexec",
            sys.executable,
            "-pyclientexec",
            sys.executable,
        ]
        arguments += ["-pyfs", str(options.wheel.absolute())] if options.wheel else []
        arguments += ["--pack", str(named(options.city, "cities", "", "city").absolute()), "--kafka", options.kafka]
        arguments += ["--kafka-config", str(options.kafka_config.absolute())] if options.kafka_config else []
        arguments += ["--parallelism", str(options.parallelism)]
        for entry in options.settings:
            arguments += ["--set", entry]
        temporary = (f"-Djava.io.tmpdir={folder}", "-XX:TieredStopAtLevel=1")
        command = flink_home.command(folder / "conf", CLIENT, *arguments, heap_mb=512, options=temporary)
        environment = flink_home.environment(folder / "conf")
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=LONGEST_S, cwd=folder, check=False
            )
        except subprocess.TimeoutExpired:
            raise FlinkError(
                f"the job was not submitted within {LONGEST_S} s; look at {options.flink} whether it is there"
            ) from None
    found = SUBMITTED.search(done.stdout)
    if done.returncode or found is None:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        causes = [line for line in said if re.match(r"Caused by: |[\w.]*(Error|Exception): ", line)]
        raise FlinkError(f"flink run failed: {(causes or said or ['it says nothing'])[-1]}")
    return found[1]
