"""Readings equal a batch recomputation over all accepted events (rules 20, 32), and the comparison notices what is broken."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pipelines.windows
from commands.inputs import city_of
from pipelines import catalogue
from pipelines.indicator import Panes
from pipelines.methods import congestion
from pipelines.panes import PaneMemory
from pipelines.presence import Spans
from tests.oracle import broken
from tests.oracle.batch import everything
from tests.oracle.runs import RUNS, Missing, Prepared, run, simulated
from tests.oracle.silence import check_silence
from tests.oracle.versus import Verdict, compare

PRODUCT = {"pipelines", "connectors", "sinks", "dashboards", "commands", "citybrain"}


@pytest.mark.parametrize("name", RUNS)
def test_readings_equal_the_batch(name: str, tmp_path: Path) -> None:
    try:
        outcome = run(name, tmp_path, small=True)
    except Missing as missing:
        pytest.skip(str(missing))
    verdict = outcome.verdict
    print(verdict.report(name))
    assert verdict.compared > 0
    assert not verdict.wrong, verdict.report(name)
    assert verdict.counters["accepted"] > 0
    if name == "nasa":
        print(check_silence(outcome))


def test_the_batch_shares_no_code_with_the_product() -> None:
    read = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in ("broken", "test_oracle"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            read += len(names)
            assert not {n.partition(".")[0] for n in names} & PRODUCT, f"{path.name} imports the product"
    print(f"{read} imports read")
    assert read > 20


# ---------------------------------------------------------------- negative controls
@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two hours of the small city."""
    folder = tmp_path_factory.mktemp("hours")
    return simulated("harbour", "2026-03-28T22:00:00+00:00", "2026-03-29T00:00:00+00:00", folder)


Judge = Callable[..., Verdict]


@pytest.fixture
def judged(hours: Prepared) -> Judge:
    def judge(**how: Any) -> Verdict:
        files = [path for paths in hours.files.values() for path in paths]
        return compare(broken.readings(files, "harbour", **how), everything(hours.files, hours.read, hours.town))

    return judge


def test_the_unbroken_product_passes_in_this_process_too(judged: Judge) -> None:
    verdict = judged()
    print(verdict.report("unbroken"))
    assert verdict.compared > 1000
    assert not verdict.wrong


def test_a_dropped_late_row_is_noticed(judged: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    add = PaneMemory.add
    dropped: list[dict[str, Any]] = []

    def forgetful(memory: PaneMemory, rows: pl.DataFrame) -> pl.DataFrame:
        late = rows.filter(pl.col("late"))
        if not dropped and memory.rollup.name == "link" and len(late):
            lost = late.row(0, named=True)
            dropped.append(lost)
            rows = rows.filter(~(pl.col("late") & (pl.col("off") == lost["off"]) & (pl.col("part") == lost["part"])))
        return add(memory, rows)

    monkeypatch.setattr(PaneMemory, "add", forgetful)
    verdict = judged()
    assert len(dropped) == 1, "the run has no late row to drop"
    print(verdict.report("a late row dropped"))
    assert verdict.wrong["traffic.tti: samples"] == 3, "the link, its district and the city each miss one event"


def test_windows_shifted_by_a_pane_are_noticed(judged: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = pipelines.windows.spread

    def shifted(panes: pl.DataFrame, *rest: Any) -> pl.DataFrame:
        return spread(panes.with_columns(pl.col("pane_start") + 60_000), *rest)

    monkeypatch.setattr("pipelines.tables.spread", shifted)
    verdict = judged()
    print(verdict.report("shifted by a pane")[:300])
    assert verdict.wrong["http.error_ratio: samples"] > 100


def test_levels_merged_instead_of_reduced_are_noticed(judged: Judge) -> None:
    tpi = catalogue.indicator("traffic.tpi")
    assert isinstance(tpi.kind, Panes)
    merging = congestion.tpi(congestion.dtp(pl.col("time"), pl.col("free")))
    merged = replace(
        tpi, kind=replace(tpi.kind, partial=(), value=merging, reason=pl.lit(None, pl.String), reduce=False)
    )
    others = tuple(i if i.id != tpi.id else merged for i in catalogue.for_city(city_of("harbour")))
    verdict = judged(indicators=others)
    print(verdict.report("merged")[:300])
    assert verdict.wrong["traffic.tpi: value"] > 0
    assert not any(what.startswith("traffic.tti") for what in verdict.wrong)


@pytest.fixture
def strange(hours: Prepared, tmp_path: Path) -> Judge:
    """One record of 2000 comes first in each file, one of 2001 among the others; later four in a row are of 2027."""
    files: dict[str, list[Path]] = {}
    for name in ("air", "lvl"):
        lines = [json.loads(line) for line in hours.files[name][0].read_text().splitlines()]
        sample = next(x for x in lines if isinstance(x.get("t"), int))
        for at, year, many in ((0, 2000, 1), (len(lines) // 3, 2001, 1), (2 * len(lines) // 3, 2027, 4)):
            t = int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
            lines[at:at] = [sample | {"t": t + k} for k in range(many)]
        files[name] = [tmp_path / f"{name}.ndjson"]
        files[name][0].write_text("".join(json.dumps(x) + "\n" for x in lines))
    paths = [path for of_stream in files.values() for path in of_stream]
    return lambda **how: compare(broken.readings(paths, "harbour", **how), everything(files, hours.read, hours.town))


@pytest.mark.parametrize("commit_events", [10, 1_000_000])
def test_wrong_clocks_make_a_day_of_silence_not_decades(strange: Judge, commit_events: int) -> None:
    verdict = strange(commit_events=commit_events)
    print(verdict.report("wrong clocks"))
    assert verdict.compared > 10_000 and not verdict.wrong
    assert verdict.counters["late"] > 0


def test_a_silence_of_another_length_is_noticed(strange: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spans, "ends", lambda spans, first, last: last + spans.least_ms - 3_600_000)
    verdict = strange()
    print(verdict.report("asleep an hour early"))
    assert set(verdict.wrong) >= {"water.depth: missing cell"}, verdict.wrong
