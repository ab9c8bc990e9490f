"""`citybrain submit`: what it refuses before anything is submitted, and what it says of a cluster that does not answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from commands.inputs import UserError
from commands.submit import Options, stop, submit
from pipelines.engines.flink_main import client_options, job_of, name_of
from pipelines.engines.flink_rest import FlinkCluster, FlinkError

JOB = "0123456789abcdef" * 2
TRACE = "org.apache.flink.X: outer\n\tat a.b(C.java:1)\nCaused by: java.io.IOException: the disk is full\n\tat d\n"


@pytest.fixture
def answers() -> Iterator[dict[str, Any]]:
    """A cluster that gives these answers: path -> (status, body); its address is under `address`."""
    said: dict[str, Any] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = said.get(self.path, (404, {"errors": ["not found"]}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said["address"] = f"127.0.0.1:{server.server_port}"
    said["/overview"] = (200, {"slots-available": 1})
    said["/jobs/overview"] = (200, {"jobs": []})
    yield said
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"flink": "nowhere"}, "--flink 'nowhere' is no address; write HOST:PORT"),
        ({"kafka": "a:9092,b"}, "--kafka 'b' is no address; write HOST:PORT"),
        ({"city": "atlantis"}, "city 'atlantis' is neither a path nor shipped"),
        ({"wheel": Path("gone.whl")}, "gone.whl is no file"),
        ({"settings": ("a",)}, "--set 'a' is no setting; write NAME=VALUE"),
        ({"parallelism": 2}, "--parallelism 2 needs as many task slots and the cluster at .* has 1 free"),
    ],
)
def test_refused(answers: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    options = {"flink": answers["address"], "city": "demo", "kafka": "127.0.0.1:9092"} | changed
    with pytest.raises(UserError, match=message):
        submit(Options(**options))


def test_one_job_of_a_city(answers: dict[str, Any]) -> None:
    answers["/jobs/overview"] = (200, {"jobs": [{"jid": JOB, "name": name_of("demo"), "state": "RESTARTING"}]})
    with pytest.raises(UserError, match=f"runs already as {JOB}; stop it first: .* --stop-with-savepoint {JOB}"):
        submit(Options(answers["address"], "demo", "127.0.0.1:9092"))
    ended = {
        "jobs": [
            {"jid": JOB, "name": name_of("demo"), "state": "CANCELED"},
            {"jid": JOB, "name": "x", "state": "RUNNING"},
        ]
    }
    answers["/jobs/overview"] = (200, ended)
    assert FlinkCluster(answers["address"]).running(name_of("demo")) == []


def test_a_cluster_that_is_none(answers: dict[str, Any]) -> None:
    with pytest.raises(FlinkError, match=r"no Flink cluster answers at 127\.0\.0\.1:1 "):
        FlinkCluster("127.0.0.1:1").free_slots()
    answers["/overview"] = (200, b"<html>")
    with pytest.raises(FlinkError, match="answers, and is no Flink cluster"):
        FlinkCluster(answers["address"]).free_slots()
    answers["/overview"] = (500, {"errors": [TRACE]})
    with pytest.raises(FlinkError, match=r"refuses /overview: java\.io\.IOException: the disk is full$"):
        FlinkCluster(answers["address"]).free_slots()


def test_stop(answers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="'x' is no job id; it has 32 hexadecimal digits"):
        stop(answers["address"], "x", None)
    answers[f"/jobs/{JOB}/stop"] = (202, {"request-id": "t"})
    answers[f"/jobs/{JOB}"] = (200, {"state": "FINISHED"})
    failed = {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": {"class": "X", "stack-trace": TRACE}}}
    answers[f"/jobs/{JOB}/savepoints/t"] = (200, failed)
    with pytest.raises(FlinkError, match=f"the savepoint of job {JOB} failed, and it goes on: .*the disk is full$"):
        stop(answers["address"], JOB, None)
    answers[f"/jobs/{JOB}/savepoints/t"] = (200, {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/s"}})
    assert stop(answers["address"], JOB, None) == {"job": JOB, "savepoint": "file:/s"}


def test_a_job_that_fails(answers: dict[str, Any]) -> None:
    answers[f"/jobs/{JOB}"] = (200, {"state": "FAILED", "vertices": []})
    answers[f"/jobs/{JOB}/exceptions"] = (200, {"exceptionHistory": {"entries": [{"stacktrace": TRACE}]}})
    with pytest.raises(FlinkError, match=r"failed: java\.io\.IOException: the disk is full$"):
        FlinkCluster(answers["address"]).until_running(JOB)
    answers[f"/jobs/{JOB}"] = (200, {"state": "RUNNING", "vertices": [{"status": "SCHEDULED"}]})
    with pytest.raises(FlinkError, match="does not run after 0 s, it is RUNNING"):
        FlinkCluster(answers["address"]).until_running(JOB, longest_s=0)


def test_client_options(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text('# a comment\nsecurity.protocol = SASL_SSL\n\nsasl.jaas.config=X user="a" password="b=c";\n')
    assert client_options("k:1", file) == {
        "bootstrap.servers": "k:1", "security.protocol": "SASL_SSL", "sasl.jaas.config": 'X user="a" password="b=c";',
    }  # fmt: skip
    file.write_text("a=b\nsecret\n")
    with pytest.raises(
        ValueError, match=r"kafka\.properties, line 2 is no option of a Kafka client; write name=value$"
    ):
        client_options("k:1", file)


def test_job_of_a_pack() -> None:
    job = job_of(Path("cities/demo"), {"bootstrap.servers": "k:1"}, 3, {"a": "b"})
    assert (job.city, job.parallelism, job.bounded) == ("demo", 3, False)
    assert job.settings["pipeline.name"] == "citybrain demo" and job.settings["a"] == "b"
    assert "'scan.bounded.mode'" not in job.text() and "'topic' = 'events.demo.link'" in job.text()
