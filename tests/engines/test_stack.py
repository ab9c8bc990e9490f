"""`make stack` with real servers: it ends what it started, and after a crash the next start does. A TaskManager is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tools.stack.flink_cluster import TASK_MANAGER
from tools.stack.leftovers import runs


def started(folder: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """A stack that is ready, and what it said."""
    ports = ("--kafka-port", "0", "--flink-port", "0", "--mqtt-port", "0", "--brain-port", "0")
    command = [sys.executable, "-m", "tools.stack", "--folder", str(folder), "--servers", *ports]
    stack = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert stack.stdout is not None
    limit, said = threading.Timer(60, stack.kill), list[str]()
    limit.start()
    for line in stack.stdout:
        said.append(line.strip())
        if "ready" in line:
            break
    limit.cancel()
    assert said and "ready" in said[-1], said
    return stack, said


def servers(folder: Path) -> list[tuple[int, list[str]]]:
    return [(entry["pid"], entry["command"]) for entry in json.loads((folder / "pids.json").read_text())]


def test_ends_in_order_and_after_a_crash(tmp_path: Path) -> None:
    first, _ = started(tmp_path)
    left = servers(tmp_path)
    assert len(left) >= 3 and all(runs(*each) for each in left)
    second = subprocess.run(first.args, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1 and f"runs already, as process {first.pid}" in second.stderr
    first.kill()
    first.wait()
    assert all(runs(*each) for each in left), "a crash leaves the servers"
    third, said = started(tmp_path)
    assert sum("left over from a stack that crashed" in line for line in said) == len(left)
    assert not any(runs(*each) for each in left)
    mine = servers(tmp_path)
    assert all(runs(*each) for each in mine)
    (killed,) = [pid for pid, command in mine if TASK_MANAGER in command]
    os.kill(killed, signal.SIGKILL)
    assert third.stdout is not None
    line, (pid, command) = third.stdout.readline(), servers(tmp_path)[-1]
    assert f"TaskManager has ended by itself and was started again, as process {pid};" in line
    assert pid != killed and TASK_MANAGER in command and runs(pid, command)
    mine = servers(tmp_path)
    third.send_signal(signal.SIGTERM)
    assert third.communicate(timeout=60)[0].splitlines()[-1] == "stack: ended" and third.returncode == 0
    assert not any(runs(*each) for each in mine) and servers(tmp_path) == []
