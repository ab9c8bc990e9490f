"""What `citybrain ingest` reads, resolved: files, Kafka partitions, MQTT topics, pushes over HTTP, the simulated city."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from commands.durable import replay_identity
from commands.inputs import LONGEST_DISORDER_MS, Inputs, UserError, city_of, named, resolve
from connectors.formats import Format
from connectors.formats.json_lines import JsonLinesFormat
from connectors.formats.ndjson import Ndjson
from connectors.mapping import Mapping as FileMapping
from connectors.mapping import read_mapping
from pipelines import catalogue
from pipelines.city import City
from pipelines.kafka_client import Cluster
from pipelines.kafka_options import KafkaFailed, KafkaOptions, kafka_options
from pipelines.model import Source
from pipelines.pack import duration_ms
from pipelines.streams import Stream

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
TARGET: Final = re.compile(r"events\.([A-Za-z0-9_-]+)\.([a-z0-9_]+)")
FORMATS: Final = ("ndjson",)


@dataclass(frozen=True, slots=True)
class Options:
    sources: tuple[str, ...]
    to: str
    id: str | None = None
    format: str | None = None
    map: str | None = None
    city: str | None = None
    disorder: str | None = None
    until: int | None = None
    seed: int = 1
    data: Path | None = None
    metrics: str | None = None
    """Where to serve them, HOST:PORT."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Sources by the number of the partition, of those that this ingest writes, that each feeds; `identity` tells whether a
    later start reads the same."""

    sources: tuple[tuple[Source, int], ...]
    identity: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ingest is: the stream and city that it is for, and how its sources are opened."""

    city: City
    stream: Stream
    target: KafkaOptions
    id: str
    kind: str
    live: bool
    open: Callable[[int], Opened] = field(repr=False)
    """Opens the sources; argument: where the run began (UTC ms)."""
    disorder_ms: int | None = None
    joining: Callable[[Container[str]], list[Source]] | None = field(default=None, repr=False)
    """Sources of inputs that came up and whose names are not among these."""
    close: Callable[[], None] = field(default=lambda: None, repr=False)


def planned(options: Options, clusters: Callable[[KafkaOptions], Cluster], clock: Callable[[], int]) -> Plan:
    """Reads the options; UserError for what cannot be used."""
    target = kafka_options(options.to)
    match = TARGET.fullmatch(target.topic)
    if match is None:
        raise UserError(f"--to {target.shown}: the topic of a canonical log is events.CITY.STREAM")
    name, stream_name = match.groups()
    known = {s.name: s for s in catalogue.STREAMS}
    if stream_name not in known:
        raise UserError(f"--to {target.shown}: stream {stream_name!r} is unknown; there are {', '.join(known)}")
    stream = known[stream_name]
    kinds = {kind_of(source) for source in options.sources}
    if len(kinds) > 1 or (len(options.sources) > 1 and "files" not in kinds):
        raise UserError(
            "--source can be given several times for files only; start one ingest a source, each with its --id"
        )
    kind = kinds.pop()
    if options.until is not None and kind != "files":
        raise UserError("--until is for files; an ingest of a live source ends with Ctrl-C")
    if options.format is not None and options.format not in FORMATS:
        raise UserError(f"--format {options.format!r} is unknown; a message is one record in {', '.join(FORMATS)}")
    disorder_ms = duration_ms(options.disorder, "--disorder") if options.disorder else None
    if disorder_ms is not None and disorder_ms > LONGEST_DISORDER_MS:
        raise UserError(f"--disorder {options.disorder} is too long; at most 31d are allowed")
    city = city_of(options.city or name)
    if city.id != name:
        raise UserError(f"--city is {city.id!r}, and the topic of --to is of city {name!r}")
    if kind == "files":
        return _files(options, target, city, stream)
    mapping = _mapping(options, kind)
    if mapping is not None:
        stream = _of(mapping.stream, stream_name)
        disorder_ms = mapping.disorder_ms if disorder_ms is None else disorder_ms
    format_ = Ndjson(stream) if mapping is None else JsonLinesFormat(mapping.foreign)
    source = options.sources[0]
    match kind:
        case "kafka":
            origin = kafka_options(source)
            if (origin.servers, origin.topic) == (target.servers, target.topic):
                raise UserError("--source and --to are the same topic")
            id_ = _id(options, origin.topic)
            open_ = _kafka(origin, stream, format_, clusters(origin), id_)
        case "mqtt":
            id_ = _id(options, "mqtt")
            try:
                from commands.ingest_mqtt import Subscribed
            except ModuleNotFoundError as error:
                raise UserError(
                    f"--source mqtt:// needs the package {error.name}; pip install 'citybrain[mqtt]'"
                ) from None
            subscribed = Subscribed(source, city.id, stream, format_, id_, options.data, clock)
            return Plan(city, stream, target, id_, kind, True, subscribed.opened, disorder_ms, close=subscribed.close)
        case "simulator":
            id_, open_ = _id(options, "simulator"), _simulator(city, stream, options.seed, clock)
        case _:
            from commands.ingest_push import Pushes

            id_ = _id(options, "push")
            pushes = Pushes(source, city.id, stream, id_, options.data, clock)
            return Plan(city, stream, target, id_, kind, True, pushes.opened, disorder_ms, pushes.joining, pushes.close)
    return Plan(city, stream, target, id_, kind, True, open_, disorder_ms)


