"""The pages in which things are looked up: every command and option, every metric, the README's own commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from citybrain import app
from dashboards import metrics
from dashboards.job_metrics import JOB_METRICS
from tools import generate

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def undocumented(page: str) -> tuple[list[str], int]:
    """Commands, arguments and options of the program that a page does not show under their command; how many there are."""
    missing, looked = [], 0
    known = dict(get_command(app).commands)  # type: ignore[attr-defined]
    for name, group in list(known.items()):
        known |= {f"{name} {inner}": command for inner, command in getattr(group, "commands", {}).items()}
    for name, command in known.items():
        section = re.search(rf"^## citybrain {name}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
        shown = section[1] if section else ""
        for option in command.params:
            looked += 1
            missing += [f"{name} {o}" for o in option.opts if not re.search(rf"^  {o}(\.\.\.)?(?= |$)", shown, re.M)]
    return missing, looked


def test_every_command_and_option_is_on_the_page() -> None:
    missing, looked = undocumented(read("docs/commands.md"))
    print(f"{looked} options and arguments looked up")
    assert not missing and looked > 30


def test_every_metric_is_on_the_page_and_nothing_else() -> None:
    listed = set(re.findall(r"`(citybrain_\w+)`", read("docs/metrics.md")))
    print(f"{len(listed)} metrics looked up")
    assert listed == {*metrics.NAMES, *(m.name for m in JOB_METRICS)} and len(listed) > 15


def test_the_commands_of_the_readme_exist() -> None:
    """What stands in its code blocks: targets of the Makefile, commands and options of citybrain."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", read("README.md"), re.M | re.S))
    targets = re.findall(r"^make (\w+)", blocks, re.M)
    assert {"run", "test"} <= set(targets)
    assert not [t for t in targets if not re.search(rf"^{t}:", read("Makefile"), re.M)]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    typed = re.findall(r"citybrain (\w+)([^\n|]*)", "\n".join(x for x in blocks.splitlines() if x.startswith("$")))
    for name, rest in typed:
        known = {o for option in commands[name].params for o in option.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, (name, rest)
    print(f"{len(targets)} targets and {len(typed)} commands of the README looked up")
    assert len(typed) >= 2


def test_negative_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    page = read("docs/commands.md")
    assert undocumented(page.replace("--until", "--til"))[0] == [
        f"{name} --until" for name in ("up", "replay", "ingest", "simulate")
    ]
    assert undocumented(page.replace("## citybrain diff", "## citybrain"))[0] == ["diff a", "diff b"]
    monkeypatch.setitem(generate.FILES, "docs/metrics.md", lambda: "other")  # type: ignore[arg-type]
    assert generate.stale() == ["docs/metrics.md"]
