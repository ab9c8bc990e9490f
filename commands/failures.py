"""Which errors a user can cause (exit code 2), and which end a run that was asked for rightly (exit code 1)."""

from __future__ import annotations

from commands.inputs import UserError
from connectors.formats import FormatError
from connectors.mapping import MappingError
from dashboards.serve import CannotServe
from pipelines.catalogue import CatalogueError
from pipelines.delivery import DamagedEpoch, TooFar
from pipelines.pack import PackError
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
    BackupRefused,
    PlaceTaken,
    FileNotFoundError,
    LookupError,
)
FAILED = (StoreError, DamagedEpoch, OSError)
