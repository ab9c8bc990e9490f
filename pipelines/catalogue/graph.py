"""The graph of indicators: unique ids, inputs that exist, no cycle, inputs of the same places and windows (rule 18)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from pipelines.indicator import Composite, Derived, Indicator, Panes


class CatalogueError(ValueError):
    """Indicators, or what a city says about them, that cannot be used; the text says which and why."""


def check(indicators: Iterable[Indicator]) -> tuple[Indicator, ...]:
    """The indicators, inputs first and otherwise in their order; CatalogueError says what is wrong."""
    known: dict[str, Indicator] = {}
    for each in indicators:
        if each.id in known:
            raise CatalogueError(f"two indicators have the id {each.id!r}; rename one")
        known[each.id] = each
    for each in known.values():
        for name in each.inputs:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise CatalogueError(f"indicator {each.id!r} reads {name!r}, which is not in the catalogue{hint}")
    try:
        order = list(TopologicalSorter({i.id: i.inputs for i in known.values()}).static_order())
    except CycleError as error:
        raise CatalogueError(f"indicators read each other in a circle: {' <- '.join(error.args[1])}") from None
    for each in known.values():
        _same_places(each, known)
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = max((depth[i] + 1 for i in known[name].inputs), default=0)
    return tuple(sorted(known.values(), key=lambda i: depth[i.id]))


def levels(indicator: Indicator, known: dict[str, Indicator]) -> tuple[str, ...]:
    """The place kinds at which it is published."""
    kind = indicator.kind
    if isinstance(kind, Panes | Derived | Composite) and kind.levels:
        return kind.levels
    if isinstance(kind, Derived):
        return levels(known[kind.of[0]], known)
    stream = indicator.stream
    assert stream is not None
    return stream.levels


def _same_places(each: Indicator, known: dict[str, Indicator]) -> None:
    mine = levels(each, known)
    if isinstance(each.kind, Panes) and (alien := set(mine) - set(each.kind.rollup.stream.levels)):
        raise CatalogueError(
            f"indicator {each.id!r} is published at {sorted(alien)}; "
            f"stream {each.kind.rollup.stream.name!r} has {', '.join(each.kind.rollup.stream.levels)}"
        )
    for name in each.inputs:
        theirs = levels(known[name], known)
        if absent := [level for level in mine if level not in theirs]:
            raise CatalogueError(
                f"indicator {each.id!r} is published at {', '.join(absent)}, where its input {name!r} is not"
                f" ({', '.join(theirs)})"
            )
        if isinstance(each.kind, Derived) and each.window != known[name].window:
            raise CatalogueError(f"indicator {each.id!r} has another window than its input {name!r}")
