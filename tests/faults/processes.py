"""Processes that are killed and started again over one store, and what they must leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.failpoints import VARIABLE
from sinks.difference import difference

ROOT = Path(__file__).resolve().parents[2]
KILLED = -9
EXACT = ("transitions",)
"""Tables of an export that must be the same row by row; `citybrain diff` compares the others."""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


def run(
    command: Sequence[object],
    *,
    failpoint: str | None = None,
    begun: Callable[[subprocess.Popen[str]], None] | None = None,
    env: Mapping[str, str] = {},
    longest_s: float = 300,
) -> Ended:
    """Runs `python -m ...` and kills it after `longest_s`; calls `begun` with the process when that word is on its stderr."""
    environment = {**os.environ, **env, **({VARIABLE: failpoint} if failpoint else {})}
    with subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        said: list[str] = []
        if begun is not None:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if line.startswith("begun"):
                    begun(process)
                    break
        try:
            out, err = process.communicate(timeout=longest_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        return Ended(process.returncode, out, "".join(said) + err)


def killed_after(seconds: float) -> Callable[[subprocess.Popen[str]], None]:
    def kill(process: subprocess.Popen[str]) -> None:
        time.sleep(seconds)
        process.kill()

    return kill


@dataclass(frozen=True, slots=True)
class Replays:
    """The same files into stores under one folder, or on one server: one undisturbed, the others killed."""

    folder: Path
    files: tuple[Path, ...]
    commit_events: int
    server: str = ""
    """The address without a database."""
    fine_for_days: int | None = None
    """How long rows are kept; None: for ever."""

    def store(self, name: str) -> object:
        return f"{self.server}/{name}" if self.server else self.folder / name

    def once(self, name: str, *before: object, env: Mapping[str, str] = {}, **how: object) -> Ended:
        """`before`: a module and its arguments that run it."""
        kept = () if self.fine_for_days is None else ("--fine-for-days", self.fine_for_days)
        said = (self.store(name), self.folder / f"{name}.out", self.commit_events, *self.files)
        # Where the checkpoint of a store on a server lies.
        environment = {"XDG_DATA_HOME": str(self.folder / f"{name}.data"), **env}
        return run([*before, "tests.faults.replaying", *kept, *said], env=environment, **how)  # type: ignore[arg-type]

    def calm(self) -> Ended:
        ended = self.once("calm")
        assert ended.code == 0, ended.err
        return ended

    def finished(self, name: str) -> Ended:
        ended = self.once(name)
        assert ended.code == 0, ended.err
        return ended

    def after(self, name: str, calm: Ended) -> tuple[list[str], Counter[str]]:
        """Lets a killed one go on to its end; what is wrong with it then, and how much was compared."""
        ended = self.finished(name)
        wrong, counts = self.differences(name)
        if ended.out != calm.out:
            wrong.append(f"counters or rows: {calm.out.strip()} undisturbed, {ended.out.strip()} after kills")
        counts["transitions in order"] += transitions_hold(self.folder / f"{name}.out")
        self.forget(name)
        return wrong, counts

    def differences(self, name: str) -> tuple[list[str], Counter[str]]:
        """What a store that was killed shows otherwise than the undisturbed one, and how much was compared."""
        calm, other = self.folder / "calm.out", self.folder / f"{name}.out"
        found = difference(calm, other)
        wrong = [] if found.equal else [str(found)]
        counts = Counter({table.table: table.compared for table in found.tables})
        for table in EXACT:
            a, b = (table_of(folder, table) for folder in (calm, other))
            counts[table] += len(a)
            if not a.equals(b):
                wrong.append(f"{table}: {len(a)} and {len(b)} rows differ")
        return wrong, counts

    def forget(self, name: str) -> None:
        for left in (name, f"{name}.out", f"{name}.data"):
            shutil.rmtree(self.folder / left, ignore_errors=True)
        if self.server:
            urllib.request.urlopen(self.server, f"DROP DATABASE IF EXISTS `{name}`".encode()).close()


def table_of(folder: Path, table: str) -> pl.DataFrame:
    path = next(folder.glob(f"{table}.*"))
    frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path, infer_schema_length=None)
    return frame.drop("seen_at", "revision", "step", strict=False).sort(pl.all())


def transitions_hold(folder: Path) -> int:
    """Checks that transitions have no gap and that the last one is the episode's state; returns how many there are."""
    told, episodes = table_of(folder, "transitions"), table_of(folder, "episodes")
    by_episode = told.sort("seq").group_by("episode_id").agg(pl.col("seq"), pl.col("to_state").last())
    for identity, seq, state in by_episode.iter_rows():
        assert seq == list(range(len(seq))), f"episode {identity} has transitions {seq}"
        shown = episodes.filter(pl.col("episode_id") == identity)["state"].to_list()
        assert shown == [state], f"episode {identity} is {shown}, its last transition says {state}"
    assert set(episodes["episode_id"]) == set(by_episode["episode_id"])
    return len(told)
