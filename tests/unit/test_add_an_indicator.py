"""The tutorial of `docs/add-an-indicator.md`, done as it says: one new file in a copy of the catalogue, and a replay."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-an-indicator.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "docs" / "examples" / "payment.py").read_text(encoding="utf-8")
PRINTED = re.compile(r"│ (payment\.\w+) +┆ ([\d :-]+) UTC ┆ (null|[\d.]+) +┆ (\d+) +┆ (\d+) +┆ (\w+) +│")


def block(language: str) -> str:
    """The first code block of that language on the page."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    assert found, f"the page has no block of {language}"
    return found[1]


def project(folder: Path, file: str = EXAMPLE) -> Path:
    """A copy of `pipelines` with the tutorial's file in its catalogue; the rest is the project's own."""
    shutil.copytree(ROOT / "pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pipelines" / "catalogue" / "payment.py").write_text(file, encoding="utf-8")
    (folder / "pay.ndjson").write_text(block("json"), encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "citybrain", *arguments],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{ROOT}", "HOME": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


def readings(folder: Path) -> list[tuple[object, ...]]:
    done = run(folder, "replay", "pay.ndjson", "--out", "out", "--quiet")
    assert done.returncode == 0, done.stderr
    at = pl.col("window_end").dt.strftime("%Y-%m-%d %H:%M:%S")
    frame = pl.read_parquet(folder / "out" / "readings.parquet").sort("indicator", "window_end", "place_kind")
    return frame.select("place_kind", "indicator", at, "value", "num", "den", "state").rows()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("tutorial"))


def test_the_page_shows_the_file() -> None:
    assert block("python") == EXAMPLE
    assert block("json").count("\n") == 5


def test_one_file_gives_the_readings_that_the_page_shows(finished: Path) -> None:
    shown = [
        (name, at, None if value == "null" else float(value), int(num), int(den), state)
        for name, at, value, num, den, state in PRINTED.findall(PAGE)
    ]
    found = readings(finished)
    assert [row[1:] for row in found if row[0] == "site"] == shown
    by_level = {kind: [row[1:] for row in found if row[0] == kind] for kind in ("site", "district", "city")}
    assert by_level["site"] == by_level["district"] == by_level["city"]
    assert ("city", "payment.success", "2026-03-02 00:03:00", 60.0, 3, 5, "ok") in found
    assert ("city", "payment.system_error", "2026-03-02 00:03:00", 20.0, 1, 5, "ok") in found
    print(f"{len(found)} readings of two new indicators, {len(shown)} of them as on the page")
    assert len(shown) == 6 and len(found) == 18


def test_explain_and_check_know_it(finished: Path) -> None:
    explained = run(finished, "explain", "payment.success", "--url", "http://127.0.0.1:9")
    said = PAGE.split("$ .venv/bin/citybrain explain payment.success\n")[1].split("\n\nnow:")[0]
    assert explained.stdout.startswith(said), explained.stderr
    assert "every worked case holds" in run(finished, "check", "--map", "stl_csb").stdout


def test_a_mapping_and_a_pack_may_name_the_new_stream(finished: Path) -> None:
    (finished / "pay.toml").write_text(
        'stream = "pay"\nsource = "a gateway"\nformat = "csv"\n[time]\ncolumn = "at"\nzone = "Asia/Shanghai"\n'
        '[place]\ncolumn = "line"\n[fields]\ntxn = { column = "id" }\n'
        'outcome = { column = "code", values = { "0" = "ok", "51" = "user_error", "96" = "system_error" } }\n'
    )
    (finished / "pay.csv").write_text(
        "id,line,at,code\na1,clinic,2026-03-02 08:00:05,0\na2,clinic,2026-03-02 08:00:06,7\n"
    )
    shutil.copytree(ROOT / "cities" / "harbour", finished / "harbour")
    with (finished / "harbour" / "places.csv").open("a") as file:
        file.write("pay,clinic,,hill,,,,,\n")
    done = run(
        finished, "replay", "pay.csv", "--map", "./pay.toml", "--city", "./harbour", "--out", "mapped", "--quiet"
    )
    assert '"received":2,"accepted":1,"duplicate":0,"rejected":1,' in done.stdout, done.stderr
    places = pl.read_parquet(finished / "mapped" / "readings.parquet")["place"].unique().sort().to_list()
    assert places == ["city", "clinic", "hill"]
    assert "mapping pay: 1 pay events at 1 places" in run(finished, "profile", "pay.csv", "--map", "./pay.toml").stdout


def test_negative_control_a_wrong_measure_changes_the_readings(tmp_path: Path, finished: Path) -> None:
    wrong = EXAMPLE.replace('Const("ok")', 'Const("user_error")')
    assert wrong != EXAMPLE
    assert readings(project(tmp_path, wrong)) != readings(finished)


def test_a_worked_case_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    done = run(project(tmp_path, EXAMPLE.replace("Case(WORKED, 98.0", "Case(WORKED, 97.0")), "check")
    assert done.returncode != 0
    assert "indicator 'payment.success': its worked case gives 98.0, not 97.0" in done.stderr
