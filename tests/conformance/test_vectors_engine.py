"""Rules 13 to 16: the engine's rows and manifests equal the golden ones, whatever the cut of its blocks."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest

from pipelines.engines.polars_engine import PolarsEngine
from pipelines.model import NEVER, PlaceRegistry, Rows, Stamped
from tests.conformance.toy import DEMO_ROLLUP, generated, golden

Case = dict[str, Any]
SCHEMA = {"off": pl.Int64, "t": pl.Int64, "wm": pl.Int64, "late": pl.Boolean, "place": pl.UInt32}
SCHEMA |= {"value": pl.Int64, "weight": pl.Int64}


def blocks(case: Case, places: PlaceRegistry, rnd: random.Random, longest: int) -> list[Stamped]:
    """The expected log, cut into runs of one partition of at most `longest` events."""
    out: list[Stamped] = []
    run: list[dict[str, Any]] = []

    def flush() -> None:
        if run:
            events = pl.DataFrame(run, schema=SCHEMA | {"part": pl.String}, orient="row").drop("part")
            out.append(Stamped("demo", run[0]["part"], events, run[0]["off"], run[-1]["wm"]))
            run.clear()

    for record in case["expected"]["log"]:
        wm = NEVER if record["wm"] is None else record["wm"]
        if "t" not in record:
            flush()
            out.append(Stamped("demo", record["part"], None, record["off"], wm))
            continue
        if run and (run[0]["part"] != record["part"] or len(run) >= longest or rnd.random() < 0.03):
            flush()
        event = {k: record[k] for k in ("part", "off", "t", "late", "value", "weight")}
        run.append(event | {"wm": wm, "place": places.code(record["place"])})
    flush()
    return out


def compute(case: Case, rnd: random.Random, longest: int) -> tuple[list[Any], list[Any]]:
    places, config = PlaceRegistry(), case["config"]
    parts = {i["part"] for i in config.get("inputs", {"a": {"part": "p0"}}).values()}
    engine = PolarsEngine([DEMO_ROLLUP], parts)
    taken: list[Rows] = []
    for block in blocks(case, places, rnd, longest):
        engine.add(block)
        if rnd.random() < 0.2:
            taken += engine.take()
    if not config.get("live", False) and config.get("until_s") is None:
        taken += engine.finish()
    else:
        if not config.get("live", False):  # --until: time goes on in every partition
            for part in parts:
                engine.add(
                    Stamped(
                        "demo",
                        part,
                        None,
                        0,
                        NEVER if case["expected"]["watermark"] is None else case["expected"]["watermark"],
                    )
                )
        taken += engine.take()
    keys = ("place", "pane_start", "late", "part", "off", "n", "vw", "w", "as_of")
    rows = [{**{k: r[k] for k in keys}, "place": places.ids[r["place"]]} for x in taken for r in x.rows.to_dicts()]
    manifests = [m for x in taken for m in x.manifests.to_dicts()]
    assert [m["pane_start"] for m in manifests] == sorted(m["pane_start"] for m in manifests), "rule 15: pane order"
    return sorted(rows, key=lambda r: (r["place"], r["pane_start"], r["late"], r["part"], r["off"])), manifests


def compare(cases: list[tuple[str, Case]]) -> int:
    rnd, compared = random.Random(5), 0
    for name, case in cases:
        until = not case["config"].get("live", False) and case["config"].get("until_s") is not None
        rows, manifests = compute(case, rnd, rnd.choice([1, 7, 1000, 1000, 1000]))
        if not case.get("redelivered"):
            assert rows == case["expected"]["rows"], name
        if until:  # the closing time of --until is no record of the log, so it marks no pane
            manifests = [m for m in manifests if m["n"]]
        assert manifests == [m for m in case["expected"]["manifests"] if m["n"] or not until], name
        compared += len(rows)
    return compared


def test_golden_rows() -> None:
    cases = golden()
    compared = compare(cases)
    print(f"{len(cases)} golden cases, {compared} rows compared")
    assert len(cases) >= 46 and compared > 100


def test_generated_rows() -> None:
    cases = generated()
    compared = compare(cases)
    print(f"{len(cases)} generated cases, {compared} rows compared")
    assert len(cases) == 1000 and compared > 10_000


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pane that closes one too early must be seen."""
    original = PolarsEngine.watermark.fget
    assert original
    monkeypatch.setattr(PolarsEngine, "watermark", property(lambda self: original(self) + 60_000))
    with pytest.raises(AssertionError):
        compare(golden() + generated(100))
