"""Everything recomputed: the readings of a run by indicator, from its raw files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.oracle import cases, raw, roads, services, sky, vitals
from tests.oracle.arrive import Raw, Tally, arrive
from tests.oracle.cases import Found
from tests.oracle.climbing import recipe_readings
from tests.oracle.told import STREAMS, Facts, Put, Told
from tests.oracle.town import Town

Read = Callable[[Path, Tally], Iterator[Raw]]
PUTS: dict[str, Put] = {
    "link": roads.put_link, "det": roads.put_det, "park": roads.put_park, "air": sky.put_air,
    "lvl": sky.put_last, "rain": sky.put_sum, "http": services.put_http,
}  # fmt: skip


def listen(
    name: str, files: Sequence[Path], read: Read, town: Town, until: int | None, facts: Facts | None = None
) -> Told:
    """All accepted events of one stream."""
    told = Told(name, facts or STREAMS[name], town)
    put = PUTS.get(name) or cases.put_case(told)
    events = arrive([read(path, told.tally) for path in files], told.facts.terms, told.tally)
    return told.listen(events, put, until)


def readings_of(told: Told) -> Found:
    """By indicator: its method id and its readings."""
    town = told.town
    match told.name:
        case "link":
            return roads.links(told)
        case "det":
            recipes: Sequence[Any] = (roads.FLOW, roads.OCCUPANCY)
        case "park":
            recipes = (roads.parking(town.parking_minutes),)
        case "air":
            recipes = sky.AIR
        case "lvl":
            recipes = sky.WATER
        case "rain":
            recipes = sky.RAIN
        case "http":
            recipes = services.recipes(town.apdex_ms)
        case _:
            return cases.decided(told)
    return {r.id: (r.method, recipe_readings(r, told)) for r in recipes}


def everything(files: Mapping[str, Sequence[Path]], read: Mapping[str, Read], town: Town, until: int | None = None,
               facts: Mapping[str, Facts] | None = None) -> Iterator[tuple[Found, Tally]]:  # fmt: skip
    """Stream by stream, the composite last, so that a caller may forget what it has compared."""
    parts: dict[str, Any] = {}
    final: list[int] = []
    for name, paths in files.items():
        told = listen(name, paths, read[name], town, until, (facts or {}).get(name))
        final.append(told.final)
        found = readings_of(told)
        parts |= {i: _above(r) for i, (_, r) in found.items() if i in vitals.PARTS}
        tally = told.tally
        del told
        yield found, tally
    yield {"city.vital_sign": (vitals.METHOD, vitals.vital_sign(town, parts, min(final)))}, Tally()


def _above(readings: dict[Any, Any]) -> dict[Any, Any]:
    return {key: r for key, r in readings.items() if key[0] in ("district", "city")}


def canonical(names: Sequence[str]) -> dict[str, Read]:
    return {name: lambda path, tally, name=name: raw.canonical(path, name, tally) for name in names}  # type: ignore[misc]
