"""`benchmarks/RESULTS.md`: what the last run of each case found, on which machine. A run replaces the sections of its cases."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.table import HEAD, Row

HEADER: Final = """# Results

Written by `python -m benchmarks` (`make bench`), a section a case; run again, a case replaces its own. What the cases are is in
[docs/benchmarks.md](../docs/benchmarks.md), what the peers are in [README.md](README.md). `ratio`: how many times as fast as the
reference of the case (1.00), unless said otherwise.
"""
SECTION: Final = re.compile(r"^## (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Found:
    """What a case gave."""

    case: str
    what: str
    rows: Sequence[Row]
    remarks: Sequence[str]
    failed: str | None = None
    took_s: float = 0.0
    how: str = ""
    """Sizes and rounds of the run."""
    machine: str = field(default_factory=lambda: machine())


def machine() -> str:
    """Processor, cores, memory, load and versions; nothing that names the machine."""
    named = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    parts = [
        named[1] if named else platform.processor() or platform.machine(),
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        f"{int(memory[1]) / (1 << 20):.0f} GiB" if memory else "memory unknown",
        f"{platform.system()} {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in ("polars", "chdb", "numba")),
        f"load {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(parts)


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def section(found: Found) -> str:
    """A case as Markdown: what it is, its table, which bars were met, its remarks."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    out = [f"## {found.case}", "", found.what, "", f"{when}; {found.machine}; {found.how}; {found.took_s:.0f} s.", ""]
    if found.rows:
        lines = [HEAD, *(row.cells() for row in found.rows)]
        out += ["| " + " | ".join(line) + " |" for line in lines]
        out.insert(len(out) - len(found.rows), "|---|---|" + "--:|" * (len(HEAD) - 2))
        out.append("")
        for row in found.rows:
            if row.met is not None:
                sign = ">=" if row.bar == "at least" else "<="
                verdict = "met" if row.met else "**missed**"
                out.append(f"- {row.case}: bar {verdict}, {row.figure:,.4g} where {sign} {row.required:,.4g} is asked.")
    out += [f"- {remark}" for remark in found.remarks]
    out += [f"- **Failed**: {found.failed}"] if found.failed else []
    return "\n".join(out).rstrip() + "\n"


def merged(text: str, found: Mapping[str, str], order: Sequence[str]) -> str:
    """The file with these sections replaced or added, in the order of the cases; those of cases that are no more go."""
    parts = SECTION.split(text)
    kept = {name: f"## {name}\n\n{body.strip()}\n" for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    kept |= found
    return "\n".join([HEADER, *(kept[name] for name in order if name in kept)])


def write(path: Path, found: Sequence[Found], order: Sequence[str]) -> None:
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(merged(before, {one.case: section(one) for one in found}, order), encoding="utf-8")
