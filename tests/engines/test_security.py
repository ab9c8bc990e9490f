"""Engine jobs at a listener that asks for a user: SCRAM by the same address and environment for each, no secret anywhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.engines.conftest import USERS
from tests.engines.kafka import create, read
from tests.engines.test_brain import citybrain, running
from tools.stack.broker import Broker

LONGEST_S = 180.0
MINUTE = 60_000
START = 1_772_409_600_000
GUARDED = "kafka://reader@{}?security=sasl_plaintext&mechanism=SCRAM-SHA-512"


def commands() -> str:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:
            continue
    return "\n".join(found)


@pytest.fixture(scope="module", autouse=True)
def levels(kafka_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An hour of a gauge, through the same listener."""
    file = tmp_path_factory.mktemp("sent") / "lvl.ndjson"
    line = '{"t":%d,"gauge":"wl01","depth_mm":%d}\n'
    file.write_text("".join(line % (START + n * MINUTE, n) for n in range(60)))
    create(kafka_broker.address, [("rows.harbour", 1), ("events.harbour.lvl", 1)])
    server, _, options = GUARDED.format(kafka_broker.guarded).partition("?")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CITYBRAIN_KAFKA_PASSWORD", USERS["reader"])
        citybrain("ingest", "--source", file, "--to", f"{server}/events.harbour.lvl?{options}")


@pytest.mark.parametrize("engine", ["polars", "flink", "beam"])
def test_a_job_behind_scram(kafka_broker: Broker, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, log = USERS["reader"], tmp_path / "log"
    command = ("run", "--kafka", GUARDED.format(kafka_broker.guarded), "--city", "harbour", "--engine", engine)
    before = len(read(kafka_broker.address, "rows.harbour"))
    monkeypatch.setenv("CITYBRAIN_KAFKA_PASSWORD", "wrong-secret")
    with running(log, *command) as refused:
        assert refused.wait(60) == 1
    assert "refuses the connection as user 'reader'" in log.read_text() and "secret" not in log.read_text()
    monkeypatch.setenv("CITYBRAIN_KAFKA_PASSWORD", secret)
    ends = time.monotonic() + LONGEST_S
    with running(log, *command) as job:
        while len(read(kafka_broker.address, "rows.harbour")) < before + 60:
            assert job.poll() is None and time.monotonic() < ends, log.read_text()[-3000:]
            time.sleep(0.5)
        shown = commands()
    assert "--engine\0" + engine in shown and secret not in shown and secret not in log.read_text()
