"""The results file of the benchmarks, and the groups by which peers are compared."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmarks.peer_cases import GROUP, checked, sums
from benchmarks.results import Found, section, write
from benchmarks.table import Row

ORDER = ("replay", "flink", "peers")


def found(case: str, seconds: float, failed: str | None = None) -> Found:
    rows = [Row("by hand", "s", [1.0], 1.0), Row("product", "s", [seconds], 1 / seconds, 0.8)]
    return Found(case, "What it is.", [] if failed else rows, ["a remark"], failed, 3.0, "1,000 events", "a machine")


def test_a_run_replaces_its_sections(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write(path, [found("peers", 1.0), found("replay", 1.0)], ORDER)
    write(path, [found("peers", 2.0), found("flink", 1.0, "no broker")], ORDER)
    text = path.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [*ORDER]
    assert text.count("0.50 | >= 0.8 |  | NO |") == 1 and text.count("1.00 | >= 0.8 |  | yes |") == 1
    assert "**Failed**: no broker" in text
    before = text
    write(path, [found("peers", 2.0)], ORDER)
    assert path.read_text() == before


def test_a_section_says_which_bars_are_met() -> None:
    assert "product: bar met, 1 where >= 0.8 is asked" in section(found("flink", 1.0))
    assert "product: bar **missed**, 0.5 where >= 0.8 is asked" in section(found("flink", 2.0))


def test_groups_that_differ_are_seen() -> None:
    rows = [("L000001", 300_000, 2, 7, 900), ("L000002", 300_000, 1, 3, 500)]
    right = sums(pl.DataFrame(rows, GROUP, orient="row"))
    checked("the same", sums(pl.DataFrame(rows[::-1], GROUP, orient="row")), right)
    swapped = [("L000002", *rows[0][1:]), ("L000001", *rows[1][1:])]
    for other in (rows[:1], [*rows, ("L000003", 0, 1, 0, 0)], swapped):
        with pytest.raises(RuntimeError, match="found"):
            checked("another", sums(pl.DataFrame(other, GROUP, orient="row")), right)
