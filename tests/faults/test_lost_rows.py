"""A store that lost rows is found at the start, and nothing goes on over the hole (rule 36)."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.crash import STREAMS
from tests.faults.processes import Replays, run

START, UNTIL = "2026-03-02T08:00:00+08:00", "2026-03-02T08:20:00+08:00"


def parts_of(store: Path, table: str) -> list[Path]:
    """Folders of the parts of a table that hold most rows, the largest first."""
    links = store / "data" / "default" / table
    root = links if links.exists() else next(p for p in store.glob(f"**/{table}") if p.is_dir())
    parts = [p for p in root.resolve().iterdir() if p.is_dir() and p.name[0].isdigit()]
    return sorted(parts, key=lambda p: sum(f.stat().st_size for f in p.iterdir()), reverse=True)


def test_a_part_that_is_gone_is_found_and_named(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    assert run(["citybrain", "simulate", sent, "--start", START, "--until", UNTIL]).code == 0
    town = Replays(tmp_path, tuple(sent / f"{name}.ndjson" for name in STREAMS), 5_000)
    calm = town.calm()
    killed = town.once("killed", failpoint="checkpoint_synced:6")
    assert killed.code == -9
    part = parts_of(tmp_path / "killed", "rows_link")[0]
    shutil.move(part, tmp_path / "aside")
    refused = town.once("killed")
    assert refused.code != 0 and "rows_link" in refused.err and "rows of month 202603" in refused.err, refused.err
    assert "were written: a part of it was lost" in refused.err and "--fresh" in refused.err
    shutil.move(tmp_path / "aside", part)
    wrong, counts = town.after("killed", calm)
    assert not wrong, wrong
    print(f"\nfound: {refused.err.strip().splitlines()[-1]}\nafterwards {dict(counts)} compared")
