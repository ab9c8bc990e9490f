"""Every command of `docs/operations.md`, run in the order in which it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.unit.test_docs_backup import ROOT, run


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", page, re.M | re.S))
    commands = re.findall(r"^\$ (.+)$", blocks, re.M)
    said = [run(command, tmp_path) for command in commands]
    print(f"{len(said)} commands of the page run")
    assert len(said) >= 6 and len([x for x in blocks.splitlines() if x]) == len(said), "nothing else is in a block"
    first, again, fresh = (json.loads(x) for command, x in zip(commands, said, strict=True) if " replay " in command)
    counted = ("received", "accepted", "late", "readings", "episodes")
    assert [again[n] for n in counted] == [first[n] for n in counted] == [fresh[n] for n in counted]
    assert again["events_per_s"] == 0 and first["readings"] > 1000, "a finished replay reads nothing"
    assert not any(line.startswith("FAIL") for line in said[-1].splitlines())


def test_what_is_named_exists() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(linked) >= 5 and not [x for x in linked if not (ROOT / "docs" / x).exists()]
    targets = re.findall(r"`make ([\w-]+)", page)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets and not [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)]
