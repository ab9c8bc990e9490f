"""From numbers of sites to readings of every level (rules 18, 20, 21)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.oracle.grid import Windows
from tests.oracle.told import Pane, Told

Part = tuple[Any, ...]


class Reading(NamedTuple):
    begin: int
    value: float | None
    num: int | None
    den: int | None
    samples: int
    state: str
    completeness: float | None
    as_of: int | None
    detail: dict[str, Any]


Key = tuple[str, str, int]
"""Place kind, place, window end."""


class Said(NamedTuple):
    """What a formula says of a part: a value, or a reason why there is none; a caution leaves the value."""

    value: float | None
    reason: str | None = None
    caution: str | None = None
    detail: dict[str, Any] = {}  # noqa: RUF012 (never changed)


@dataclass(frozen=True)
class Recipe:
    """One indicator over panes. `site` sees the window's panes in order ((start, pane), lookback included)."""

    id: str
    method: str
    windows: Windows
    site: Callable[[Told, str, int, int, list[tuple[int, Pane]]], Part]
    add: Callable[[list[Part]], Part]
    say: Callable[[Part], Said]
    ratio: Callable[[Part], tuple[int | None, int | None]]
    reduce: bool = False
    shown: tuple[str, ...] = ()
    lookback: int = 0


class Node(NamedTuple):
    begin: int
    part: Part
    samples: int
    got: int
    expected: int | None
    as_of: int | None


def share(got: int, expected: int | None) -> float | None:
    """Rounded down to four decimals."""
    return None if not expected else (10_000 * got // expected) / 10_000


def recipe_readings(recipe: Recipe, told: Told) -> dict[Key, Reading]:
    out: dict[Key, Reading] = {}
    windows, pane = recipe.windows, told.facts.pane
    tails = told.tail_ends(windows)
    bottom: dict[tuple[str, int], Node] = {}
    for site in told.sites():
        slots = told.panes.get(site, {})
        unit = max(pane, told.period(site) or 0)
        for end, is_tail in _marked(told, site, windows, tails):
            begin = windows.begin(end)
            seen = [(s, slots[s]) for s in range(begin - recipe.lookback, end, pane) if s in slots]
            inside = [p for s, p in seen if s >= begin]
            if is_tail and not inside:
                continue
            expected = -((begin - end) // unit) if told.period(site) else None
            got = min(len(inside), expected) if expected else 0
            as_of = max((p[1] for p in inside), default=None)
            bottom[site, end] = Node(
                begin, recipe.site(told, site, begin, end, seen), sum(p[0] for p in inside), got, expected, as_of
            )
    climb(told, recipe.add, recipe.say, recipe.ratio, recipe.reduce, recipe.shown, bottom, set(tails), out)
    return out


def _marked(told: Told, site: str, windows: Windows, tails: list[int]) -> Iterator[tuple[int, bool]]:
    for end in told.ends(site, windows):
        yield end, False
    for end in tails:
        yield end, True


def climb(
    told: Told,
    add: Callable[[list[Part]], Part],
    say: Callable[[Part], Said],
    ratio: Callable[[Part], tuple[int | None, int | None]],
    reduce: bool,
    shown: tuple[str, ...],
    nodes: dict[tuple[str, int], Node],
    tails: set[int],
    out: dict[Key, Reading],
    empty_says: bool = False,
) -> None:
    """Readings of the sites and of their parents. `empty_says`: without samples there is a reason too (stocks)."""
    below = {place: place for place, _ in nodes}
    for level, kind in enumerate(told.facts.levels):
        children: dict[tuple[str, int], list[tuple[Node, bool]]] = {}
        names: dict[str, str] = {}
        for (place, end), node in nodes.items():
            reading = conclude(node, say, ratio, end in tails, empty_says)
            if not shown or kind in shown:
                out[kind, place, end] = reading
            if level + 1 < len(told.facts.levels):
                parent = told.parent(level, place, below[place])
                names[parent] = below[place]
                children.setdefault((parent, end), []).append((node, reading.value is not None))
        nodes = {}
        for key, mine in children.items():
            valued = sum(has for _, has in mine)
            samples = valued if reduce else sum(n.samples for n, _ in mine)
            as_of = max((n.as_of for n, _ in mine if n.as_of is not None), default=None)
            nodes[key] = Node(mine[0][0].begin, add([n.part for n, _ in mine]), samples, valued, len(mine), as_of)
        below = names


def conclude(
    node: Node,
    say: Callable[[Part], Said],
    ratio: Callable[[Part], tuple[int | None, int | None]],
    tail: bool,
    empty_says: bool,
) -> Reading:
    said = say(node.part)
    known = node.samples > 0
    reason = said.reason if known or empty_says else None
    value = said.value if known and reason is None else None
    why = reason or said.caution if known or empty_says else None
    if tail:
        why = "input_ended" if known else None
    num, den = ratio(node.part) if known else (None, None)
    state = "degraded" if why else "ok" if known else "no_data"
    detail = said.detail | ({"reason": why} if why else {})
    return Reading(node.begin, value, num, den, node.samples, state, share(node.got, node.expected), node.as_of, detail)


def summed(parts: list[Part]) -> Part:
    """Adds part by part; what a child does not have is left out."""
    return tuple(sum(x for x in column if x is not None) for column in zip(*parts, strict=True))


def largest(parts: list[Part]) -> Part:
    return tuple(max((x for x in column if x is not None), default=None) for column in zip(*parts, strict=True))


def first_two(part: Part) -> tuple[int | None, int | None]:
    return part[0], part[1]


def only_num(part: Part) -> tuple[int | None, int | None]:
    return part[0], None


def no_ratio(part: Part) -> tuple[int | None, int | None]:
    return None, None
