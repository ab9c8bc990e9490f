"""One session of `citybrain ingest`: opens the log, reads what was committed, and commits batches until its files end or it is
asked to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from commands.ingest_inputs import Plan
from commands.inputs import UserError
from pipelines import canonical, catalogue, state_records
from pipelines.canonical import control_topic, dead_topic
from pipelines.delivery import Attached
from pipelines.job_counts import JobCounts
from pipelines.kafka_client import Cluster, Stopped, say
from pipelines.kafka_options import KafkaFailed
from pipelines.log_writer import ABOUT, LogWriter, Records, claimed, saved_places
from pipelines.model import Parts, Source
from pipelines.state_records import StateRecords
from pipelines.watermark import Input
from sinks.kafka_log import COMPACTED, Fenced, KafkaLog, compacted, ensured, kept

COMMIT_S: Final = 0.5
BATCH: Final = 100_000
"""Records after which a batch is committed, however short the time since the last one."""
READ: Final = 50_000
"""Records of one source between two looks at the clock."""
TICK_MS: Final = 1000
PAUSE_MS: Final = 2000
"""A turn that took longer was a pause of ours, and no silence of the inputs."""
STATE_PARTITIONS: Final = 8


class Session:
    """From opening the log to the end of the files, or to `stop`."""

    def __init__(
        self,
        plan: Plan,
        cluster: Cluster,
        clock: Callable[[], int],
        stop: threading.Event,
        until: int | None,
        owner: str,
        counts: JobCounts | None = None,
    ) -> None:
        """`owner` names this process, `counts` is told of what it does."""
        self._counts = counts or JobCounts()
        self.plan, self.cluster, self.clock, self.stop, self.until = plan, cluster, clock, stop, until
        self.owner, self._before = owner, owner
        self.writer: LogWriter | None = None
        self.batches = 0
        self._log = KafkaLog(
            cluster.connection, f"citybrain-ingest-{plan.city.id}-{plan.stream.name}-{plan.id}", stop.is_set
        )
        self._state = 0
        self._sources: list[Source] = []

    def run(self) -> None:
        """Raises Fenced where the cluster takes nothing more, Stopped where it does not answer until the end."""
        writer = self._begun()
        if writer.finished:
            return
        self._commit(writer)  # at once, so that a session that was fenced sees who has taken over
        if self.plan.live:
            self._live(writer)
        else:
            self._files(writer)

    def taken_over(self) -> bool:
        """Whether another process has this ingest now."""
        parts, _, _ = self._saved()
        return "run" in parts and parts["run"]["owner"] not in (self.owner, self._before)

    @property
    def sources(self) -> list[Source]:
        return [*self._sources]

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self._log.close()

    def _begun(self) -> LogWriter:
        plan = self.plan
        self._log.open()
        self._topics()
        parts, records, _ = self._saved()
        now = self.clock()
        about = parts.get(ABOUT, {})
        if "run" in parts and ABOUT not in parts:
            raise KafkaFailed(f"{self._state_of()} was deleted and made again while it was written: half of it is gone")
        if "run" not in parts:  # nothing but its partitions, of a first start that was killed
            parts = {}
        else:
            self._before = parts["run"]["owner"]
        opened = plan.open(about.get("start", now))
        self._sources = [source for source, _ in opened.sources]
        known = parts[f"stream/{plan.stream.name}/ingest"]["feeds"] if parts else None
        wanted = 1 + max((n for _, n in opened.sources), default=0)
        log = ensured(self.cluster, plan.target.topic, wanted)
        identity = {**opened.identity, "log": log.id}
        follows = parts and self._follows(parts, identity)
        about = {
            "identity": identity,
            "start": about.get("start", now),
            "targets": about.get("targets", {}),
        }
        targets = self._targets(about, wanted)
        names = [*targets]
        ours = [(source, names[n]) for source, n in opened.sources]
        given = [(s, part) for s, part in ours if known is None or follows or s.input in known]
        if plan.live and known is not None and (gone := sorted({*known} - {s.input for s, _ in ours})):
            raise UserError(
                f"ingest {plan.id!r} of {plan.target.shown} has read {', '.join(gone[:3])} before, which is not there now; "
                "give the --data folder that it had, or give this one an --id of its own"
            )
        writer = self.writer = LogWriter(
            plan.city.id, plan.id, plan.stream,
            [Attached(s, Input(s.input, part, plan.disorder_ms)) for s, part in given], targets,
            owner=self.owner, identity=identity, live=plan.live, start=about["start"],
            configured=[s.id for s in plan.city.sites if s.stream == plan.stream.name],
            places=saved_places(parts, plan.stream.name),
        )  # fmt: skip
        if not parts:
            say(f"ingest {plan.id!r} begins: {plan.target.shown}, partition {', '.join(map(str, targets.values()))}")
        elif follows:
            writer.follow(parts, records)
            say(f"ingest {plan.id!r} finished other files before; these follow them")
        else:
            writer.load(parts, records)
            told = "was finished before" if writer.finished else "goes on"
            say(f"ingest {plan.id!r} {told}: {writer.ingest.counters['received']:,} records are in {plan.target.shown}")
            if plan.live:
                # While nobody read, what came waited; that was no silence.
                writer.ingest.unread(max(0, now - writer.intake.now.at))
            for source, part in ours:
                if source.input not in writer.ingest.feeds:
                    writer.attach(source, part, now)
        return writer

    def _topics(self) -> None:
        city = self.plan.city.id
        name = state_records.topic(city)
        count = ensured(self.cluster, name, STATE_PARTITIONS, COMPACTED).partitions
        if not compacted(self.cluster, name):
            raise KafkaFailed(f"topic {name!r} needs cleanup.policy=compact, or its state is lost some day; set it")
        self._state = state_records.partition_of(self.plan.stream.name, count)
        for name in (dead_topic(city), control_topic(city)):
            ensured(self.cluster, name, 1)

    def _saved(self) -> tuple[Parts, StateRecords, dict[bytes, bytes]]:
        """The state of this ingest, and all that the partition of the state topic holds."""
        held = kept(self.cluster, state_records.topic(self.plan.city.id), self._state)
        records = StateRecords(state_records.prefix(self.plan.stream.name, self.plan.id))
        return records.load(held), records, held

    def _follows(self, parts: Parts, now: dict[str, Any]) -> bool:
        """Whether other files follow those that were finished. UserError where the state is of another source."""
        was = parts[ABOUT]["identity"]
        if was == now:
            return False
        if was["log"] != now["log"]:
            raise KafkaFailed(
                f"{self.plan.target.shown} was deleted and made again: what ingest {self.plan.id!r} wrote there is gone. To read "
                "its source from the beginning, give another --id"
            )
        if was.get("run") == now["run"] == "files" and parts["run"]["finished"]:
            return True
        if was.get("run") == now["run"] == "kafka" and was["topic"] == now["topic"]:
            raise KafkaFailed(
                f"topic {now['topic']!r} was deleted and made again since it was read: its records may be others. To read it "
                "from its beginning, give another --id"
            )
        raise UserError(
            f"ingest {self.plan.id!r} of {self.plan.target.shown} was started with another source or other options and is not "
            "finished; type that command again, or give this one an --id of its own"
        )

    def _targets(self, about: dict[str, Any], wanted: int) -> dict[str, int]:
        """The partitions of the log that this ingest writes, by their names: those it has, and free ones that it claims."""
        before: dict[str, int] = about["targets"]
        if before and wanted <= len(before):
            return before
        stream, city = self.plan.stream.name, self.plan.city.id
        # One at a time: whoever opens these claims ends the one before it, and then reads what that one committed.
        claims = KafkaLog(self.cluster.connection, f"citybrain-claims-{city}-{stream}", self.stop.is_set)
        while True:
            claims.open()
            _, _, held = self._saved()
            targets = before | self._free({*before.values()}, held, wanted - len(before))
            claim = StateRecords(state_records.prefix(stream, self.plan.id)).changes(
                {ABOUT: about | {"targets": targets}}
            )
            try:
                claims.commit([Records(state_records.topic(city), self._state, claim)])
            except Fenced:
                if self.stop.wait(1):
                    raise Stopped from None
            else:
                claims.close()
                return targets

    def _free(self, mine: set[int], held: dict[bytes, bytes], wanted: int) -> dict[str, int]:
        """At least so many partitions that no ingest has; all that there are, for somebody must tick them (rule 8)."""
        name = self.plan.target.topic
        topic = ensured(self.cluster, name, max([wanted, *(n + 1 for n in mine)]))
        others = {n for targets in claimed(held, self.plan.stream.name).values() for n in targets.values()}
        free = [n for n in range(topic.partitions) if n not in others | mine]
        if (more := wanted - len(free)) > 0:
            free += range(topic.partitions, topic.partitions + more)
            ensured(self.cluster, name, topic.partitions + more)
        if written := [n for n, end in self.cluster.ends(name).items() if n in free and end]:
            raise KafkaFailed(
                f"partition {written[0]} of {self.plan.target.shown} has records, and {self._state_of()} knows of nobody who "
                "wrote them: that topic was deleted or made again, and where each source is to go on is gone with it. To read "
                "them from their beginnings delete the log too"
            )
        return {canonical.part_of(name, n): n for n in free}

    def _state_of(self) -> str:
        return f"topic {state_records.topic(self.plan.city.id)!r}"

    def _commit(self, writer: LogWriter) -> None:
        began, runs = time.monotonic(), writer.batch(self.clock(), self._state)
        self._log.commit(runs)
        self._counts.wrote(sum(len(run.records) for run in runs if run.topic == self.plan.target.topic))
        self._counts.durable(began)
        self.batches += 1
        writer.intake.commit(writer.intake.positions)

    def _files(self, writer: LogWriter) -> None:
        """Rule 9: the file with the smallest M is read next; time ends with one last tick."""
        began = time.monotonic()
        while (name := writer.ingest.wanted()) is not None and not self.stop.is_set():
            writer.intake.read(writer.stream, name, BATCH)
            if writer.stream.unwritten >= BATCH or time.monotonic() - began >= COMMIT_S:
                self._commit(writer)
                began = time.monotonic()
        if not self.stop.is_set():
            writer.closing(catalogue.rollups(catalogue.CATALOGUE), self.until)
        self._commit(writer)

    def _live(self, writer: LogWriter) -> None:
        began, ticked, before = time.monotonic(), 0, self.clock()
        while not self.stop.is_set():
            now = self.clock()
            unread = None if now - before > PAUSE_MS else [s.input for s in self._sources if _lost(s)]
            if unread is None or unread:
                writer.ingest.unread(now - before, unread)
            before = now
            for source in self.plan.joining(writer.intake.positions) if self.plan.joining is not None else ():
                writer.intake.attach(source, now)
                self._sources.append(source)
            taken = writer.intake.poll(now, most=READ)
            if now - ticked >= TICK_MS:
                writer.intake.tick(now)
                ticked = now
            due = time.monotonic() - began >= COMMIT_S
            if writer.stream.unwritten >= BATCH or (due and (writer.stream.unwritten or taken)):
                self._commit(writer)
                began = time.monotonic()
            if not taken:
                self.stop.wait(0.02)
        self._commit(writer)


def _lost(source: Source) -> bool:
    """Whether the source's cluster does not answer."""
    connection = getattr(source, "connection", None)
    return connection is not None and connection.lost
