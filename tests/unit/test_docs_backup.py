"""Every command of `docs/backup.md`, run in the order in which it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from commands.inputs import city_of
from connectors.simulator_source import write_files
from pipelines import catalogue

ROOT = Path(__file__).resolve().parents[2]
T0 = 1_772_409_600_000


def run(command: str, folder: Path) -> str:
    first, *rest = shlex.split(command)
    words = [sys.executable, str(ROOT / "citybrain.py"), *rest] if first == "citybrain" else [first, *rest]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    streams = {s.name: s for s in catalogue.STREAMS if s.name in ("air", "case")}
    write_files(city_of("demo"), streams, T0, T0 + 1_800_000, tmp_path / "sim", 1)
    run("citybrain replay sim/air.ndjson sim/case.ndjson --store stores/demo --quiet", tmp_path)
    (tmp_path / "backups").mkdir()
    page = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", page, re.M | re.S))
    commands = re.findall(r"^\$ (.+)$", blocks, re.M)
    said = {command: run(command, tmp_path) for command in commands}
    print(f"{len(said)} commands of the page run")
    assert len(said) >= 9 and len([x for x in blocks.splitlines() if x]) == len(said), "nothing else is in a block"
    made = json.loads(said["citybrain backup backups/monday --store stores/demo"])
    assert made["city"] == "demo" and made["rows"]["readings"] > 0 and made["revision"] > 1 << 32
    for command in ("citybrain diff stores/demo stores/again", "citybrain diff out stores/again"):
        assert re.search(r"readings: [1-9]\d* compared, equal", said[command])
    assert (tmp_path / "elsewhere" / "demo" / "epoch").is_file()
    assert json.loads(said["citybrain export stores/demo out"])["city"] == "demo"
