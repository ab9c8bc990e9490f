"""The engines that `--engine` names: whether this machine has what one needs, and the job that groups with it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from commands.inputs import UserError
from pipelines.engines.grouped_apart import GroupedApart, Runner

EMBEDDED: Final = "polars"
ENGINES: Final = (EMBEDDED, "flink", "beam")
NEEDS: Final = {"flink": ("pyflink", "PyFlink"), "beam": ("apache_beam", "Apache Beam")}
"""The package that an engine imports, and what it is called."""


def refuse_missing(engine: str) -> None:
    """Whether that engine can run here, before anything is read."""
    if engine not in ENGINES:
        raise UserError(f"--engine {engine!r} is unknown; there are {', '.join(ENGINES)}")
    if engine == EMBEDDED:
        return
    package, named = NEEDS[engine]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--engine {engine} needs {named}, which is not installed: pip install 'citybrain[{engine}]' -c "
            f"constraints-engines.txt, with Python 3.11 or 3.12 (this is {sys.version_info.major}.{sys.version_info.minor})"
        )
    if engine == "flink":
        from pipelines.engines.java import java_home

        java_home()


def runner(engine: str) -> Runner:
    if engine == "flink":
        from pipelines.engines.flink_local import FLINK

        return FLINK
    from pipelines.engines.beam_local import BEAM

    return BEAM


@contextmanager
def grouping(engine: str, told: Callable[[str], None]) -> Iterator[GroupedApart | None]:
    """The job of a run; None for the engine in this process."""
    if engine == EMBEDDED:
        yield None
        return
    with GroupedApart(runner(engine), told) as apart:
        yield apart
