"""A process that is gone is told from one that is alive, and from one of another machine (sinks/owner.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sinks import owner
from sinks.owner import is_gone, this_process

CHILD = "import sys; from sinks.owner import this_process; print(this_process(), flush=True); sys.stdin.read()"


def test_a_process_is_gone_once_it_has_ended() -> None:
    """Killed and not waited for yet (a zombie) counts as ended; stopped does not."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        named = child.stdout.readline().strip()
        assert named.split("/")[2] == str(child.pid)
        assert not is_gone(named)
        child.send_signal(signal.SIGSTOP)
        assert not is_gone(named)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(named)
    assert is_gone(named)


def test_only_what_ran_here_is_known_to_be_gone() -> None:
    boot, namespace, number, started = this_process().split("/")
    assert not is_gone(this_process())
    assert is_gone(f"{boot}/{namespace}/{number}/{int(started) + 1}"), "the number was given out again"
    assert is_gone(f"{boot}/{namespace}/4194303/1")
    for elsewhere in (
        f"{boot[::-1]}/{namespace}/4194303/1",
        f"{boot}/1/4194303/1",
        "",
        "x",
        "process 7 on alpha",
        "a/b/c/d",
    ):
        assert not is_gone(elsewhere), elsewhere


def test_where_the_system_does_not_tell_nobody_is_known_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    named = this_process()
    monkeypatch.setattr(owner, "_PROC", owner._PROC / "nowhere")
    assert this_process() == "" and not is_gone("") and not is_gone(named)
