"""The documentation against the code: generated pages are fresh, links lead somewhere, each rule names what holds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools import generate

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
TO_BE_MADE = {"pipelines/catalogue/payment.py"}
"""What the reader of a page makes."""
RULE = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.M)


def broken_links(page: Path, text: str) -> list[str]:
    targets = [t.partition("#")[0] for t in LINK.findall(FENCED.sub("", text)) if not t.startswith(("http", "#"))]
    return [f"{page.name}: {t}" for t in targets if not (page.parent / t).exists()]


def missing_paths(page: Path, text: str) -> list[str]:
    """Files of the project that a page names in code and that are not there."""
    named = [
        c for c in CODE.findall(FENCED.sub("", text)) if re.fullmatch(r"(pipelines|connectors|sinks|dashboards)/\S+", c)
    ]
    return [f"{page.name}: {name}" for name in named if name not in TO_BE_MADE and not any(ROOT.glob(name))]


def untrue(semantics: str) -> tuple[list[str], int]:
    """What the table of rules names and does not exist, and how many names were looked up."""
    wrong, looked = [], 0
    for number, _, where, tests in RULE.findall(semantics):
        for name in CODE.findall(where):
            looked += 1
            wrong += [] if (ROOT / name).is_file() else [f"rule {number}: {name}"]
        for name in CODE.findall(tests):
            looked += 1
            path, _, function = name.partition("::")
            file = ROOT / "tests" / path
            known = (
                {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)}
                if file.is_file()
                else {}
            )
            wrong += [] if function in known else [f"rule {number}: {name}"]
    return wrong, looked


def test_generated_pages_are_fresh() -> None:
    assert not generate.stale(), "run `make fix`"


def test_links_and_paths_lead_somewhere() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    links = sum(len(LINK.findall(FENCED.sub("", text))) for text in texts.values())
    print(f"{len(PAGES)} pages, {links} links")
    assert links > 20
    assert not [
        wrong for page, text in texts.items() for wrong in (*broken_links(page, text), *missing_paths(page, text))
    ]


def test_every_rule_names_the_code_and_the_tests_that_hold_it() -> None:
    text = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
    rows = RULE.findall(text)
    assert [int(number) for number, *_ in rows] == list(range(1, 40))
    for number, _, where, tests in rows:
        assert ("`" in where and "`" in tests) or (where, tests) == ("not yet", "not yet"), f"rule {number}"
    wrong, looked = untrue(text)
    print(f"{len(rows)} rules, {looked} modules and tests looked up")
    assert not wrong and looked > 100


@pytest.mark.parametrize(
    "row",
    [
        "| 1 | x | `pipelines/gone.py` | `unit/test_docs.py::test_negative_controls` |",
        "| 1 | x | `sinks/ddl.py` | `unit/test_docs.py::test_gone` |",
    ],
)
def test_negative_controls(row: str) -> None:
    assert len(untrue(row)[0]) == 1
    page = ROOT / "docs" / "semantics.md"
    assert broken_links(page, "[a](gone.md) [b](architecture.md)") == ["semantics.md: gone.md"]
    assert missing_paths(page, "`sinks/gone.py` `sinks/ddl.py` `sinks/*.py`") == ["semantics.md: sinks/gone.py"]
