"""What a crashed stack left: the programs that it noted are ended, and no other process."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from citybrain import app
from tools.stack.leftovers import StackRuns, Started, runs
from tools.stack.process import Process
from tools.stack.programs import commands
from tools.stack.topics import topics

SLEEP = ["sleep", "300"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_leftovers_are_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    first = Started(tmp_path)
    first.add(sleeper.pid, SLEEP)
    first._lock.close()  # a crash: nothing is told
    assert Started(tmp_path).end_leftovers() == [sleeper.pid]
    assert sleeper.wait(10) < 0


def test_another_process_of_that_id_is_not(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    first = Started(tmp_path)
    first.add(sleeper.pid, ["sleep", "301"])
    first.add(os.getpid(), SLEEP)
    first._lock.close()
    assert Started(tmp_path).end_leftovers() == []
    assert sleeper.poll() is None


def test_one_owner(tmp_path: Path) -> None:
    first = Started(tmp_path)
    with pytest.raises(StackRuns, match=rf"runs already, as process {os.getpid()}; end that one"):
        Started(tmp_path)
    first.close()
    Started(tmp_path).close()


def test_process(tmp_path: Path) -> None:
    one, noted = Process("a sleeper", tmp_path / "log"), list[int]()
    one.noted = lambda pid, command: noted.append(pid)
    one.start(SLEEP, lambda: True)
    assert [one.pid] == noted and runs(noted[0], SLEEP)
    with pytest.raises(RuntimeError, match=f"a sleeper runs already as process {one.pid}"):
        one.start(SLEEP, lambda: True)
    one.end()
    assert one.pid is None and not runs(noted[0], SLEEP)


@pytest.mark.parametrize(("command", "why"), [(["false"], "ended with code 1"), (SLEEP, "does not answer")])
def test_process_that_is_never_ready(tmp_path: Path, command: list[str], why: str) -> None:
    one, began = Process("it", tmp_path / "log"), time.monotonic()
    with pytest.raises(RuntimeError, match=rf"it cannot be started: it {why}; see .*log"):
        one.start(command, lambda: False, longest_s=0.3)
    assert one.pid is None and time.monotonic() - began < 10


def test_topics_of_a_city() -> None:
    made = topics("c", ["link", "air"], 3)
    assert [(t.name, t.partitions) for t in made] == [
        ("events.c.link", 3), ("events.c.air", 3), ("rows.c", 1), ("open.c", 1), ("dead.c", 1), ("control.c", 1),
        ("state.c", 8),
    ]  # fmt: skip
    assert made[-1].config == {"cleanup.policy": "compact"}


def test_own_processes(tmp_path: Path) -> None:
    """Their command lines are ones that the commands take."""
    made = commands("demo", "h:1", "h:2", tmp_path, 0)
    assert "ingest link" in made and made["ingest link"][-4:-2] == ["--to", "kafka://h:1/events.demo.link"]
    assert "mqtt://h:2/city/demo/lvl/+" in made["ingest lvl"]
    for command in made.values():
        name, *arguments = command[3:]
        get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
