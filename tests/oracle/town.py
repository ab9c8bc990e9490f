"""City packs and side tables, read by the csv and toml modules alone."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

UNKNOWN = "unassigned"


@dataclass
class Place:
    parent: str | None
    district: str
    period: int | None
    attributes: list[tuple[int, dict[str, int]]]
    """(valid from, attributes), ascending."""


@dataclass
class Town:
    zone: str
    districts: list[str] = field(default_factory=list)
    places: dict[str, dict[str, Place]] = field(default_factory=dict)
    """By stream, by site."""
    weights: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, list[float]] = field(default_factory=dict)
    parking_minutes: int = 10
    apdex_ms: int = 500

    def configured(self, stream: str, district_is_site: bool) -> list[str]:
        return [*self.places.get(stream, ()), *(self.districts if district_is_site else ())]

    def attribute(self, stream: str, site: str, name: str, at: int) -> int | None:
        """What held at an instant."""
        found = None
        place = self.places.get(stream, {}).get(site)
        for since, values in place.attributes if place else ():
            if since <= at:
                found = values.get(name)
        return found


def read_town(folder: Path) -> Town:
    raw: dict[str, Any] = tomllib.loads((folder / "city.toml").read_text(encoding="utf-8"))
    parameters = raw.get("parameters", {})
    town = Town(
        raw["zone"],
        [d["id"] for d in raw["districts"]],
        weights=raw.get("weights", {}),
        thresholds=raw.get("thresholds", {}),
        parking_minutes=parameters.get("parking.occupancy", {}).get("validity_min", 10),
        apdex_ms=parameters.get("http.apdex", {}).get("t_ms", 500),
    )
    with (folder / "places.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            attributes = {k: int(row[k]) for k in ("length_m", "capacity") if row.get(k)}
            if row.get("free_kmh") and row.get("length_m"):
                # 3600 s of an hour over km/h, for metres: milliseconds.
                attributes["free_ms"] = _half_up(Fraction(3600 * int(row["length_m"]), int(row["free_kmh"])))
            since = int(datetime.fromisoformat(row["valid_from"]).timestamp()) * 1000 if row.get("valid_from") else 0
            period = int(row["period_s"]) * 1000 if row.get("period_s") else None
            _add(
                town,
                row["stream"],
                row["id"],
                Place(row["parent"] or None, row["district"], period, [(since, attributes)]),
            )
    return town


def add_aarhus(town: Town, path: Path) -> Town:
    """The side table of the Aarhus links: metres, and seconds at free flow."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            known = {
                "length_m": round(Fraction(row["DISTANCE_IN_METERS"])),
                "free_ms": round(Fraction(row["DURATION_IN_SEC"]) * 1000),
            }
            _add(town, "link", row["REPORT_ID"], Place(None, UNKNOWN, None, [(0, known)]))
    return town


def _add(town: Town, stream: str, site: str, place: Place) -> None:
    there = town.places.setdefault(stream, {}).setdefault(site, place)
    if there is not place:
        there.attributes = sorted([*there.attributes, *place.attributes], key=lambda x: x[0])


def _half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
