"""Rule 32: what `difference` must see, and what it must not."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from pipelines.expr import Col
from pipelines.model import EPISODES_SCHEMA, READINGS_SCHEMA
from pipelines.rollup import Measure, Rollup
from pipelines.streams import DAY_MS, LINK
from sinks import difference as module
from sinks.difference import (
    NothingCompared,
    compare_episodes,
    compare_readings,
    compare_rows,
    difference,
)
from sinks.export import export
from sinks.memory import MemorySink

SPEED = Rollup("speed", LINK, 60_000, (Measure("tt", "sum", Col("tt_ms")), Measure("low", "min", Col("n"))))
T = 1_772_323_200_000


def readings(n: int = 6) -> pl.DataFrame:
    rows = [
        [f"i{i % 2}", "m1", "link", f"L{i}", T, T + 60_000, 0.1 * i, "u", "ok", 0.5, i, i, None, "{}", T + i, 1]
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema=READINGS_SCHEMA, orient="row")


def rows() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "place": ["L1", "L2", "L1"], "pane_start": [T, T, T + DAY_MS], "tt": [1, 2, 3], "low": [None, 5, 6],
            "n": [1, 1, 1], "as_of": [T, T, T], "late": [False, False, True], "part": ["", "", "p"],
            "off": [-1, -1, 7], "step": [1, 1, 1],
        }
    )  # fmt: skip


def episodes() -> pl.DataFrame:
    rows = [[f"e{i}", "jam", 1, "i0", "link", "L1", "III", "ended", T, T + i, 1.0, 2.0, "", 1] for i in range(3)]
    return pl.DataFrame(rows, schema=EPISODES_SCHEMA, orient="row")


def output(folder: Path, **changed: pl.DataFrame) -> Path:
    store = MemorySink((SPEED,))
    letter = {
        "source": "f",
        "position": "3",
        "stream": "link",
        "reason": "bad",
        "detail": "d",
        "payload": "é\n",
        "seen_at": T,
    }
    frames = {
        "readings": readings(),
        "rows_speed": rows(),
        "episodes": episodes(),
        "dead_letters": pl.DataFrame([letter]),
    }
    for table, frame in (frames | changed).items():
        store.write(table, frame)
    export(store, folder)
    return folder


def first(frame: pl.DataFrame, **values: object) -> pl.DataFrame:
    """The frame with the columns of its first row replaced."""
    top = pl.int_range(pl.len()) == 0
    return frame.with_columns(
        [pl.when(top).then(pl.lit(v, frame.schema[k])).otherwise(pl.col(k)).alias(k) for k, v in values.items()]
    )


NEVER_COMPARED: tuple[tuple[str, pl.DataFrame], ...] = (
    ("readings", readings().with_columns(revision=pl.lit(99, pl.Int64))),
    ("readings", first(readings(), value=math.nextafter(0.0, 1.0))),
    ("readings", readings().sample(fraction=1.0, shuffle=True, seed=1)),
    ("rows_speed", rows().with_columns(step=pl.lit(99, pl.Int64))),
    ("episodes", episodes().with_columns(revision=pl.lit(9, pl.Int64), detail=pl.lit("x"), last_value=pl.lit(7.0))),
    ("episodes", pl.concat([episodes(), first(episodes(), episode_id="gone", state="retracted").head(1)])),
)


@pytest.mark.parametrize("number", range(len(NEVER_COMPARED)))
def test_what_may_differ_is_not_seen(tmp_path: Path, number: int) -> None:
    table, frame = NEVER_COMPARED[number]
    found = difference(output(tmp_path / "a"), output(tmp_path / "b", **{table: frame}))
    assert found.equal, str(found)
    assert found.compared == 6 + 3 + 3 + 1
    assert not found


SEEN: tuple[tuple[str, str, pl.DataFrame], ...] = (
    *(
        ("readings", column, first(readings(), **{column: value}))
        for column, value in {
            "value": math.nextafter(math.nextafter(0.0, 1.0), 1.0), "num": 7, "den": 1, "samples": 9,
            "state": "degraded", "completeness": 0.5001, "as_of": T - 1, "detail": "{ }", "unit": "v",
        }.items()
    ),
    ("readings", "value", first(readings(), value=None)),
    ("readings", "", readings().tail(5)),
    ("readings", "", pl.concat([readings(), first(readings(), place="new").head(1)])),
    ("readings", "", first(readings(), window_end=T + 60_001)),
    *(
        ("rows_speed", c, first(rows(), **{c: v}))
        for c, v in {"tt": 8, "low": 0, "n": 2, "as_of": T + 1, "late": True}.items()
    ),
    ("rows_speed", "", first(rows(), off=3)),
    *(
        ("episodes", c, first(episodes(), **{c: v}))
        for c, v in {"level": "I", "state": "firing", "started_at": T - 1, "ended_at": None}.items()
    ),
    ("episodes", "", first(episodes(), state="retracted")),
)  # fmt: skip


def test_every_difference_is_seen_and_named(tmp_path: Path) -> None:
    """Negative controls: each of these changes must be found, in its table and column."""
    a = output(tmp_path / "a")
    for number, (table, column, frame) in enumerate(SEEN):
        found = difference(a, output(tmp_path / str(number), **{table: frame}))
        assert not found.equal, (table, column)
        hits = [m for t in found.tables for m in t.first]
        assert {(m.table, m.column) for m in hits} == {(table, column)}
        assert all(m.a != m.b for m in hits)
        assert str(hits[0].key[-1]) in str(found)
        back = difference(tmp_path / str(number), a)
        assert [(t.only_a, t.only_b, t.different) for t in back.tables] == [
            (t.only_b, t.only_a, t.different) for t in found.tables
        ]
    print(f"changes made and found: {len(SEEN)}")
    assert len(SEEN) > 20


def test_negative_control_a_blind_comparison_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the values taken out of the rule the changed output passes: it is the rule that finds it."""
    a, b = output(tmp_path / "a"), output(tmp_path / "b", readings=first(readings(), num=7))
    assert difference(a, b)
    monkeypatch.setattr(
        module, "READINGS", module.Rule(module.READING_KEY, ("unit",), outer="indicator", time="window_start")
    )
    assert not difference(a, b)


