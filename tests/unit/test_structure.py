"""The shape of the code as data: which folder may import which, and which module alone wraps a heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pipelines", "connectors", "sinks", "dashboards", "commands", "tools", "benchmarks", "citybrain")
MAY_IMPORT: dict[str, set[str]] = {
    "pipelines": set(),
    "connectors": {"pipelines"},
    "sinks": {"pipelines"},
    "dashboards": {"pipelines", "sinks"},
    "commands": {"pipelines", "connectors", "sinks", "dashboards"},
}
WRAPPED = {
    "clickhouse_connect": {"sinks"},
    "chdb": {"sinks"},
    "fastapi": {"dashboards", "connectors"},
    "uvicorn": {"dashboards"},
    "confluent_kafka": {"pipelines", "connectors", "sinks"},
    "paho": {"connectors", "tools"},
    "prometheus_client": {"dashboards"},
    "pyarrow": {"connectors", "sinks"},
    "typer": {"citybrain", "tools"},
    "rich": {"commands"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def violations(may_import: dict[str, set[str]]) -> tuple[list[str], int]:
    wrong, checked = [], 0
    for folder, allowed in may_import.items():
        for path in (ROOT / folder).rglob("*.py"):
            checked += 1
            mine = imports(path)
            wrong += [f"{path.name}: {name}" for name in mine & set(FOLDERS) - allowed - {folder}]
            wrong += [f"{path.name}: {lib}" for lib, owners in WRAPPED.items() if lib in mine and folder not in owners]
    return wrong, checked


def test_arrows_point_at_pipelines() -> None:
    wrong, checked = violations(MAY_IMPORT)
    print(f"{checked} modules checked")
    assert checked > 60 and not wrong, wrong


def test_negative_control() -> None:
    wrong, _ = violations(MAY_IMPORT | {"connectors": set()})
    assert wrong, "forbidding what connectors import must be seen"


def test_no_dumping_ground() -> None:
    vague = {
        "core",
        "common",
        "util",
        "utils",
        "helper",
        "helpers",
        "manager",
        "managers",
        "base",
        "misc",
        "data",
        "info",
    }
    names = [p.stem for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.py")]
    assert len(names) > 60 and not vague & set(names)


def test_help_needs_no_heavy_library() -> None:
    """`citybrain --help` must answer at once: nothing heavy is imported before a command runs."""
    code = "import sys, citybrain; print(sorted({'polars', 'numpy', 'chdb', 'fastapi', 'pyarrow', 'pandas'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
