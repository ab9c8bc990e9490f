"""Runs programs in processes of their own, in turn, and keeps what they said and what they cost."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

CORES: Final = 2
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """A program of `module` with its arguments; `name` is how results call it. `python`: another environment's."""

    name: str
    program: str
    arguments: Mapping[str, object]
    module: str = "benchmarks.programs"
    python: str = sys.executable


@dataclass(slots=True)
class Runs:
    """The answers of one program, one a run."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [float(a["seconds"]) for a in self.answers]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def of(self, *path: str) -> float:
        """The median of a number inside the answers."""
        found = []
        for answer in self.answers:
            value: Any = answer
            for key in path:
                value = value[key]
            found.append(float(value))
        return statistics.median(found)


class RunFailed(RuntimeError):
    """A program ended with an error; the text is what it wrote."""


def once(program: Program, **more: object) -> Answer:
    """One run: what the program printed, with `peak_mb` as the kernel saw it."""
    given = orjson.dumps({**program.arguments, **more}).decode()
    # Two threads for everybody, whatever the machine has.
    environment = os.environ | {"POLARS_MAX_THREADS": str(CORES)}
    command = [program.python, "-m", program.module, program.program, given]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert child.stdout is not None and child.stderr is not None
    out, err = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RunFailed(f"{program.name} ended with {child.returncode}: {err.decode(errors='replace')[-2000:]}")
    answer: Answer = orjson.loads(out.splitlines()[-1])
    return answer | {"peak_mb": usage.ru_maxrss / 1024}


def interleaved(programs: Sequence[Program], rounds: int) -> dict[str, Runs]:
    """A B C A B C ...: what the machine does besides hits all of them."""
    runs = {p.name: Runs() for p in programs}
    for turn in range(rounds):
        for program in programs:
            answer = once(program)
            runs[program.name].answers.append(answer)
            print(f"  {turn + 1}/{rounds} {program.name}: {answer['seconds']:.2f} s", file=sys.stderr, flush=True)
    return runs


def faster(runs: Runs, reference: Runs) -> float:
    """How many times as fast as the reference: the median of the ratios of each round."""
    return statistics.median(r / s for s, r in zip(runs.seconds, reference.seconds, strict=True))


def pin() -> None:
    """Leaves this process and its children two cores, where the system allows it."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:CORES])
