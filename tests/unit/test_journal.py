"""The checkpoint on disk: what was written is read, whatever is cut off or damaged is named, and nothing follows half a
record (rules 35, 36)."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checkpoint_record import decoded
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.expr import Col
from pipelines.journal import CheckpointError, Journal, recover
from pipelines.model import Stamped
from pipelines.rollup import Measure, Rollup
from pipelines.streams import LINK, MINUTE_MS

FRAME = pl.DataFrame({"place": ["a", "东"], "n": [1, None]}, schema={"place": pl.String, "n": pl.Int64})


def run(step: int) -> dict[str, Any]:
    return {"step": step}


def written(folder: Path, steps: int, **how: Any) -> Journal:
    """A base and so many steps, each with its plan, as delivery writes them."""
    book = Journal(folder, fsync=False, **how)
    book.begin({"run": run(0), "kept": [1, 2.5, None, "x"], "gone": 1})
    for step in range(1, steps + 1):
        book.plan({"step": step, "beats": [["tick", step]]})
        book.step({"run": run(step), f"chunk/{step}": np.arange(step)}, ["gone"])
    book.close()
    return book


def test_arrays_frames_and_plain_data_come_back(tmp_path: Path) -> None:
    parts = {
        "run": run(0),
        "wide": np.array([[1, -(10**18)], [3, 4]]),
        "ids": np.array([2**64 - 1], dtype=np.uint64),
        "frame": FRAME,
        "nested": {"list": [FRAME, {"deep": np.array([], dtype=np.float64)}], "text": "街"},
        "empty": FRAME.clear(),
    }
    Journal(tmp_path).begin(parts)
    found = recover(tmp_path)
    assert found is not None and found.plans == [] and found.notes == []
    assert np.array_equal(found.parts["wide"], parts["wide"]) and found.parts["ids"].dtype == np.uint64
    assert found.parts["frame"].equals(FRAME) and found.parts["nested"]["list"][0].equals(FRAME)
    assert found.parts["empty"].schema == FRAME.schema and found.parts["nested"]["text"] == "街"
    assert found.parts["nested"]["list"][1]["deep"].shape == (0,)


def test_what_a_checkpoint_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot hold|not JSON"):
        Journal(tmp_path).begin({"run": run(0), "bad": {1, 2}})
    assert recover(tmp_path) is None


def test_steps_change_and_remove_parts(tmp_path: Path) -> None:
    written(tmp_path, 3)
    found = recover(tmp_path)
    assert found is not None and found.parts["run"] == run(3) and "gone" not in found.parts
    assert sorted(found.parts) == ["chunk/1", "chunk/2", "chunk/3", "kept", "run"] and found.plans == []


@settings(deadline=None, max_examples=60)
@given(cut=st.floats(0, 1), steps=st.integers(1, 4))
def test_a_cut_at_any_byte_is_the_step_before(cut: float, steps: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The step that was cut off is done again by its plan."""
    folder = tmp_path_factory.mktemp("cut")
    written(folder, steps)
    path = folder / "checkpoint-1"
    whole = path.read_bytes()
    base = decoded(whole, whole.index(b"\n") + 1)
    assert base is not None
    size = base[1] + int(cut * (len(whole) - base[1]))
    path.write_bytes(whole[:size])
    found = recover(folder)
    assert found is not None and found.notes == []
    done = found.parts["run"]["step"]
    assert [p["step"] for p in found.plans] == list(range(done + 1, steps + 1))
    assert done == steps or size < len(whole)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """No damaged record is believed: the state is that of a step before, or the file is refused."""
    written(tmp_path, 2)
    path = tmp_path / "checkpoint-1"
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    base = decoded(whole, start)
    assert base is not None
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        if at < base[1]:
            with pytest.raises(CheckpointError, match=r"checkpoint-1.*(damaged|newer)"):
                recover(tmp_path)
        else:
            found = recover(tmp_path)
            assert found is not None and found.parts["run"]["step"] < 2
            assert found.plans[-1]["step"] == 2


