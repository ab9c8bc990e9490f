"""The catalogue: every indicator that a city can use, and the streams that only they need.

A file of this folder declares `INDICATORS`, and where it needs them `STREAMS` (kinds of event that are not in
`pipelines/streams.py`) and `TUNABLE` (indicators that a city pack may parametrise: id -> function that makes one).
The folder is the list: its modules are read in the order of their names and their tuples joined, here and once. This is
no registry: nothing registers itself, importing a file elsewhere changes nothing, and a file that declares no
`INDICATORS` is an error instead of a silent gap. So a new indicator is one new file, or one more entry in an old one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipelines.catalogue.graph import CatalogueError, check, levels
from pipelines.city import City
from pipelines.indicator import Composite, Indicator, Panes, Part, Thresholds, composite
from pipelines.rollup import Rollup
from pipelines.streams import STREAMS as SHIPPED
from pipelines.streams import Stream
from pipelines.windows import Day

TOOLS: Final = ("graph", "reference", "rollups")
"""Modules of the folder that declare no indicators."""
_FILES: Final[tuple[ModuleType, ...]] = tuple(
    importlib.import_module(f"{__name__}.{name}")
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in TOOLS
)


def _declared(file: ModuleType) -> tuple[Indicator, ...]:
    found = getattr(file, "INDICATORS", None)
    if not isinstance(found, tuple) or not found or not all(isinstance(i, Indicator) for i in found):
        raise CatalogueError(f"{file.__file__} must declare INDICATORS, a tuple of at least one Indicator")
    return found


CATALOGUE: Final[tuple[Indicator, ...]] = tuple(i for file in _FILES for i in _declared(file))
STREAMS: Final[tuple[Stream, ...]] = (*SHIPPED, *(s for file in _FILES for s in getattr(file, "STREAMS", ())))
TUNABLE: Final[Mapping[str, Callable[..., Indicator]]] = {
    name: make for file in _FILES for name, make in getattr(file, "TUNABLE", {}).items()
}
IDS: Final[tuple[str, ...]] = tuple(i.id for i in CATALOGUE)


def indicator(name: str, among: Iterable[Indicator] = CATALOGUE) -> Indicator:
    """The indicator of that id; LookupError names the nearest ones."""
    found = {i.id: i for i in among}
    if name in found:
        return found[name]
    raise LookupError(f"indicator {name!r} is unknown; {_nearest(name, found)}")


def file_of(name: str) -> str:
    """The file of the catalogue that declares an indicator, from the project's root on."""
    return next(f"{file.__name__.replace('.', '/')}.py" for file in _FILES if name in {i.id for i in _declared(file)})


def stream(name: str) -> Stream:
    """The stream of that name, shipped or declared in a catalogue file; LookupError names the ones there are."""
    found = {s.name: s for s in STREAMS}
    if name in found:
        return found[name]
    raise LookupError(f"stream {name!r} is unknown; {_nearest(name, found)}")


def rollups(indicators: Iterable[Indicator]) -> tuple[Rollup, ...]:
    """What engines have to compute for these indicators, each rollup once, in the order of first use."""
    found: dict[str, Rollup] = {}
    for each in indicators:
        if isinstance(each.kind, Panes):
            rollup = each.kind.rollup
            if found.setdefault(rollup.name, rollup) != rollup:
                raise CatalogueError(
                    f"indicator {each.id!r} declares another rollup {rollup.name!r} than one before it; rename one"
                )
    return tuple(found.values())


def for_city(city: City) -> tuple[Indicator, ...]:
    """The catalogue with a city's parameters, thresholds and weights; CatalogueError names what cannot be used."""
    out = []
    for each in CATALOGUE:
        each = _tuned(each, city.parameters.get(each.id, {}))
        if each.id in city.thresholds:
            each = _rebanded(each, city.thresholds[each.id], city.id)
        out.append(each)
    found = tuple(_weighted(each, city) if isinstance(each.kind, Composite) else each for each in out)
    for table, names, allowed in (
        ("parameters", city.parameters, TUNABLE),
        ("thresholds", city.thresholds, IDS),
        ("weights", city.weights, [p for i in CATALOGUE if isinstance(i.kind, Composite) for p in i.inputs]),
    ):
        for name in names:
            if name not in allowed:
                raise CatalogueError(f"city {city.id!r}: [{table}] names {name!r}; {_nearest(name, allowed)}")
    check(found)
    for each in found:
        whole_days(each, city.zone)
    return found