def _files(options: Options, target: KafkaOptions, city: City, stream: Stream) -> Plan:
    paths = [Path(source.removeprefix("file://")) for source in options.sources]

    def read() -> Inputs:
        return resolve(
            paths, city=options.city or city.id, map_=options.map, stream=None if options.map else stream.name,
            lookup=None, disorder=options.disorder,
        )  # fmt: skip

    def open_(_: int) -> Opened:
        found = read()
        identity = replay_identity(found.attached, city.id, (), [str(options.map), str(options.city)])
        return Opened(tuple((one.source, 0) for one in found.attached), identity | {"run": "files"})

    inputs = read()
    declared, bound = _of(inputs.streams[0], stream.name), inputs.attached[0].input.disorder_ms
    return Plan(inputs.city, declared, target, _id(options, "files"), "files", False, open_, bound)


_ALLOWED: Final = (
    "kafka://HOST:PORT/TOPIC, mqtt://HOST:PORT/FILTER, http://HOST:PORT (where to listen for pushes) or simulator:"
)


def kind_of(source: str) -> str:
    scheme, colon, _ = source.partition(":")
    if scheme in ("kafka", "mqtt", "mqtts", "http", "simulator") and colon:
        return scheme.removesuffix("s")
    if "://" in source and scheme != "file":
        # Without what may be a secret.
        raise UserError(f"--source {scheme}:// is unknown; write a file, {_ALLOWED}")
    return "files"


def _id(options: Options, default: str) -> str:
    name = default if options.id is None else options.id
    if not NAME.fullmatch(name):
        raise UserError(f"--id {name[:80]!r} is no name; write 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def _of(stream: Stream, wanted: str) -> Stream:
    if stream.name != wanted:
        raise UserError(f"the mapping is of stream {stream.name!r}, and the topic of --to of stream {wanted!r}")
    return stream


def _mapping(options: Options, kind: str) -> FileMapping | None:
    if options.map is None:
        return None
    mapping = read_mapping(named(options.map, "maps", ".toml", "mapping"), data=None, lookup=None)
    if kind not in ("kafka", "mqtt") or mapping.format_name not in (None, "ndjson"):
        raise UserError("--map is for files, and for NDJSON messages of Kafka or MQTT topics")
    if mapping.order != "arrival":
        raise UserError(f'mapping {mapping.name!r} has order = "event_time", which needs whole files; leave it out')
    return mapping


def _kafka(
    origin: KafkaOptions, stream: Stream, format_: Format, cluster: Cluster, group: str
) -> Callable[[int], Opened]:
    from connectors.kafka import KafkaSource

    def open_(_: int) -> Opened:
        topic = cluster.topic(origin.topic)
        if topic is None:
            raise KafkaFailed(f"{origin.shown}: there is no such topic; is the name right?")
        made = [
            KafkaSource(
                origin, n, stream, format_, topic.id, group=f"citybrain-{group}", partitions=topic.partitions,
                said=cluster.connection.say,
            )
            for n in range(topic.partitions)
        ]  # fmt: skip
        return Opened(
            tuple((source, n) for n, source in enumerate(made)),
            {"run": "kafka", "topic": origin.topic, "topic_id": topic.id},
        )

    return open_


def _simulator(city: City, stream: Stream, seed: int, clock: Callable[[], int]) -> Callable[[int], Opened]:
    from connectors.simulator import GENERATORS
    from connectors.simulator_source import SimulatorSource

    if stream.name not in GENERATORS or not any(s.stream == "link" for s in city.sites):
        raise UserError(f"city {city.id!r} has no simulated stream {stream.name!r}; there are {', '.join(GENERATORS)}")

    def open_(start: int) -> Opened:
        return Opened(
            ((SimulatorSource(city, stream, start, clock, seed=seed), 0),), {"run": "simulator", "seed": seed}
        )

    return open_
