"""Compiled modules with something broken, for negative controls: what runs as machine code cannot be patched."""

from __future__ import annotations

import types
from pathlib import Path


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """The module with one change in its source, not compiled. Without a change (`old` is `new`) it must do the same."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    out = types.ModuleType("mutant")
    out.__dict__["compiled"] = lambda function: function
    lines = source.replace(old, new).splitlines()
    exec("\n".join(line for line in lines if not line.startswith("from pipelines.compiled")), out.__dict__)
    return out
