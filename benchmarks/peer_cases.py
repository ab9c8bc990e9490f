"""The peers (`benchmarks/peers/`): the same files, the same groups; each in an environment of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import polars as pl

from benchmarks.programs import sums_of
from benchmarks.runs import RunFailed, once
from benchmarks.table import Row

if TYPE_CHECKING:
    from benchmarks.cases import Bench

EVENTS: Final = 1_000_000
DISORDER_MS: Final = 3_600_000
"""More than anything in the files is late, and more than one file can be read ahead of the other."""
SCRIPTS: Final = Path(__file__).parent / "peers"
GROUP: Final = {"link": pl.String, "pane": pl.Int64, "events": pl.Int64, "veh": pl.Int64, "tt": pl.Int64}
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """`own`: it has an environment of its own (`make peers`), not that of the engines."""

    name: str
    title: str
    own: bool

    @property
    def script(self) -> Path:
        return SCRIPTS / f"{self.name}.py"

    def python(self, bench: Bench) -> Path:
        return bench.peers / self.name / "bin" / "python" if self.own else bench.engines


PEERS: Final = (
    Peer("flink", "Flink SQL", False),
    Peer("spark", "Spark Structured Streaming", True),
    Peer("pathway", "Pathway", True),
    Peer("bytewax", "Bytewax, two processes", True),
    Peer("beam", "Beam, an element an event, local runner", False),
)


def peers(bench: Bench) -> list[Row]:
    """Other engines with one group by over the same two files, beside the whole product; all have the same groups."""
    events = min(bench.events, EVENTS)
    files = bench.data.link_parts(events, 2)
    there = [peer for peer in PEERS if peer.python(bench).exists()]
    for peer in PEERS:
        if peer not in there:
            bench.remarks.append(f"peers: {peer.title} did not run: {peer.python(bench)} is missing; make peers")
    product = bench.product("citybrain replay, whole catalogue, store", files[0], check=True)
    product = type(product)(product.name, product.program, {**product.arguments, "path": [str(p) for p in files]})
    wanted, ours, theirs = truth(files), list[Answer](), {peer: list[Answer]() for peer in there}
    for turn in range(min(bench.rounds, 3)):
        ours.append(once(product))
        checked(product.name, ours[-1]["sums"], wanted)
        for peer in there:
            theirs[peer].append(run(peer, bench, files[0].parent))
            checked(peer.title, theirs[peer][-1]["sums"], wanted)
            seconds = theirs[peer][-1]["seconds"]
            print(f"  {turn + 1} {peer.title}: {seconds:.2f} s", file=sys.stderr, flush=True)
    rows = [Row(product.name, "s", [a["seconds"] for a in ours], 1.0)]
    for peer, answers in theirs.items():
        ratio = statistics.median(o["seconds"] / a["seconds"] for o, a in zip(ours, answers, strict=True))
        rows.append(Row(f"{peer.title} ({answers[0]['version']})", "s", [a["seconds"] for a in answers], ratio))
        if any(a["started_s"] for a in answers):
            rows.append(Row(f"{peer.title}: starting before that", "s", [a["started_s"] for a in answers]))
    bench.remarks.append(
        f"peers: {events:,} events in two files; all gave the same {wanted['groups']} groups by link and pane of 5 min, with the "
        "same numbers of events, vehicles and travel times; ratio = how many times as fast as the product, which also "
        "stamps, drops duplicates, judges and stores. Starting a JVM or workers does not count"
    )
    return rows


def truth(files: list[Path]) -> Answer:
    """The groups by Polars alone, in one go."""
    schema = {"t": pl.Int64, "link": pl.String, "tt_ms": pl.Int64, "n": pl.Int64}
    pane = (pl.col("t") // 300_000 * 300_000).alias("pane")
    groups = pl.concat([pl.scan_ndjson(path, schema=schema) for path in files]).group_by("link", pane)
    tt = (pl.col("n") * pl.col("tt_ms")).sum().alias("tt")
    return sums(groups.agg(pl.len().cast(pl.Int64).alias("events"), pl.col("n").sum().alias("veh"), tt).collect())


def sums(frame: pl.DataFrame) -> Answer:
    """Those of `sums_of`, and one that tells the groups by what they are of."""
    keyed = frame.select(
        (pl.col("pane") % 1_000_003 * (pl.col("link").str.slice(1).cast(pl.Int64) + 7) * pl.col("events")).sum()
    )
    return sums_of(frame) | {"keyed": int(keyed.item())}


def checked(name: str, found: Answer, wanted: Answer) -> None:
    """RuntimeError where a program found other groups. The product tells no sum by place."""
    if any(found[key] != value for key, value in wanted.items() if key in found):
        raise RuntimeError(f"peers: {name} found {found}, but there are {wanted}")


def run(peer: Peer, bench: Bench, folder: Path) -> Answer:
    """One run of a script; its groups, summed."""
    with tempfile.TemporaryDirectory(prefix="citybrain-bench-") as kept:
        out = Path(kept) / "groups.ndjson"
        command = [str(peer.python(bench)), str(peer.script), str(folder), str(out), str(DISORDER_MS)]
        environment = os.environ | {"PATHWAY_THREADS": "2", "PYTHONPATH": ""}
        done = subprocess.run(command, capture_output=True, cwd=kept, env=environment)
        if done.returncode:
            raise RunFailed(
                f"{peer.title} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}"
            )
        answer: Answer = orjson.loads(done.stdout.splitlines()[-1])
        return answer | {"sums": sums(pl.read_ndjson(out, schema=GROUP))}