def whole_days(each: Indicator, zone: str) -> None:
    """Refuses calendar days that would cut a pane: the zone's offset must be a multiple of it (rule 13)."""
    if isinstance(each.kind, Panes) and isinstance(each.window, Day):
        pane = timedelta(milliseconds=each.kind.rollup.pane_ms)
        for month in (1, 7):
            offset = datetime(2026, month, 1, tzinfo=ZoneInfo(zone)).utcoffset() or timedelta()
            if offset % pane:
                raise CatalogueError(
                    f"indicator {each.id!r} counts local days in panes of {pane}, which midnight in {zone} cuts"
                    f" (offset {offset}); give rollup {each.kind.rollup.name!r} a shorter pane"
                )


def _tuned(each: Indicator, given: Mapping[str, Any]) -> Indicator:
    if not given or each.id not in TUNABLE:
        return each
    make = TUNABLE[each.id]
    allowed = inspect.signature(make).parameters
    for name in given:
        if name not in allowed:
            raise CatalogueError(f"[parameters.{each.id!r}] has no {name!r}; {_nearest(name, allowed)}")
    for name, value in given.items():
        if type(value) is not type(allowed[name].default):
            wanted = type(allowed[name].default).__name__
            raise CatalogueError(f"[parameters.{each.id!r}] {name} is {value!r}; it must be {wanted}")
    try:
        return make(**given)
    except ValueError as error:
        raise CatalogueError(f"[parameters.{each.id!r}] {error}") from None


def _rebanded(each: Indicator, values: tuple[float, ...], city: str) -> Indicator:
    shipped = each.thresholds.values
    if shipped and len(values) != len(shipped):
        raise CatalogueError(f"thresholds of {each.id}: {len(values)} given, {len(shipped)} needed, as in {shipped}")
    try:
        return replace(each, thresholds=Thresholds(tuple(values), "P", f"city pack {city!r}"))
    except ValueError as error:
        raise CatalogueError(str(error)) from None


def _weighted(each: Indicator, city: City) -> Indicator:
    """The composite with the city's weights, and its score's bends where the city moved a part's thresholds."""
    kind = each.kind
    assert isinstance(kind, Composite)
    parts = tuple(
        Part(p.indicator, city.weights.get(p.indicator, p.weight), _moved(p, city.thresholds.get(p.indicator)))
        for p in kind.parts
    )
    if parts == kind.parts:
        return each
    if not sum(p.weight for p in parts):
        raise CatalogueError(f"the weights of {each.id} are all 0; give at least one of {', '.join(each.inputs)} more")
    kind = replace(kind, parts=parts)
    # The formula was checked with the shipped weights; the case of a city's own weights shows what they give.
    given = {row["indicator"]: row["value"] for row in each.case.rows}
    case = replace(each.case, gives=composite(kind, given)[0], source=f"the same values, city pack {city.id!r}")
    return replace(each, kind=kind, case=case)


def _moved(part: Part, thresholds: tuple[float, ...] | None) -> tuple[tuple[float, float], ...]:
    if thresholds is None:
        return part.score
    moved = dict(zip(indicator(part.indicator).thresholds.values, thresholds, strict=False))
    points = tuple((float(moved.get(x, x)), y) for x, y in part.score)
    if list(points) != sorted(points):
        raise CatalogueError(f"thresholds of {part.indicator}: {thresholds} leave the ends of its score, {part.score}")
    return points


def _nearest(name: str, allowed: Iterable[str]) -> str:
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, 1, 0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"known are {', '.join(allowed)}.{hint}" if allowed else "there are none."


check(CATALOGUE)
if len({s.name for s in STREAMS}) < len(STREAMS):
    raise CatalogueError(f"two streams have one name among {', '.join(s.name for s in STREAMS)}; rename one")
__all__ = [
    "CATALOGUE",
    "IDS",
    "STREAMS",
    "TUNABLE",
    "CatalogueError",
    "check",
    "for_city",
    "indicator",
    "levels",
    "rollups",
    "stream",
    "whole_days",
]
