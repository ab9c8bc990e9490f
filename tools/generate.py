"""Everything that is derived and committed: `python -m tools.generate` writes it, `--check` fails when it is stale."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dashboards import metrics
from pipelines import catalogue
from pipelines.catalogue import reference
from sinks.ddl import render_data_model
from tools import demo_city

ROOT: Final = Path(__file__).resolve().parent.parent


def data_model() -> str:
    return render_data_model(catalogue.rollups(catalogue.CATALOGUE), catalogue.STREAMS)


def commands() -> str:
    """`docs/commands.md`: the help of every command, as the terminal shows it."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from citybrain import app

    runner = CliRunner()
    lines = [
        "# Commands",
        "",
        "Generated from `citybrain.py`; do not edit. Exit codes: 0 fine, 1 the run failed, 2 the input is wrong.",
        "",
    ]
    pages: list[list[str]] = [[]]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        pages += [[name], *([name, inner] for inner in getattr(command, "commands", ()))]
    for arguments in pages:
        shown = runner.invoke(
            app, [*arguments, "--help"], env={"COLUMNS": "110", "TERM": "dumb", "NO_COLOR": "1"}, prog_name="citybrain"
        )
        text = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        lines += [f"## citybrain {' '.join(arguments)}".rstrip(), "", "```", text, "```", ""]
    return "\n".join(lines)


def modules() -> str:
    """`docs/modules.md`: the first sentence of every module, folder by folder."""
    lines = ["# Modules", "", "Generated from the modules' docstrings by `make fix`; do not edit."]
    for folder in ("pipelines", "connectors", "sinks", "dashboards", "commands"):
        paths = sorted((ROOT / folder).rglob("*.py"), key=lambda path: (len(path.parts), path))
        lines += ["", f"## {folder}", "", "| module | in one line |", "|---|---|"]
        for path in paths:
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if said is not None:
                first = re.split(r"(?<=\.)\s|\n\n", said, maxsplit=1)[0].replace("\n", " ").replace("|", "\\|")
                lines.append(f"| `{path.relative_to(ROOT / folder)}` | {first} |")
    return "\n".join(lines) + "\n"


FILES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/indicators.md": reference.render,
    "docs/data-model.md": data_model,
    "docs/metrics.md": metrics.render,
    "docs/commands.md": commands,
    "docs/modules.md": modules,
    "cities/demo/places.csv": demo_city.text,
}


def stale() -> list[str]:
    """The files whose text is not what would be written now."""
    return [
        name
        for name, make in FILES.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != make()
    ]


def main() -> int:
    if "--check" in sys.argv:
        names = stale()
        for name in names:
            print(f"{name} is stale: run `make fix`", file=sys.stderr)
        print(f"{len(FILES)} generated files, {len(names)} stale")
        return 1 if names else 0
    for name, make in FILES.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(make(), encoding="utf-8")
    print(f"{len(FILES)} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
