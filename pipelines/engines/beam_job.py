"""A Beam job that groups the canonical logs of a city: `beam_transform` from Kafka to the rows topic, on a runner of choice.

Manifests go through one producer into one partition, in pane order on a runner that fires the windows of a key in order: Flink's
in streaming. Bounded jobs, on Flink or the local runner, give them in no order: who reads them meanwhile may take a pane for
empty that is only not told yet (rules 15 and 19), and has all of them when the job has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions
from apache_beam.runners.runner import PipelineState
from apache_beam.utils.subprocess_server import pick_port

from pipelines.canonical import topic
from pipelines.engines.beam_kafka import Follow, Read, Write, log_of
from pipelines.engines.beam_transform import GroupRows
from pipelines.engines.jars import jars
from pipelines.engines.java import java_home
from pipelines.rollup import Rollup

LOCAL: Final = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
CHECKPOINT_MS: Final = 20_000
"""Without checkpoints Flink's sources end, and no window fires."""
BUNDLE_MS: Final = 200
"""So long a bundle waits for more; windows fire between two bundles."""
OPENED: Final = (
    "java.lang",
    "java.lang.invoke",
    "java.util",
    "java.util.concurrent",
    "java.time",
    "java.nio",
    "java.net",
)
"""Packages that Flink's serializers look into."""
READY_S: Final = 60.0
LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What a job reads and writes, and where it runs.

    `kafka` are client options (`bootstrap.servers`, security); `bounded` ends it where the logs end now, which only ticks
    after the last event make complete. `runner` is `local` (bounded jobs only), `flink`, or the name of another of Beam's;
    `options` are Beam's own (`--name=value`).
    """

    city: str
    rollups: Sequence[Rollup]
    kafka: Mapping[str, str | int | bool]
    bounded: bool = False
    runner: str = "local"
    parallelism: int = 1
    options: Sequence[str] = ()
    id: str = ""
    """What it announced itself as, which its rows carry."""

    def __post_init__(self) -> None:
        if self.runner == "local" and not self.bounded:
            raise ValueError("Beam's local runner ends with its input; for a job that goes on name another, as flink")

    @property
    def rows_topic(self) -> str:
        return f"rows.{self.city}"


def assembled(job: Job, pipeline: Any) -> None:
    """The job's transforms in a pipeline. LookupError for a topic that is not there."""
    log_of(job.kafka, job.rows_topic, bounded=True)
    rows = []
    for stream in dict.fromkeys(rollup.stream for rollup in job.rollups):
        log = topic(job.city, stream.name)
        blocks = (
            pipeline
            | f"log {log}" >> beam.Create([log_of(job.kafka, log, job.bounded)], reshuffle=False)
            | f"read {log}" >> beam.ParDo(Read(job.kafka) if job.bounded else Follow(job.kafka))
        )
        rows.append(
            blocks | f"group {log}" >> GroupRows([r for r in job.rollups if r.stream == stream], fan=1, job=job.id)
        )
    together = tuple(rows) | f"rows of {job.city}" >> beam.Flatten()
    _ = together | f"write {job.rows_topic}" >> beam.ParDo(Write(job.kafka, job.rows_topic))


def run(job: Job) -> None:
    """Runs a job until it ends; one that does not is cancelled, and what was started for it ended, by an exception
    (KeyboardInterrupt, SystemExit). RuntimeError with the runner's words where it failed."""
    runner, local = {"local": LOCAL, "flink": "PortableRunner"}.get(job.runner, job.runner), False
    with tempfile.TemporaryDirectory(prefix="citybrain-beam-") as folder, contextlib.ExitStack() as servers:
        flags = [] if job.bounded else ["--streaming"]
        if job.runner == "local":
            flags += [f"--direct_num_workers={job.parallelism}"]
        if job.runner == "flink":
            flags += [f"--parallelism={job.parallelism}", "--environment_type=LOOPBACK"]
            flags += [f"--checkpointing_interval={CHECKPOINT_MS}", f"--max_bundle_time_mills={BUNDLE_MS}"]
            master = PipelineOptions([*job.options]).view_as(FlinkRunnerOptions).flink_master
            if local := master == "[auto]":
                flags += ["--state_backend=filesystem", f"--state_backend_storage_path=file://{folder}/checkpoints"]
        options = PipelineOptions([*flags, *job.options])
        pipeline = beam.Pipeline(runner, options)
        assembled(job, pipeline)
        if job.runner == "flink":
            endpoint = servers.enter_context(flink_server("[local]" if local else master, folder))
            pipeline.options.view_as(PortableOptions).job_endpoint = endpoint
        result = pipeline.run()
        try:
            while not PipelineState.is_terminal(result.state):
                time.sleep(LOOK_S)
        except BaseException:
            threading.excepthook = lambda _: None  # worker threads lose their connection when Java ends
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
            with contextlib.suppress(Exception):  # it may have ended already, by the same Ctrl-C
                result.cancel()
            raise
        result.wait_until_finish()


@contextlib.contextmanager
def flink_server(master: str, folder: str) -> Iterator[str]:
    """Beam's job server for Flink in a Java of its own, on loopback; its address. `[local]`: Flink runs in the same Java."""
    opened = (f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENED)
    (port,) = pick_port(None)
    command = [
        str(java_home() / "bin" / "java"), "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *opened,
        "-cp", os.pathsep.join(str(path) for path in jars("beam_flink")),
        "org.apache.beam.runners.flink.FlinkJobServerDriver", f"--flink-master={master}", "--job-host=127.0.0.1",
        f"--job-port={port}", "--artifact-port=0", "--expansion-port=0", f"--artifacts-dir={folder}/artifacts",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            ends = time.monotonic() + READY_S
            while not _answers(port):
                if (code := server.poll()) is not None or time.monotonic() > ends:
                    raise RuntimeError(f"Beam's job server for Flink does not start (exit code {code}); see above")
                time.sleep(LOOK_S)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
