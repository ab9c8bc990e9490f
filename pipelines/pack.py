"""Reads a city pack: `city.toml`, `places.csv`, `rules.toml`, `holidays.csv` of one folder into a `City`.

Everything a deployer can get wrong is an error that says where, what, which value, what is allowed and the nearest name.
"""

from __future__ import annotations

import csv
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipelines.alerts import Level, Rule, Threshold
from pipelines.catalogue import STREAMS
from pipelines.city import City, District, Site

CITY_KEYS: Final = ("id", "zh", "en", "zone", "districts", "weights", "thresholds", "parameters")
DISTRICT_KEYS: Final = ("id", "zh", "en")
RULE_KEYS: Final = (
    "name", "version", "indicator", "place_kind", "direction", "levels", "keep_firing_for", "no_data", "correct_for",
)  # fmt: skip
LEVEL_KEYS: Final = ("level", "raise", "clear", "for")
PLACE_COLUMNS: Final = ("stream", "id", "parent", "district", "valid_from", "period_s")
DURATIONS: Final[Mapping[str, int]] = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class PackError(ValueError):
    """A city pack that cannot be used; the text says where and what to do."""


def known(where: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuses unknown names with what is allowed and the nearest one."""
    allowed = tuple(allowed)
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise PackError(f"{where}: unknown key {name!r}; known are {', '.join(allowed)}.{hint}")


def duration_ms(text: str | int, where: str) -> int:
    """'90s', '10m', '24h' or '7d' in ms; a bare number is refused because it does not say its unit."""
    if isinstance(text, str) and text[-1:] in DURATIONS and text[:-1].isdigit():
        return int(text[:-1]) * DURATIONS[text[-1]]
    raise PackError(f"{where}: {text!r} is no duration; write a whole number and s, m, h or d, such as \"10m\"")


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackError(f"{path} does not exist; a city pack is a folder with at least a city.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError(f"{path}: {error}") from None


def read_city(folder: Path, indicators: Iterable[str]) -> City:
    """The city of a folder. `indicators` are the ids that weights, thresholds and rules may name."""
    indicators = tuple(indicators)
    path = folder / "city.toml"
    raw = read_toml(path)
    known(str(path), raw, CITY_KEYS)
    for key in ("id", "zh", "en", "zone", "districts"):
        if key not in raw:
            raise PackError(f"{path}: {key!r} is missing")
    try:
        ZoneInfo(raw["zone"])
    except (ZoneInfoNotFoundError, ValueError):
        raise PackError(f"{path}: zone {raw['zone']!r} is unknown; use a tz name such as \"Asia/Shanghai\"") from None
    districts = []
    for number, entry in enumerate(raw["districts"], 1):
        known(f"{path}: district {number}", entry, DISTRICT_KEYS)
        districts.append(District(**entry))
    for table in ("weights", "thresholds", "parameters"):
        known(f"{path}: [{table}]", raw.get(table, {}), indicators)
    for indicator, weight in raw.get("weights", {}).items():
        if not isinstance(weight, int) or weight < 0:
            raise PackError(f"{path}: the weight of {indicator} is {weight!r}; it must be a whole number from 0")
    ids = {d.id for d in districts}
    return City(
        raw["id"],
        raw["zh"],
        raw["en"],
        raw["zone"],
        tuple(districts),
        read_places(folder / "places.csv", ids),
        read_rules(folder / "rules.toml", indicators),
        raw.get("weights", {}),
        {k: tuple(float(x) for x in v) for k, v in raw.get("thresholds", {}).items()},
        raw.get("parameters", {}),
        read_holidays(folder / "holidays.csv"),
    )


def read_places(path: Path, districts: set[str]) -> tuple[Site, ...]:
    """Columns `stream, id, district` and, where needed, `parent, valid_from, period_s` and attributes (integers).

    `free_kmh` and `length_m` together give `free_ms`, the free-flow travel time (GB/T 33171-2016, 7.2.1.2).
    """
    if not path.exists():
        return ()
    sites = []
    allowed = {a for s in STREAMS for a in s.attributes} | {"free_kmh", "capacity", *PLACE_COLUMNS}
    streams = [s.name for s in STREAMS]
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            where = f"{path}:{line}"
            known(where, (k for k in row if k), sorted(allowed))
            if row["stream"] not in streams:
                raise PackError(f"{where}: stream {row['stream']!r} is unknown; known are {', '.join(streams)}")
            if row["district"] not in districts:
                raise PackError(f"{where}: district {row['district']!r} is not in city.toml")
            attributes = _attributes({k: v for k, v in row.items() if k not in PLACE_COLUMNS and v}, where)
            valid = row.get("valid_from")
            sites.append(
                Site(
                    row["stream"],
                    row["id"],
                    row["district"],
                    row.get("parent") or None,
                    attributes,
                    _instant(valid, where) if valid else 0,
                    int(row["period_s"]) * 1000 if row.get("period_s") else None,
                )
            )
    return tuple(sites)


def _attributes(cells: Mapping[str, str], where: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for name, text in cells.items():
        if not text.isdigit() or int(text) == 0:
            raise PackError(f"{where}: {name} is {text!r}; it must be a whole number above 0")
        out[name] = int(text)
    if (speed := out.pop("free_kmh", None)) and "length_m" in out:
        out["free_ms"] = (3600 * out["length_m"] * 2 + speed) // (2 * speed)
    return out


def _instant(text: str, where: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise PackError(f"{where}: valid_from {text!r} is no time; write 2026-03-01T00:00:00+08:00") from None
    if at.tzinfo is None:
        raise PackError(f"{where}: valid_from {text!r} has no zone; write 2026-03-01T00:00:00+08:00")
    return int(at.astimezone(UTC).timestamp() * 1000)


def read_rules(path: Path, indicators: tuple[str, ...]) -> tuple[Rule, ...]:
    if not path.exists():
        return ()
    raw = read_toml(path)
    known(str(path), raw, ("rule",))
    return tuple(_rule(entry, f"{path}: rule {n}", indicators) for n, entry in enumerate(raw.get("rule", []), 1))


def _rule(entry: dict[str, Any], where: str, indicators: tuple[str, ...]) -> Rule:
    where = f"{where} ({entry['name']})" if "name" in entry else where
    known(where, entry, RULE_KEYS)
    for key in ("name", "version", "indicator", "place_kind", "levels"):
        if key not in entry:
            raise PackError(f"{where}: {key!r} is missing")
    known(f"{where}: indicator", (entry["indicator"],), indicators)
    levels = []
    for level in entry["levels"]:
        known(f"{where}: level", level, LEVEL_KEYS)
        known(f"{where}: level", (level["level"],), [x.name for x in Level])
        for_ms = duration_ms(level.get("for", "0s"), f"{where}: for")
        levels.append(Threshold(Level[level["level"]], float(level["raise"]), float(level["clear"]), for_ms))
    try:
        return Rule(
            name=entry["name"],
            version=entry["version"],
            indicator=entry["indicator"],
            place_kind=entry["place_kind"],
            levels=tuple(levels),
            keep_firing_for_ms=duration_ms(entry.get("keep_firing_for", "0s"), f"{where}: keep_firing_for"),
            no_data=entry.get("no_data", "hold"),
            direction=entry.get("direction", "above"),
            correct_for_ms=duration_ms(entry.get("correct_for", "7d"), f"{where}: correct_for"),
        )
    except (ValueError, TypeError) as error:
        raise PackError(f"{where}: {error}") from None


def read_holidays(path: Path) -> frozenset[str]:
    """One ISO date a line, after a header `date`."""
    if not path.exists():
        return frozenset()
    with path.open(encoding="utf-8-sig", newline="") as file:
        days = [row["date"] for row in csv.DictReader(file)]
    for day in days:
        try:
            date.fromisoformat(day)
        except ValueError:
            raise PackError(f"{path}: {day!r} is no date; write 2026-10-01") from None
    return frozenset(days)
