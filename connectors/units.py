"""Units of measurement: a closed table with exact factors, and text that becomes a scaled integer without a float.

A factor is a `Fraction`, so that 0.8 mg/m3 is 800 ug/m3 and nothing near it. Two units convert when they have the same
dimension; ppb and ppm become a mass concentration by the molar mass of the gas at 298.15 K and 1013.25 hPa, where a
mole fills 24.465 l (GB 3095, reference state).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

Dimension = Literal["time", "length", "speed", "mass concentration", "mixing ratio", "share", "count"]


@dataclass(frozen=True, slots=True)
class Unit:
    """`factor` times the dimension's own unit: s, m, m/s, ug/m3, ppb, 1, one piece."""

    name: str
    dimension: Dimension
    factor: Fraction


def _unit(name: str, dimension: Dimension, factor: str) -> Unit:
    return Unit(name, dimension, Fraction(factor))


UNITS: Final[tuple[Unit, ...]] = (
    _unit("us", "time", "1/1000000"),
    _unit("ms", "time", "1/1000"),
    _unit("s", "time", "1"),
    _unit("minutes", "time", "60"),
    _unit("hours", "time", "3600"),
    _unit("days", "time", "86400"),
    _unit("0.001 mm", "length", "1/1000000"),
    _unit("um", "length", "1/1000000"),
    _unit("mm", "length", "1/1000"),
    _unit("cm", "length", "1/100"),
    _unit("m", "length", "1"),
    _unit("km", "length", "1000"),
    _unit("in", "length", "0.0254"),
    _unit("ft", "length", "0.3048"),
    _unit("mi", "length", "1609.344"),
    _unit("m/s", "speed", "1"),
    _unit("km/h", "speed", "5/18"),
    _unit("0.1 km/h", "speed", "1/36"),
    _unit("mph", "speed", "0.44704"),
    _unit("knots", "speed", "463/900"),
    _unit("ng/m3", "mass concentration", "1/1000"),
    _unit("0.001 ug/m3", "mass concentration", "1/1000"),
    _unit("ug/m3", "mass concentration", "1"),
    _unit("mg/m3", "mass concentration", "1000"),
    _unit("ppb", "mixing ratio", "1"),
    _unit("ppm", "mixing ratio", "1000"),
    _unit("1", "share", "1"),
    _unit("%", "share", "1/100"),
    _unit("0.0001", "share", "1/10000"),
    _unit("vehicles", "count", "1"),
    _unit("spaces", "count", "1"),
    _unit("HTTP status", "count", "1"),
)
ALIASES: Final = {
    "h": "hours", "hour": "hours", "min": "minutes", "minute": "minutes", "seconds": "s", "second": "s", "d": "days",
    "kmh": "km/h", "miles": "mi", "inches": "in", "feet": "ft", "percent": "%",
    "µg/m3": "ug/m3", "μg/m3": "ug/m3", "µg/m³": "ug/m3", "μg/m³": "ug/m3", "mg/m³": "mg/m3",
}  # fmt: skip
"""Other spellings that are accepted."""
MOLAR_VOLUME_L: Final = Fraction("24.465")
"""Litres that a mole fills at 298.15 K and 1013.25 hPa."""
MOLAR_MASS_G: Final[dict[str, Fraction]] = {
    "so2": Fraction("64.058"),
    "no2": Fraction("46.005"),
    "no": Fraction("30.006"),
    "co": Fraction("28.010"),
    "o3": Fraction("47.997"),
}
"""Grams per mole, from the abridged standard atomic weights (H 1.008, C 12.011, N 14.007, O 15.999, S 32.06)."""
_BY_NAME: Final = {u.name: u for u in UNITS}


class UnitError(ValueError):
    """A unit that is unknown, or that cannot become the wanted one."""


def unit(name: str) -> Unit:
    """The unit of that name; UnitError names all units and the nearest."""
    found = _BY_NAME.get(ALIASES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, [*_BY_NAME, *ALIASES], 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnitError(f"unit {name!r} is unknown; known are {', '.join(_BY_NAME)}.{hint}")
    return found


def factor(source: str, target: str, gas: str | None = None) -> Fraction:
    """What a number in `source` is multiplied by to be in `target`.

    `gas` (so2, no2, no, co, o3) is needed between a mixing ratio and a mass concentration. Raises UnitError.
    """
    a, b = unit(source), unit(target)
    if a.dimension == b.dimension:
        return a.factor / b.factor
    if {a.dimension, b.dimension} != {"mixing ratio", "mass concentration"}:
        fits = ", ".join(u.name for u in UNITS if u.dimension == b.dimension)
        raise UnitError(f"unit {source!r} is a {a.dimension}, {target!r} is a {b.dimension}; allowed are {fits}")
    if gas not in MOLAR_MASS_G:
        known = ", ".join(MOLAR_MASS_G)
        raise UnitError(f"unit {source!r} needs the gas to become {target!r}; it is {gas!r}, known are {known}")
    per_ppb = MOLAR_MASS_G[gas] / MOLAR_VOLUME_L
    return a.factor / b.factor * (per_ppb if a.dimension == "mixing ratio" else 1 / per_ppb)


def is_count(name: str) -> bool:
    """Whether a number in this unit counts pieces, so that a fraction of one is wrong and not a rounding."""
    return unit(name).dimension == "count"
