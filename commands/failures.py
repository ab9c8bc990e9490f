"""Which errors a user can cause (exit code 2), and which end a run that was asked for rightly (exit code 1)."""

from __future__ import annotations

from commands.inputs import UserError
from connectors.formats import FormatError
from connectors.mapping import MappingError
from connectors.mqtt_options import MqttFailed
from connectors.tokens import TokenError
from dashboards.serve import CannotServe
from pipelines.address_options import AddressError
from pipelines.catalogue import CatalogueError
from pipelines.delivery import TooFar
from pipelines.engines.flink_home import NoFlink
from pipelines.engines.flink_rest import FlinkError
from pipelines.engines.grouped_apart import JobFailed
from pipelines.engines.jars import JarError
from pipelines.engines.java import NoJava
from pipelines.epoch import DamagedEpoch
from pipelines.journal import CheckpointError
from pipelines.kafka_options import KafkaFailed
from pipelines.pack import PackError
from pipelines.spool import SpoolOwned
from pipelines.spool_segment import SpoolDamaged
from sinks.difference import NothingCompared
from sinks.errors import BackupRefused, PlaceTaken, StoreError, StoreOwned

WRONG = (
    UserError,
    MappingError,
    FormatError,
    PackError,
    CatalogueError,
    CannotServe,
    TooFar,
    NothingCompared,
    StoreOwned,
    SpoolOwned,
    AddressError,
    TokenError,
    BackupRefused,
    PlaceTaken,
    NoJava,
    FileNotFoundError,
    LookupError,
)
FAILED = (
    StoreError, DamagedEpoch, CheckpointError, SpoolDamaged, JobFailed, FlinkError, NoFlink, JarError, NoJava,
    KafkaFailed, MqttFailed, OSError,
)  # fmt: skip
