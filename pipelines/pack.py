"""Reads a city pack: `city.toml`, `places.csv`, `rules.toml`, `holidays.csv`, `districts.geojson` of one folder into a `City`.

Everything a deployer can get wrong is a `PackError` that says where, what, which value, what is allowed and the
nearest name.
"""

from __future__ import annotations

import csv
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pipelines.alerts import Level, Rule, Threshold
from pipelines.city import City, District, Site
from pipelines.pack_checks import (
    PackError,
    a_list,
    a_number,
    a_table,
    a_text,
    a_weight,
    ascending,
    duration_ms,
    known,
    positive,
    required,
)
from pipelines.pack_map import read_map
from pipelines.streams import STREAMS, Stream

CITY_KEYS: Final = ("id", "zh", "en", "zone", "districts", "weights", "thresholds", "parameters")
DISTRICT_KEYS: Final = ("id", "zh", "en")
RULE_KEYS: Final = (
    "name", "version", "indicator", "place_kind", "direction", "levels", "keep_firing_for", "no_data", "correct_for",
)  # fmt: skip
LEVEL_KEYS: Final = ("level", "raise", "clear", "for")
PLACE_COLUMNS: Final = ("stream", "id", "parent", "district", "valid_from", "period_s")
SITE_ATTRIBUTES: Final = ("free_kmh", "capacity")
"""Known beside those that the streams declare: `free_kmh` becomes `free_ms`, `capacity` is the simulator's."""
HOLIDAY_COLUMNS: Final = ("date", "name")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; PackError names the file, and the line where it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise PackError(f"{path} does not exist; a city pack is a folder with at least a city.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError(f"{path}: {error}") from None


def read_city(folder: Path, indicators: Iterable[str], streams: Iterable[Stream] = STREAMS) -> City:
    """The city of a folder. `indicators` are the ids that weights, thresholds, parameters and rules may name;
    `streams` those that places may belong to."""
    indicators, streams = tuple(indicators), tuple(streams)
    path = folder / "city.toml"
    raw = read_toml(path)
    known(str(path), raw, CITY_KEYS)
    required(str(path), raw, ("id", "zh", "en", "zone", "districts"))
    for key in ("id", "zh", "en", "zone"):
        a_text(raw[key], f"{path}: {key}")
    districts = _districts(raw["districts"], str(path))
    return City(
        raw["id"],
        raw["zh"],
        raw["en"],
        _zone(raw["zone"], path),
        districts,
        read_places(folder / "places.csv", {d.id for d in districts}, streams),
        read_rules(folder / "rules.toml", indicators, streams),
        {k: a_weight(v, f"{path}: [weights] {k}") for k, v in _by_indicator(raw, "weights", path, indicators).items()},
        {
            k: ascending(v, f"{path}: [thresholds] {k}")
            for k, v in _by_indicator(raw, "thresholds", path, indicators).items()
        },
        {
            k: a_table(v, f"{path}: [parameters] {k}")
            for k, v in _by_indicator(raw, "parameters", path, indicators).items()
        },
        read_holidays(folder / "holidays.csv"),
        read_map(folder / "districts.geojson", [d.id for d in districts]),
    )


def _zone(zone: str, path: Path) -> str:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(zone, sorted(available_timezones()), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PackError(f'{path}: zone {zone!r} is unknown; use a tz name such as "Asia/Shanghai".{hint}') from None
    return zone


def _districts(entries: Any, where: str) -> tuple[District, ...]:
    out: dict[str, District] = {}
    for number, entry in enumerate(a_list(entries, f"{where}: districts"), 1):
        at = f"{where}: district {number}"
        known(at, a_table(entry, at), DISTRICT_KEYS)
        required(at, entry, DISTRICT_KEYS)
        district = District(*(a_text(entry[key], f"{at}: {key}") for key in DISTRICT_KEYS))
        if district.id in out:
            raise PackError(f"{at}: id {district.id!r} is taken by an earlier district; each needs its own")
        out[district.id] = district
    return tuple(out.values())


def _by_indicator(raw: dict[str, Any], name: str, path: Path, indicators: tuple[str, ...]) -> dict[str, Any]:
    table = a_table(raw.get(name, {}), f"{path}: [{name}]")
    for key, value in table.items():
        if key not in indicators and isinstance(value, dict) and f"{key}.{next(iter(value), '')}" in indicators:
            # TOML reads a bare `traffic.tpi` as a table `traffic` with the key `tpi`.
            raise PackError(
                f'{path}: [{name}] {key}.{next(iter(value))} must stand in quotes: "{key}.{next(iter(value))}"'
            )
    known(f"{path}: [{name}]", table, indicators, "indicator")
    return table


def read_places(path: Path, districts: set[str], streams: Iterable[Stream] = STREAMS) -> tuple[Site, ...]:
    """Columns `stream, id, district` and, where needed, `parent, valid_from, period_s` and attributes (integers).

    `free_kmh` and `length_m` together give `free_ms`, the free-flow travel time (GB/T 33171-2016, 7.2.1.2). A site may
    stand in several rows that differ in `valid_from`.
    """
    if not path.exists():
        return ()
    names = [s.name for s in streams]
    attributes = sorted({a for s in streams for a in s.attributes} | set(SITE_ATTRIBUTES))
    sites, seen = [], set()
    for where, row in _csv(path, (*PLACE_COLUMNS, *attributes), ("stream", "id", "district")):
        known(where, (row["stream"],), names, "stream")
        known(where, (row["district"],), sorted(districts), "district")
        valid = row.get("valid_from")
        site = Site(
            row["stream"],
            row["id"],
            row["district"],
            row.get("parent") or None,
            _attributes({k: v for k, v in row.items() if k not in PLACE_COLUMNS and v}, where),
            _instant(valid, where) if valid else 0,
            positive(row["period_s"], f"{where}: period_s") * 1000 if row.get("period_s") else None,
        )
        key = (site.stream, site.id, site.valid_from)
        if key in seen:
            raise PackError(f"{where}: {site.stream} {site.id!r} stands here twice; give later rows another valid_from")
        seen.add(key)
        sites.append(site)
    return tuple(sites)


def _attributes(cells: Mapping[str, str], where: str) -> dict[str, int]:
    out = {name: positive(text, f"{where}: {name}") for name, text in cells.items()}
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


def read_rules(path: Path, indicators: tuple[str, ...], streams: Iterable[Stream] = STREAMS) -> tuple[Rule, ...]:
    """The alert rules of a file with one `[[rule]]` each; names are unique."""
    if not path.exists():
        return ()
    raw = read_toml(path)
    known(str(path), raw, ("rule",))
    kinds = tuple(dict.fromkeys(level for s in streams for level in s.levels))
    rules: dict[str, Rule] = {}
    for number, entry in enumerate(a_list(raw.get("rule", []), f"{path}: rule"), 1):
        rule = _rule(a_table(entry, f"{path}: rule {number}"), f"{path}: rule {number}", indicators, kinds)
        if rule.name in rules:
            raise PackError(
                f"{path}: rule {number}: name {rule.name!r} is taken by an earlier rule; each needs its own"
            )
        rules[rule.name] = rule
    return tuple(rules.values())


def _rule(entry: dict[str, Any], where: str, indicators: tuple[str, ...], kinds: tuple[str, ...]) -> Rule:
    where = f"{where} ({entry['name']})" if "name" in entry else where
    known(where, entry, RULE_KEYS)
    required(where, entry, ("name", "version", "indicator", "place_kind", "levels"))
    known(where, (entry["indicator"],), indicators, "indicator")
    known(where, (entry["place_kind"],), kinds, "place_kind")
    levels = [_threshold(level, where) for level in a_list(entry["levels"], f"{where}: levels")]
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
    except PackError:
        raise
    except (ValueError, TypeError) as error:
        raise PackError(f"{where}: {error}") from None


def _threshold(entry: Any, where: str) -> Threshold:
    where = f"{where}: level"
    known(where, a_table(entry, where), LEVEL_KEYS)
    required(where, entry, ("level", "raise", "clear"))
    known(where, (entry["level"],), [x.name for x in Level], "level")
    where = f"{where} {entry['level']}"
    raised, clear = (a_number(entry[key], f"{where}: {key}") for key in ("raise", "clear"))
    try:
        return Threshold(Level[entry["level"]], raised, clear, duration_ms(entry.get("for", "0s"), f"{where}: for"))
    except PackError:
        raise
    except ValueError as error:
        raise PackError(f"{where}: {error}") from None


def read_holidays(path: Path) -> frozenset[str]:
    """ISO dates of a file with the columns `date` and, for its readers, `name`."""
    if not path.exists():
        return frozenset()
    days = set()
    for where, row in _csv(path, HOLIDAY_COLUMNS, ("date",)):
        try:
            days.add(date.fromisoformat(row["date"]).isoformat())
        except ValueError:
            raise PackError(f"{where}: {row['date']!r} is no date; write 2026-10-01") from None
    return frozenset(days)


def _csv(path: Path, allowed: tuple[str, ...], needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows with where they stand; every row has as many cells as the header, and something in the needed ones."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            header = reader.fieldnames or []
            known(f"{path}:1", header, allowed, "column")
            required(f"{path}:1", dict.fromkeys(header), needed)
            if len(set(header)) != len(header):
                raise PackError(f"{path}:1: a column stands twice in {', '.join(header)}")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if "" in row or None in row.values():
                    raise PackError(f"{where}: the row does not have the {len(header)} cells of the header")
                for key in needed:
                    if not row[key].strip():
                        raise PackError(f"{where}: {key} is empty; needed are {', '.join(needed)}")
                yield where, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise PackError(f"{path}: {error}; save it as CSV in UTF-8") from None


__all__ = ["PackError", "duration_ms", "known", "read_city", "read_holidays", "read_places", "read_rules", "read_toml"]
