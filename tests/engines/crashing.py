"""A city whose events come in pieces through Kafka while what reads and writes its topics is killed, and what must be left of
that in the end (rules 15, 16, 30, 32, 37)."""

from __future__ import annotations

import math
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from commands.inputs import instant
from pipelines import canonical, catalogue
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.model import PlaceRegistry
from pipelines.rollup import Rollup
from pipelines.streams import Stream
from sinks.difference import compare_episodes, compare_readings
from tests.engines.children import Child, until
from tests.engines.kafka import create, ends, messages, read, write
from tests.engines.logs import Grouped, Log, blocks, columns_of, compared, from_topic, grouped
from tests.faults.processes import ROOT, run, table_of, transitions_hold
from tools.stack import topics
from tools.stack.broker import Broker

STREAMS: Final = ("http", "lvl", "park", "inc", "case")
START, UNTIL, CLOSING = "2026-03-02T08:00:00+08:00", "2026-03-02T08:20:00+08:00", "2026-03-02T08:30:00+08:00"
PARTITIONS: Final = 2
COPIED, DELAYED, DELAY = 0.01, 0.02, 150
"""Shares of the records that come twice and that come later, by so many records: the simulated city has few of them."""
SHARE, PIECE_S = 0.06, 0.2
"""Of what may be sent now so much is a piece, and at least one record: a stream that fell silent would be idle (rule 8)."""
KEPT = 0.05
"""What is left for the end."""
LONGEST_S: Final = 120.0
Ends = dict[str, list[int]]
"""Of each stream, where the partitions of its log end."""


