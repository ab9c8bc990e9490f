"""A city pack: what differs from city to city and is therefore configuration, read once into frozen data.

`cities/<name>/city.toml` (name, zone, districts, weights, thresholds, sources), `places.csv` (sites with their
district and attributes), `rules.toml` (alert rules), `holidays.csv`, `districts.geojson` (outlines). An unknown key is an
error that names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.alerts import Rule


@dataclass(frozen=True, slots=True)
class District:
    id: str
    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class Site:
    """A configured place. `attributes` hold from `valid_from` (UTC ms); a site may have several such rows."""

    stream: str
    id: str
    district: str
    parent: str | None = None
    """For streams with a level between site and district (`det`: lane -> site)."""
    attributes: Mapping[str, int] = field(default_factory=dict)
    valid_from: int = 0
    period_ms: int | None = None


@dataclass(frozen=True, slots=True)
class City:
    """`thresholds`, `weights` and `parameters` override those of the catalogue, by indicator id."""

    id: str
    zh: str
    en: str
    zone: str
    districts: tuple[District, ...] = ()
    sites: tuple[Site, ...] = ()
    rules: tuple[Rule, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    thresholds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, int | float | str]] = field(default_factory=dict)
    holidays: frozenset[str] = frozenset()
    outlines: str = ""
    """The districts as GeoJSON (`pipelines.pack_map`); empty where the pack has none."""
