"""`citybrain brain`: the brain alone. Ingest and engines are elsewhere and send it what they made over Kafka."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from commands.inputs import UserError, city_of
from commands.jobs import logged
from commands.live import STEP_S, Around, Live, Options
from commands.living import Home, lived
from connectors.http_push import Push
from connectors.kafka_transport import Of, OpenPanes, Partition, View
from dashboards.app import Routers
from dashboards.board import StreamHealth
from dashboards.run_metrics import Remote as NumbersOf
from pipelines import canonical, catalogue
from pipelines.canonical import control_topic, dead_topic, open_topic, rows_topic
from pipelines.city import City
from pipelines.delivery import Attached, Now, Run
from pipelines.intake import Opener
from pipelines.job_counts import Ends
from pipelines.journal import Recovered
from pipelines.kafka_client import Cluster, Connection, Stopped, say
from pipelines.kafka_options import KafkaFailed, KafkaOptions, cluster_options
from pipelines.remote_stream import RemoteStream
from pipelines.streams import Stream
from pipelines.transport import Topic
from pipelines.watermark import Input
from sinks.kafka_log import ensured

SHOW_S: Final = 0.2
"""How often it looks for open panes between two steps."""
LOOK_S: Final = 5.0
"""How often it looks for new partitions."""
NOTES: Final = 5
"""Of what was found of jobs, so many are on the page."""


def run(options: Options, kafka: str, stop: threading.Event) -> None:
    """Runs until `stop` is set. `kafka`: the address of the cluster."""
    city = city_of(options.city)
    with contextlib.suppress(Stopped):
        lived(options, stop, city, Remote(options, cluster_options(kafka, rows_topic(city.id)), stop))


class Remote:
    """What others send over Kafka (`commands.living.Feed`)."""

    remote = True
    origin_ms = 0
    push: Push | None = None

    def __init__(self, options: Options, kafka: KafkaOptions, stop: threading.Event) -> None:
        self.options, self.kafka = options, kafka
        self._cluster, self._stop = Cluster(Connection(kafka), stop.is_set), stop
        self.views: dict[str, View] = {}
        """By input."""
        self._shared: dict[str, tuple[Topic, Of, list[str]]] = {}
        """Topics that concern several streams: their kind, whose a record is, and who reads them."""
        self._logs: dict[str, str] = {}
        """The canonical logs of lifecycle streams."""
        self._open: OpenPanes | None = None
        self._open_topic = ""
        self._grouped: dict[str, str] = {}
        """Those that engine jobs group."""
        self.topics: dict[str, str] = {}
        """The identity of every topic that was ever looked at."""
        self.ends: Ends | None = None

    def identity(self, city: City) -> dict[str, Any]:
        return {"run": "brain", "city": city.id, "kafka": self.kafka.servers}

    def open(self, home: Home, streams: Mapping[str, Stream], clock: Callable[[], int]) -> Routers:
        return ()

    def attached(self, city: City, streams: Mapping[str, Stream], beat: Now, found: Recovered | None) -> list[Attached]:
        rollups = {r.name: r.stream.name for r in catalogue.rollups(catalogue.for_city(city))}
        for name in streams if found is not None else ():
            assert found is not None
            self.topics |= found.parts.get(f"intake/stream/{name}/own", {}).get("jobs", {}).get("topics", {})
        for topic in self.topics:
            self._partitions(topic)
        # Composites wait for every stream of the run, so one that nobody sends is none.
        everybody = logged(self._cluster, city.id, streams, self._stop)
        say(f"follows {', '.join(everybody)}")
        lifecycles = [name for name in everybody if streams[name].lifecycle]
        self._shared = {  # what jobs announce before what they send
            control_topic(city.id): ("control", lambda record: record.get("stream"), everybody),
            rows_topic(city.id): ("rows", lambda record: rollups.get(str(record.get("rollup"))), everybody),
            dead_topic(city.id): ("dead", lambda record: record.get("stream"), everybody),
        }
        self._logs = {canonical.topic(city.id, name): name for name in lifecycles}
        self._grouped = {canonical.topic(city.id, name): name for name in everybody if name in rollups.values()}
        for topic in self._shared:
            ensured(self._cluster, topic, 1)
        self._open_topic = open_topic(city.id)
        self.look()
        known = self.views.keys() if found is None else found.parts["intake/at"][1].keys()
        if gone := sorted(known - self.views.keys()):
            raise UserError(
                f"the checkpoint goes on with {', '.join(gone[:3])}, which Kafka does not have; restore the topics, or begin "
                "with a new --data folder"
            )
        return [Attached(self.views[name], Input(name, self.views[name].part)) for name in self.views if name in known]

    def look(self) -> None:
        """Opens the partitions that there are and that it does not have. KafkaFailed where a topic is another one now."""
        self._look_at_open()
        sizes = {topic: self._partitions(topic) for topic in (*self._grouped, *self._shared, *self._logs)}
        for topic, (kind, of, names) in self._shared.items():
            for number in range(sizes[topic]):
                if f"{canonical.part_of(topic, number)}:{names[0]}" not in self.views:
                    partition = Partition(self._cluster, topic, number, kind, of)
                    self.views |= {view.input: view for view in (View(partition, name) for name in names)}
        for topic, name in self._logs.items():
            for number in range(sizes[topic]):
                if canonical.part_of(topic, number) not in self.views:
                    view = View(Partition(self._cluster, topic, number, "events", None), name)
                    self.views[view.input] = view

    def _look_at_open(self) -> None:
        """Nothing depends on that topic: where the brain has no right to it, its page has final numbers only."""
        if self._open is not None or not self._open_topic:
            return
        try:
            if self._cluster.partitions(self._open_topic):
                self._open = OpenPanes(self._cluster, self._open_topic)
        except KafkaFailed as error:
            say(f"warning: no provisional numbers of engines elsewhere: {error}")
            self._open_topic = ""

    def show(self, run: Run) -> bool:
        """Takes in what engines have in open panes, for the provisional numbers of the page; whether there was anything."""
        records = self._open.read() if self._open is not None else []
        for stream in run.streams.values() if records else ():
            if isinstance(stream, RemoteStream):
                stream.show(records)
        return bool(records)

    def _partitions(self, name: str) -> int:
        """How many a topic has, which is still the one that was read before."""
        topic = self._cluster.topic(name)
        was = self.topics.get(name)
        if was is not None and (topic is None or topic.id != was):
            raise KafkaFailed(
                f"topic {name!r} of {self.kafka.servers} was deleted{'' if topic is None else ' and made again'} since it was "
                "read: what was not read of it is gone, and its offsets mean other records. Begin with a new --data folder, "
                "and with ingests and jobs that start anew"
            )
        if topic is None:
            return 0
        self.topics[name] = topic.id
        return topic.partitions

    def marks(self) -> Iterator[Marking]:
        """Of every log that jobs group the ends of its partitions now, and how far the counters must be read to tell of all
        events before them."""
        ends = {name: self._ends(topic) for topic, name in self._grouped.items()}
        told = {topic: self._ends(topic) for topic, (kind, _, _) in self._shared.items() if kind == "control"}
        for name, mine in ends.items():
            yield Marking(name, mine, {f"{part}:{name}": end for of in told.values() for part, end in of.items()})

    def _ends(self, topic: str, cluster: Cluster | None = None) -> dict[str, int]:
        found = (cluster or self._cluster).ends(topic)
        return {canonical.part_of(topic, number): end for number, end in found.items()}

    def ends_of(self, cluster: Cluster) -> dict[str, int]:
        """Of every partition that is read, by another connection."""
        return {part: end for topic in (*self._shared, *self._logs) for part, end in self._ends(topic, cluster).items()}

    def opener(self) -> Opener | None:
        return lambda name, stream: self.views[name]

    def live(self, around: Around) -> Live:
        return Following(self, around)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        if self.ends is not None:
            self.ends.close()
        for view in self.views.values():
            view.close()


@dataclass(frozen=True, slots=True)
class Marking:
    """Ends of the log of a stream, by part, to be noted once the inputs of its counters are read as far as `told`."""

    stream: str
    ends: dict[str, int]
    told: dict[str, int]


class Following(Live):
    """The loop of a brain: it takes in what has come, and partitions as they are made."""

    def __init__(self, feed: Remote, around: Around) -> None:
        a = around
        super().__init__(feed.options, a.run, a.board, a.metrics, a.clock, a.stop, None, a.between)
        self.feed, self._looked = feed, 0.0
        self._streams = {name: s for name, s in a.run.streams.items() if isinstance(s, RemoteStream)}
        self._marks: list[Marking] = []
        for stream in self._streams.values():
            stream.jobs.topics = feed.topics
        if a.metrics.watched is not None:
            quiet = Cluster(Connection(feed.kafka, lambda _: None), lambda: True)
            self._ends = feed.ends = Ends(lambda: feed.ends_of(quiet))
            a.metrics.watched = replace(a.metrics.watched, lags=self.lags, remote=self.remote)

    def lags(self) -> dict[str, int]:
        """Of each partition the offsets that not all streams have read."""
        read: dict[str, int] = {}
        for view in [*self.feed.views.values()]:
            part = canonical.part_of(view.partition.topic, view.partition.number)
            read[part] = min(view.position, read.get(part, view.position))
        return self._ends.lags(read)

    def remote(self) -> Iterator[NumbersOf]:
        for name, stream in self._streams.items():
            grouped = {rollup: (x.on_time, x.late_ones) for rollup, x in stream.collected.items()}
            yield NumbersOf(name, grouped, stream.set_aside.total(), dict(stream.jobs.counts))

    def health(self) -> dict[str, StreamHealth]:
        found = super().health()
        for name, stream in self._streams.items():
            if stream.jobs.findings:
                found[name]["notes"] = [finding.text for finding in stream.jobs.findings[-NOTES:]]
        return found

    def join(self, at: int) -> None:
        """Partitions that were made since."""
        if time.monotonic() - self._looked > LOOK_S:
            self.feed.look()
            self._marks += self.feed.marks()
            self._looked = time.monotonic()
            for name, view in self.feed.views.items():
                if name not in self.run.intake.positions:
                    self.run.intake.attach(view, at)

    def watch(self) -> None:
        """Notes how far the logs had got, and says what was found of jobs, each once."""
        read, waiting = self.run.intake.positions, []
        for marking in self._marks:
            stream = self._streams[marking.stream]
            if any(read.get(name, 0) < end for name, end in marking.told.items()):
                waiting.append(marking)
            elif (largest := stream.largest) is not None:
                stream.jobs.marked(marking.ends, largest, min(stream.closed().values()))
        self._marks = waiting
        for name, stream in self._streams.items():
            for finding in stream.jobs.unsaid():
                say(f"warning: stream {name}: {finding.text}")

    def go(self, now: int, wall: Callable[[], int] | None = None) -> None:
        assert wall is not None
        self.resume()
        self.clock.set(max(self.run.intake.now.at, wall()))
        self.clock.go()
        self.board.release()
        while not self.stop.is_set():
            self.alive()
            began = time.monotonic()
            now = self.clock()
            self.join(now)
            taken = self.run.poll(now)
            self.run.tick(now)
            self.feed.show(self.run)
            self.watch()
            self.step()
            self.metrics.step(time.monotonic() - began)
            while taken < self.run.commit_events and (left := STEP_S - (time.monotonic() - began)) > 0:
                if self.stop.wait(max(0.005, min(left, SHOW_S))):
                    return
                if self.feed.show(self.run):
                    self.look_ahead()