class Feed:
    """Records of the source topics, in pieces, up to the share that is allowed."""

    def __init__(self, broker: str, records: Sequence[tuple[str, int, bytes]], at: int) -> None:
        """`records`: topic, partition, value; `at`: when all of them arrive."""
        self._records, self._at, self.sent, self._allowed = records, at, 0, 0
        self._producer = Producer(
            {"bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        self._stop, self._failed = threading.Event(), list[str]()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def allow(self, share: float) -> None:
        self._allowed = max(self._allowed, int(len(self._records) * share))

    @property
    def left(self) -> int:
        return len(self._records) - self.sent

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def finish(self) -> None:
        """Sends what is left; returns when the broker has all."""
        self.close()
        self._send(self.left)
        assert self._producer.flush(60) == 0 and not self._failed, self._failed[:3]

    def _run(self) -> None:
        while not self._stop.wait(PIECE_S):
            if self.left > len(self._records) * KEPT:
                self._send(max(1, math.ceil((self._allowed - self.sent) * SHARE)))

    def _send(self, count: int) -> None:
        for topic, partition, value in self._records[self.sent : self.sent + count]:
            self._producer.produce(topic, value, partition=partition, timestamp=self._at, on_delivery=self._delivered)
        self.sent += count
        self._producer.poll(0)

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failed.append(str(error))


@dataclass(frozen=True, slots=True)
class Read:
    """The canonical log of a stream as it is on the broker, and what the embedded engine makes of it."""

    log: Log
    offsets: list[list[int]]
    wanted: dict[str, Grouped]


class Town:
    """Its processes but the engine, its topics, and one undisturbed replay of what it is sent."""

    def __init__(self, broker: Broker, folder: Path, name: str, seed: int) -> None:
        self.broker, self.folder, self.name = broker, folder, name
        self.pack, self.log, self.data = folder / "pack" / name, folder / "log", folder / "data"
        self._out = folder / "out"
        shutil.copytree(ROOT / "cities" / "demo", self.pack)
        config = self.pack / "city.toml"
        config.write_text(config.read_text().replace('id = "demo"', f'id = "{name}"'))
        self._streams = {s.name: s for s in catalogue.STREAMS}
        self._topics = [
            *topics.topics(name, self._streams, PARTITIONS), *(topics.Topic(self._raw(s), PARTITIONS) for s in STREAMS)
        ]  # fmt: skip
        topics.create(broker.address, self._topics[: -len(STREAMS)])
        create(broker.address, [(topic.name, topic.partitions) for topic in self._topics[-len(STREAMS) :]])
        self.feed = Feed(broker.address, self._sent(seed), instant(UNTIL, "UNTIL"))
        files = [folder / str(n) / f"{stream}.ndjson" for n in range(PARTITIONS) for stream in STREAMS]
        self._undisturbed = self._child(
            "replay",
            "replay",
            "--quiet",
            "--city",
            self.pack,
            "--until",
            CLOSING,
            "--out",
            folder / "undisturbed",
            *files,
        )
        self._undisturbed.start()
        self.brain = self._child(
            "brain", "brain", "--kafka", broker.address, "--city", self.pack, "--port", 0, "--data", self.data
        )
        self.ingests = {stream: self._ingest(stream) for stream in STREAMS}

    def start(self) -> None:
        for child in self.children:
            child.start()
        self.feed.start()

    @property
    def children(self) -> list[Child]:
        return [self.brain, *self.ingests.values()]

    def quit(self) -> None:
        """Ends all that runs; its topics go."""
        self.feed.close()
        for child in (*self.children, self._undisturbed):
            child.quit()
        if self.broker.alive:
            admin = AdminClient({"bootstrap.servers": self.broker.address})
            for done in admin.delete_topics([topic.name for topic in self._topics]).values():
                done.result(30)

    def rows_end(self) -> int:
        return ends(self.broker.address, canonical.rows_topic(self.name))[0]

    def readable(self) -> bool:
        """Whether the broker leads every partition of its topics: after a start it does not at once."""
        try:
            return all(ends(self.broker.address, topic.name, topic.partitions) for topic in self._topics)
        except KafkaException:
            return False

    def log_ends(self) -> Ends:
        return {s: ends(self.broker.address, canonical.topic(self.name, s), PARTITIONS) for s in STREAMS}

    # ------------------------------------------------------------ what it is sent
    def _raw(self, stream: str) -> str:
        return f"raw.{self.name}.{stream}"

    def _child(self, name: str, *command: object) -> Child:
        return Child(name, self.log, "citybrain", *command)

    def _ingest(self, stream: str) -> Child:
        kafka = f"kafka://{self.broker.address}"
        return self._child(
            f"ingest {stream}", "ingest", "--city", self.pack, "--id", "raw", "--source", f"{kafka}/{self._raw(stream)}",
            "--to", f"{kafka}/{canonical.topic(self.name, stream)}",
        )  # fmt: skip

    def _sent(self, seed: int) -> list[tuple[str, int, bytes]]:
        """The records in the order in which they are sent, and a file for each partition."""
        simulated = self.folder / "simulated"
        asked = ("--start", START, "--until", UNTIL, "--city", self.pack, "--seed", seed)
        assert run(["citybrain", "simulate", simulated, *asked]).code == 0
        rnd, sent = random.Random(seed), list[tuple[float, str, int, bytes]]()
        for stream in STREAMS:
            placed = list[tuple[int, bytes]]()
            for n, line in enumerate((simulated / f"{stream}.ndjson").read_bytes().splitlines()):
                placed.append((n + DELAY * (rnd.random() < DELAYED), line))
                placed += [(n + 5, line)] * (rnd.random() < COPIED)
            placed.sort(key=lambda each: each[0])
            for partition in range(PARTITIONS):
                mine = [(at / placed[-1][0], line) for at, line in placed[partition::PARTITIONS]]
                sent += [(at, self._raw(stream), partition, line) for at, line in mine]
                file = self.folder / str(partition) / f"{stream}.ndjson"
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(b"".join(line + b"\n" for _, line in mine))
        return [(topic, partition, line) for _, topic, partition, line in sorted(sent, key=lambda each: each[0])]

    # ------------------------------------------------------------ what must be left
    def check(self, handovers: Sequence[Ends], longest_s: float = LONGEST_S) -> Counter[str]:
        """Sends the rest, lets time end, and compares; AssertionError with the first difference that stays. The engine still
        runs. Returns how much was compared."""
        self.feed.finish()
        self._all_in()
        logs = [self._read(self._streams[name]) for name in STREAMS]
        total = Counter({"panes that a handover cut": sum(cut(read, at) for read in logs for at in handovers)})
        assert all(any(cut(read, at) for read in logs) for at in handovers), "a handover in the middle of no pane"
        total += settled(lambda: self._topic_equal(logs), longest_s)
        self.brain.end()
        total += settled(lambda: self._store_equal(logs), longest_s, self._on)
        return total

    def _all_in(self) -> None:
        """Returns when the logs have all that was sent; then their ingests have ended, and time is `CLOSING` (rule 8)."""
        control, wanted = canonical.control_topic(self.name), orjson.loads(self._replayed())
        counted = Counter[str]()

        def came() -> bool:
            told = map(orjson.loads, read(self.broker.address, control))
            of = {record["stream"]: record["counters"] for record in told if record["kind"] == "counters"}
            counted.clear()
            for counters in of.values():
                counted.update(counters)
            return bool(counted["received"] >= wanted["received"])

        until(came, f"not all came in: {counted}", LONGEST_S)
        for child in self.ingests.values():
            child.end()
        for name in ("received", "accepted", "duplicate", "rejected", "quarantined"):
            assert counted[name] == wanted[name], f"{name}: {wanted[name]} undisturbed, {counted[name]} after kills"
        closing = instant(CLOSING, "CLOSING")
        for stream in STREAMS:
            ticks = [orjson.dumps({"wm": wm}) for wm in (closing - 1, closing)]
            write(self.broker.address, canonical.topic(self.name, stream), [ticks] * PARTITIONS)

    def _replayed(self) -> bytes:
        assert self._undisturbed.ended() == 0, self._undisturbed.told()
        return (self.folder / "undisturbed" / "summary.json").read_bytes()

    def _read(self, stream: Stream) -> Read:
        name = canonical.topic(self.name, stream.name)
        found = [messages(self.broker.address, name, partition=n) for n in range(PARTITIONS)]
        offsets = [[message.offset() for message in part] for part in found]
        records = tuple(tuple(message.value() for message in part) for part in found)
        rollups = of_stream(stream)
        engine = PolarsEngine(rollups, [canonical.part_of(name, n) for n in range(PARTITIONS)]) if rollups else None
        wanted = dict[str, Grouped]()
        if engine is not None:
            places = PlaceRegistry()
            for n, part in enumerate(records):
                for block in blocks(stream, canonical.part_of(name, n), part, places, offsets[n]):
                    engine.add(block)
            wanted = grouped(rollups, engine.take(), places)
        return Read(Log(stream, records, instant(CLOSING, "CLOSING")), offsets, wanted)

    def _topic_equal(self, logs: Sequence[Read]) -> Counter[str]:
        """The rows and manifests on the topic. A job that went on in the middle of a pane counts fewer events of it again: of
        two manifests the larger one counts, as of two rows (rule 16)."""
        found = from_topic(read(self.broker.address, canonical.rows_topic(self.name)))
        for made in found.values():
            counts = dict[int, int]()
            for start, n in made.manifests:
                counts[start] = max(n, counts.get(start, 0))
            made.manifests = sorted(counts.items())
        total = Counter[str]()
        for one in logs:
            rows, late, manifests = compared(one.wanted, found, one.log.closing, orderly=False)
            total.update({"rows": rows, "late rows": late, "manifests": manifests})
        assert total["rows"] > 5_000 and total["late rows"] > 50 and total["manifests"] > 40, total
        return total

    def _store_equal(self, logs: Sequence[Read]) -> Counter[str]:
        """The rows in the store; readings and episodes as of the undisturbed replay; transitions as of themselves."""
        exported = run(["citybrain", "export", self.data / self.name, self._out])
        assert exported.code == 0, exported.err
        total = Counter({"transitions": transitions_hold(self._out)})
        follow_each_other(table_of(self._out, "transitions"))
        for rollup, want in ((r, one.wanted[r.name]) for one in logs for r in of_stream(one.log.stream)):
            rows = stored(self._out, rollup)
            other = [key for key in want.rows.keys() | rows.keys() if want.rows.get(key) != rows.get(key)]
            assert not other, f"stored rows of {rollup.name}: {[(k, want.rows.get(k), rows.get(k)) for k in other[:3]]}"
            total["stored rows"] += len(rows)
        for table, compare in (("readings", compare_readings), ("episodes", compare_episodes)):
            frames = [pl.read_parquet(side / f"{table}.parquet") for side in (self.folder / "undisturbed", self._out)]
            differences = compare(*frames)
            assert not differences, f"{table}: {'; '.join(map(str, differences[:3]))}"
            total[table] += len(frames[0])
        assert total["readings"] > 5_000 and total["episodes"] > 10 and total["transitions"] > 10, total
        return total

    def _on(self) -> None:
        """The brain a little further."""
        self.brain.start()
        time.sleep(5)
        self.brain.end()


def of_stream(stream: Stream) -> list[Rollup]:
    """Its rollups; none of a lifecycle stream's."""
    return [r for r in catalogue.rollups(catalogue.CATALOGUE) if r.stream == stream]


def settled(
    check: Callable[[], Counter[str]], longest_s: float, between: Callable[[], None] = lambda: time.sleep(1)
) -> Counter[str]:
    """What `check` returns as soon as it holds: what is on its way may come. Its error, where it does not hold in time."""
    ends_at = time.monotonic() + longest_s
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > ends_at:
                raise
        between()


def cut(of: Read, at: Ends) -> int:
    """Panes of which on-time events lie before a handover and after it."""
    frames = []
    for records, offsets, end in zip(of.log.partitions, of.offsets, at[of.log.stream.name], strict=True):
        frame = canonical.decoded(records, offsets, of.log.stream).filter(pl.col("t").is_not_null(), ~pl.col("late"))
        frames.append(frame.select("t", before=pl.col("off") < end))
    total = 0
    for rollup in of_stream(of.log.stream):
        panes = pl.concat(frames).group_by(pl.col("t") // rollup.pane_ms).agg(pl.col("before").n_unique() == 2)
        total += int(panes["before"].sum())
    return total


def stored(out: Path, rollup: Rollup) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Exported rows by key, as `logs.Grouped` has them."""
    key, value = columns_of(rollup)
    frame = pl.read_parquet(out / "rows" / f"{rollup.name}.parquet").with_columns(pl.col(pl.Datetime).cast(pl.Int64))
    found = dict(zip(frame.select(key).iter_rows(), frame.select(value).iter_rows(), strict=True))
    assert len(found) == len(frame), f"rows of {rollup.name} come twice"
    return found


def follow_each_other(transitions: pl.DataFrame) -> None:
    """Each transition begins where the one before it ended."""
    for identity, told in by_episode(transitions):
        states = [""]
        for begins, ended in told:
            assert begins == states[-1], f"episode {identity} goes from {begins!r} after {states}"
            states.append(ended)


def by_episode(transitions: pl.DataFrame) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for (identity,), told in transitions.sort("seq").group_by("episode_id"):
        yield str(identity), [*told.select("from_state", "to_state").iter_rows()]
