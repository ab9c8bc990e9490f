"""Reads `districts.geojson` of a city pack: the outlines of the districts (RFC 7946, WGS-84)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from pipelines.pack_checks import PackError, known

KINDS: Final = ("Polygon", "MultiPolygon")
MOST_BYTES: Final = 4 << 20
"""A screen loads it whole; simplify outlines that are larger."""


def read_map(path: Path, districts: Collection[str]) -> str:
    """The outlines as GeoJSON whose features have `id` and geometry alone; '' where the pack has no such file.

    PackError where it is no GeoJSON, names another district, lacks one, or has coordinates that are no longitude and latitude.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    if len(content) > MOST_BYTES:
        raise PackError(f"{path} has {len(content):,} bytes; {MOST_BYTES:,} are allowed: simplify the outlines")
    try:
        raw = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise PackError(f"{path} is no JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("type") != "FeatureCollection" or not isinstance(raw.get("features"), list):
        raise PackError(f"{path} is no GeoJSON FeatureCollection; give each district as a Feature of one")
    features = {}
    for number, feature in enumerate(raw["features"], 1):
        name, geometry = _feature(feature, f"{path}: feature {number}", districts)
        if name in features:
            raise PackError(f"{path}: feature {number}: district {name!r} is there twice; make it one MultiPolygon")
        features[name] = geometry
    if missing := [name for name in districts if name not in features]:
        raise PackError(
            f"{path} lacks the districts {', '.join(missing)}; every district of city.toml needs an outline"
        )
    # `name` is what the chart library finds a region by.
    out = [{"type": "Feature", "id": n, "properties": {"name": n}, "geometry": g} for n, g in features.items()]
    return json.dumps({"type": "FeatureCollection", "features": out}, separators=(",", ":"))


def _feature(feature: Any, where: str, districts: Collection[str]) -> tuple[str, Any]:
    own = feature.get("properties") if isinstance(feature, dict) else None
    properties = own if isinstance(own, dict) else {}
    name = feature.get("id", properties.get("id")) if isinstance(feature, dict) else None
    known(where, [str(name)], districts, "district")
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in KINDS:
        raise PackError(f"{where} ({name}): geometry is {kind!r}; it is one of {', '.join(KINDS)}")
    points = list(_points(geometry.get("coordinates"), where))
    if len(points) < 4:
        raise PackError(f"{where} ({name}) has {len(points)} points; an outline has at least 4, the last one the first")
    return str(name), {"type": kind, "coordinates": geometry["coordinates"]}


def _points(coordinates: Any, where: str) -> Iterator[tuple[float, float]]:
    if not isinstance(coordinates, list) or not coordinates:
        raise PackError(f"{where}: coordinates are {str(coordinates)[:50]!r}; they are lists of [longitude, latitude]")
    if isinstance(coordinates[0], int | float):
        lon, lat = (*coordinates, None)[:2]
        if not (isinstance(lon, int | float) and isinstance(lat, int | float) and abs(lon) <= 180 and abs(lat) <= 90):
            raise PackError(
                f"{where}: {coordinates[:3]} is no [longitude, latitude] in degrees of WGS-84; convert the file (EPSG:4326)"
            )
        yield lon, lat
        return
    for inner in coordinates:
        yield from _points(inner, where)


__all__ = ["read_map"]