def test_damage_before_the_end_is_told(tmp_path: Path) -> None:
    written(tmp_path, 3)
    path = tmp_path / "checkpoint-1"
    whole = bytearray(path.read_bytes())
    whole[whole.index(b'"step":1') + 7] = ord("7")
    path.write_bytes(whole)
    found = recover(tmp_path)
    assert found is not None and found.parts["run"] == run(0) and len(found.plans) == 3
    assert "checkpoint-1 is damaged at byte" in found.notes[0]


def test_a_checkpoint_that_was_cut_short_is_told(tmp_path: Path) -> None:
    """Half a record more or less is what a crash leaves; steps that are missing are not."""
    written(tmp_path, 40)
    path = tmp_path / "checkpoint-1"
    whole = path.read_bytes()
    for share, told in ((0.99, 0), (0.3, 1)):
        path.write_bytes(whole[: int(share * len(whole))])
        found = recover(tmp_path)
        assert found is not None and len(found.notes) == told, found
    assert "checkpoint-1 ends with step" in found.notes[0] and "cut short" in found.notes[0]


def test_a_damaged_base_is_the_generation_before_and_all_plans(tmp_path: Path) -> None:
    written(tmp_path, 2)
    book = Journal(tmp_path, fsync=False)
    book.begin({"run": run(2)})
    for step in (3, 4):
        book.plan({"step": step})
        book.step({"run": run(step)}, [])
    book.close()
    path = tmp_path / "checkpoint-2"
    path.write_bytes(path.read_bytes()[:30])
    found = recover(tmp_path)
    assert found is not None and found.parts["run"] == run(2) and [p["step"] for p in found.plans] == [3, 4]
    assert "checkpoint-2" in found.notes[0]
    (tmp_path / "checkpoint-1").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used.*--fresh"):
        recover(tmp_path)


def test_two_generations_are_kept(tmp_path: Path) -> None:
    for _ in range(4):
        written(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4", "plans-3", "plans-4"]


def test_a_long_checkpoint_is_followed_by_a_new_one(tmp_path: Path) -> None:
    book = Journal(tmp_path, fsync=False, long_bytes=10_000)
    book.begin({"run": run(0), "base": "x" * 1000})
    assert not book.long
    while not book.long:
        book.step({"run": run(1), "more": "y" * 500}, [])
    assert 10_000 < (tmp_path / "checkpoint-1").stat().st_size < 12_000


def test_a_plan_that_was_cut_off_had_no_effect_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 1)
    book = Journal(tmp_path, fsync=False)
    book.begin({"run": run(1)}, [{"step": 2}])
    book.plan({"step": 3})
    book.close()
    path = tmp_path / "plans-2"
    whole = path.read_bytes()
    for size in range(whole.index(b"\n") + 1, len(whole) - 1):  # with the last byte all but its line break is there
        path.write_bytes(whole[:size])
        found = recover(tmp_path)
        assert found is not None and [p["step"] for p in found.plans] == [2]
    path.write_bytes(whole.replace(b'"step":2', b'"step":5'))
    with pytest.raises(CheckpointError, match=r"plans-2, line 1 is damaged.*--fresh"):
        recover(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 1)
    path = tmp_path / "checkpoint-1"
    path.write_bytes(path.read_bytes().replace(b"checkpoint 2\n", b"checkpoint 9\n", 1))
    with pytest.raises(CheckpointError, match=r"newer citybrain \(format 9, this one reads up to 2\)"):
        recover(tmp_path)


