"""The toy stream of the golden vectors, as the product declares streams, and the generated cases."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.expr import Arith, Col
from pipelines.rollup import Measure, Rollup
from pipelines.streams import Int, Stream

VECTORS = Path(__file__).parent / "vectors"
RANDOM_CASES = 1000

DEMO = Stream(
    "demo",
    place="place",
    columns=(Int("value", "points", -1000, 100_000), Int("weight", "pieces", 0, 1000)),
    disorder_ms=60_000,
    period_ms=60_000,
    dedup=("id",),
    horizon_ms=3_600_000,
)
DEMO_ROLLUP = Rollup(
    "demo",
    DEMO,
    60_000,
    (Measure("vw", "sum", Arith("*", Col("value"), Col("weight"))), Measure("w", "sum", Col("weight"))),
)


@cache
def model() -> ModuleType:
    """The reference model of the semantics, imported from its file."""
    spec = importlib.util.spec_from_file_location("vectors_model", VECTORS / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden() -> list[tuple[str, dict[str, Any]]]:
    """The hand-written cases."""
    return [(path.stem, json.loads(path.read_text())) for path in sorted((VECTORS / "cases").glob("*.json"))]


@cache
def generated(n: int = RANDOM_CASES, first: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """Generated cases with what the model expects of them."""
    cases = ((seed, model().generate(seed)) for seed in range(first, first + n))
    return [(f"random {seed}", json.loads(json.dumps(case | {"expected": model().run(case)}))) for seed, case in cases]