def test_nothing_compared_is_an_error(tmp_path: Path) -> None:
    empty = {"readings": readings().head(0), "rows_speed": rows().head(0)}
    with pytest.raises(NothingCompared, match="nothing was compared"):
        difference(output(tmp_path / "a", **empty), output(tmp_path / "b", **empty))
    with pytest.raises(NothingCompared):
        compare_readings(readings().head(0), readings().head(0))
    with pytest.raises(NothingCompared, match="3 only in A"):
        compare_rows("speed", rows(), rows().head(0))
    with pytest.raises(FileNotFoundError, match=r"nowhere is no output"):
        difference(tmp_path / "a", tmp_path / "nowhere")


def test_a_key_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="newest revisions"):
        compare_readings(pl.concat([readings(), readings()]), readings())


def test_the_file_of_a_rollup_on_one_side_only(tmp_path: Path) -> None:
    a, b = output(tmp_path / "a"), output(tmp_path / "b")
    (b / "rows" / "speed.parquet").unlink()
    found = difference(a, b)
    assert [(t.table, t.only_a) for t in found.tables if not t.equal] == [("rows_speed", 3)]


def test_frames_compare_as_files_do() -> None:
    assert compare_readings(readings(), readings().cast({pl.String: pl.Categorical})) == []
    assert compare_rows("speed", rows(), rows()) == []
    assert compare_episodes(episodes(), episodes()) == []
    (found,) = compare_readings(readings(), first(readings(), num=7))
    assert (found.table, found.column, found.a, found.b) == ("readings", "num", 0, 7)
    assert found.key == ("i0", "m1", "link", "L0", T, T + 60_000)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1.0, math.nextafter(1.0, 2), True),
        (1.0, math.nextafter(1.0, 0), True),
        (1.0, 1.0 + 2 * math.ulp(1.0), False),
        (0.0, -0.0, True),
        (0.0, -5e-324, True),
        (5e-324, -5e-324, False),
        (1.7976931348623157e308, -1.7976931348623157e308, False),
        (None, None, True),
        (None, 0.0, False),
        (0.0, None, False),
    ],
)
def test_one_unit_in_the_last_place(a: float | None, b: float | None, equal: bool) -> None:
    both = [first(readings(1), value=v) for v in (a, b)]
    assert (compare_readings(*both) == []) is equal


def test_only_the_first_differences_are_listed(tmp_path: Path) -> None:
    a, b = readings(500), readings(500).with_columns(num=pl.lit(-1, pl.Int64))
    assert len(compare_readings(a, b, first=7)) == 7
    found = difference(output(tmp_path / "a", readings=a), output(tmp_path / "b", readings=b), first=3)
    assert [t.different for t in found.tables if t.table == "readings"] == [500]
    assert len(str(found).splitlines()) == len(found.tables) + 3