def test_a_full_disk_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a record is taken back, so that the next one, once there is room, is read."""
    book = Journal(tmp_path, fsync=False)
    book.begin({"run": run(0)})
    real = os.fsync
    assert book._state is not None
    book.fsync = True

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: book.plan({"step": 1}), lambda: book.step({"run": run(1)}, [])):
        with pytest.raises(OSError, match="No space left"):
            write()
    monkeypatch.setattr(os, "fsync", real)
    book.plan({"step": 1, "again": True})
    book.step({"run": run(1), "room": True}, [])
    found = recover(tmp_path)
    assert found is not None and found.parts == {"run": run(1), "room": True} and found.plans == []


def test_an_older_format_is_named(tmp_path: Path) -> None:
    written(tmp_path, 1)
    path = tmp_path / "checkpoint-1"
    path.write_bytes(path.read_bytes().replace(b"checkpoint 2\n", b"checkpoint 1\n", 1))
    with pytest.raises(CheckpointError, match=r"older citybrain \(format 1, this one reads 2\)"):
        recover(tmp_path)


def test_every_type_of_column_comes_back(tmp_path: Path) -> None:
    frames = {
        "numbers": pl.DataFrame(
            {"i": [1, -(1 << 62)], "u": pl.Series([0, 1 << 63], dtype=pl.UInt64), "f": [math.inf, -0.0]}
        ),
        "nulls": pl.DataFrame(
            {"i": [None, 1 << 62], "u": pl.Series([7, None], dtype=pl.UInt32), "f": [None, math.nan]}
        ),
        "texts": pl.DataFrame(
            {"s": ['a"\n', "东"], "b": [True, None], "none": pl.Series([None, None], dtype=pl.String)}
        ),
        "others": pl.DataFrame(
            {"c": pl.Series(["x", "y"], dtype=pl.Categorical), "d": pl.Series([1, 2], dtype=pl.Datetime)}
        ),
        "empty": FRAME.clear(),
        "chunks": pl.concat([FRAME, FRAME[1:]], rechunk=False),
        "nothing": pl.DataFrame(),
    }
    book = Journal(tmp_path, fsync=False)
    book.begin({"run": run(0), **frames, "deep": {"in": [[frames["numbers"], np.arange(3)], frames["nulls"]]}})
    found = recover(tmp_path)
    assert found is not None
    for name, frame in frames.items():
        assert found.parts[name].schema == frame.schema and found.parts[name].equals(frame), name
    (numbers, array), nulls = found.parts["deep"]["in"]
    assert numbers.equals(frames["numbers"]) and nulls.equals(frames["nulls"]) and array.tolist() == [0, 1, 2]
    assert math.copysign(1, found.parts["numbers"]["f"][1]) < 0


def test_each_step_is_told_with_its_number_and_what_it_took(tmp_path: Path) -> None:
    book, told = Journal(tmp_path, fsync=False), list[tuple[int, float]]()
    book.told = lambda step, seconds: told.append((step, seconds))
    book.begin({"run": run(4)})
    book.plan({"step": 5})
    book.step({"run": run(5)}, [])
    assert [step for step, _ in told] == [4, 5] and all(0 < seconds < 5 for _, seconds in told)
    assert book.size == (tmp_path / "checkpoint-1").stat().st_size


def test_open_panes_are_written_as_what_came_and_whole_once_in_a_while() -> None:
    """At whatever step the state is loaded, it has the open panes of the engine that went on, in few parts."""
    rollup = Rollup("r", LINK, MINUTE_MS, (Measure("tt", "sum", Col("tt_ms")), Measure("least", "min", Col("tt_ms"))))
    dice = np.random.default_rng(1)
    engine, parts, at, compared, parts_most = PolarsEngine([rollup], ["p"]), dict[str, Any](), 0, 0, 0
    for step in range(150):
        if dice.random() < 0.8:
            t = at + dice.integers(0, 9_000, 20)
            at = int(t.max())
            events = pl.DataFrame(
                {"t": t, "place": dice.integers(0, 5, 20).astype(np.uint32), "tt_ms": dice.integers(1, 99, 20)}
            ).with_columns(pl.lit(False).alias("late"), pl.Series("off", range(20)))
            engine.add(Stamped("link", "p", events, at - 9_000, at - 9_000))
        engine.take()
        for name, part in engine.saved(whole=step in (0, 90)).items():
            if part is None:
                parts.pop(name)
            else:
                parts[name] = part
        parts_most = max(parts_most, len(parts))
        other = PolarsEngine([rollup], ["p"])
        other.load(parts)
        mine, its = (rows.open_panes()[0].rows.sort("place", "pane_start") for rows in (engine, other))
        assert mine.equals(its) and engine.closed() == other.closed()
        compared += len(mine)
        parts = {} | parts if step != 89 else {}  # a new generation begins with a base
    print(f"{compared} rows compared, at most {parts_most} parts")
    assert compared > 500 and parts_most < 40
