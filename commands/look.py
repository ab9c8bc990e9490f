"""Commands that only look: `profile`, `check`, `explain`."""

from __future__ import annotations

import difflib
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from commands.inputs import UserError, city_of, named, names, refuse_no_file
from connectors.formats import FormatError
from connectors.mapping import read_mapping
from pipelines import catalogue
from pipelines.alerts import Rule
from pipelines.catalogue.reference import window
from pipelines.city import City
from pipelines.indicator import Composite, Indicator, Panes

SHOWN: Final = 20
"""Current values that `explain` prints."""
FORMULA_WIDTH: Final = 130


def profile_text(file: Path, map_: str | None, lookup: Path | None) -> str:
    """What is in a file (see `connectors.profile`)."""
    from connectors.profile import profile
    from connectors.profile_text import render

    refuse_no_file(file)
    mapping = read_mapping(named(map_, "maps", ".toml", "mapping"), data=file, lookup=lookup) if map_ else None
    try:
        return render(profile(file, mapping))
    except FormatError as error:
        raise UserError(f"{file}: {error}") from None


def check_text(cities: Sequence[str] | None, maps: Sequence[str] | None) -> str:
    """Reads everything that a run would read; the first thing that is wrong is an error."""
    lines = [
        f"catalogue: {len(catalogue.CATALOGUE)} indicators over {len(catalogue.STREAMS)} streams, every worked case holds"
    ]
    for name in cities or names("cities", ""):
        city = city_of(name)
        indicators = catalogue.for_city(city)
        check_rules(city, indicators)
        lines.append(
            f"city {city.id}: {len(city.districts)} districts, {len(city.sites)} sites, {len(city.rules)} rules"
        )
    for name in maps or names("maps", ".toml"):
        mapping = read_mapping(named(name, "maps", ".toml", "mapping"))
        lines.append(f"mapping {mapping.name}: stream {mapping.stream.name}, reads {', '.join(mapping.columns)}")
    return "\n".join(lines) + "\n"


def check_rules(city: City, indicators: Sequence[Indicator]) -> None:
    """A rule must judge an indicator at a level at which it is published."""
    for rule in city.rules:
        indicator = catalogue.indicator(rule.indicator, indicators)
        published = catalogue.levels(indicator, {i.id: i for i in indicators})
        if rule.place_kind not in published:
            raise UserError(
                f"city {city.id}: rule {rule.name!r} judges {rule.indicator} at {rule.place_kind!r}; "
                f"it is published for {', '.join(published)}"
            )


def sql_text(name: str, city_name: str) -> str:
    """The Flink SQL of the rollup that an indicator is made of."""
    from pipelines.engines.flink_job import Job

    city = city_of(city_name)
    found = catalogue.indicator(name, catalogue.for_city(city))
    if not isinstance(found.kind, Panes):
        raise UserError(
            f"{name} has no SQL: it is no rollup of a stream but made by the brain, of {', '.join(found.inputs) or 'cases'}"
        )
    return Job(city.id, [found.kind.rollup], {"bootstrap.servers": "kafka:9092"}).text()


def explain_text(name: str, city_name: str, url: str) -> str:
    """An indicator or a rule, and what a running citybrain says of it now."""
    city = city_of(city_name)
    indicators = catalogue.for_city(city)
    by_id, rules = {i.id: i for i in indicators}, {r.name: r for r in city.rules}
    if name in rules:
        rule = rules[name]
        return (
            "\n".join(
                [
                    *_rule(rule, by_id[rule.indicator]),
                    "",
                    *_indicator(by_id[rule.indicator]),
                    *_now(rule.indicator, url),
                ]
            )
            + "\n"
        )
    if name not in by_id:
        known = list(dict.fromkeys([*by_id, *rules]))
        near = difflib.get_close_matches(name, known, 3, 0.4)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        raise UserError(
            f"{name!r} is neither an indicator nor a rule of city {city.id}; known are {', '.join(known)}.{hint}"
        )
    judged = [line for rule in city.rules if rule.indicator == name for line in ("", *_rule(rule, by_id[name]))]
    return "\n".join([*_indicator(by_id[name]), *judged, *_now(name, url)]) + "\n"


def _indicator(indicator: Indicator) -> list[str]:
    kind = indicator.kind
    lines = [
        f"{indicator.id}: {indicator.en} / {indicator.zh}",
        f"  method      {indicator.method_id}",
        f"  kind        {type(kind).__name__.lower()}{' (reduce)' if isinstance(kind, Panes) and kind.reduce else ''}",
        f"  window      {window(indicator.window)}",
        f"  unit        {indicator.unit}",
    ]
    if indicator.stream is not None:
        lines.append(f"  stream      {indicator.stream.name}: {', '.join(c.name for c in indicator.stream.columns)}")
    lines += _formulas(indicator)
    if isinstance(kind, Composite):
        lines += [f"  part        {p.indicator}, weight {p.weight}, score {p.score}" for p in kind.parts]
    elif indicator.inputs:
        lines.append(f"  from        {', '.join(indicator.inputs)}")
    bounds = indicator.thresholds
    lines.append(
        f"  thresholds  {', '.join(f'{v:g}' for v in bounds.values) or 'none'} [{bounds.grade}] {bounds.source}"
    )
    if indicator.target is not None:
        lines.append(f"  target      {indicator.target:g} {indicator.unit}")
    lines += ["  worked case", *(f"    {_row(row)}" for row in indicator.case.rows)]
    lines.append(f"    gives {indicator.case.gives} ({indicator.case.source})")
    return lines


def _row(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in row.items())


def _rule(rule: Rule, indicator: Indicator) -> list[str]:
    word = "at or above" if rule.direction == "above" else "at or below"
    lines = [
        f"rule {rule.name} (version {rule.version}): {indicator.en}, every {rule.place_kind}, no data: {rule.no_data}"
    ]
    for level in rule.levels:
        lines.append(
            f"  level {level.level.name:<4} {word} {level.raise_:g} {indicator.unit} for {level.for_ms // 1000} s; "
            f"clears past {level.clear:g} after {rule.keep_firing_for_ms // 1000} s"
        )
    return lines


def _now(name: str, url: str) -> list[str]:
    address = f"{url.rstrip('/')}/api/v1/indicators/{urllib.parse.quote(name)}"
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url!r} is no address; write http://127.0.0.1:8080")
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            body: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        return ["", f"now: {url} answers {error.code} for {name}"]
    except (OSError, ValueError, http.client.HTTPException):  # nobody, or something that is no citybrain
        return ["", f"now: no citybrain answers at {url}; start one with `citybrain up`"]
    entries = sorted(body.get("readings", []), key=lambda e: (e["place_kind"] != "city", e["place_kind"], e["place"]))
    lines = ["", f"now, at {url}:" + ("" if entries else " nothing yet")]
    for entry in entries[:SHOWN]:
        value = "-" if entry["value"] is None else f"{entry['value']:g} {entry['unit']}"
        kind = "provisional" if entry["provisional"] else "final"
        lines.append(
            f"  {entry['place_kind']} {entry['place']}: {value} ({kind}, {entry['state']}, {entry['samples']} samples)"
        )
    if len(entries) > SHOWN:
        lines.append(f"  and {len(entries) - SHOWN} more: {address}")
    return lines


def _formulas(indicator: Indicator) -> list[str]:
    """Aggregates and value where they can be read, else the file that has them."""
    kind = indicator.kind
    if not isinstance(kind, Panes):
        return []
    lines = [f"  aggregate   {e.meta.output_name()} = {formula_text(e.meta.undo_aliases())}" for e in kind.aggregate]
    lines.append(f"  value       {formula_text(kind.value)}")
    if any(len(line) > FORMULA_WIDTH or ".when(" in line for line in lines):
        return [f"  formula     in {catalogue.file_of(indicator.id)}"]
    return lines


def formula_text(of: pl.Expr | None) -> str:
    """An expression as one would write it: `sum(veh_tt) / 1000` for `[(col("veh_tt").sum()) / (dyn int: 1000)]`."""
    if of is None:
        return "-"
    text = re.sub(r"dyn (?:int|float): ", "", str(of))
    text = (
        re.sub(r'col\("([^"]+)"\)', r"\1", text).replace(".strict_cast(Float64)", "").replace(".strict_cast(Int64)", "")
    )
    text = re.sub(r"([\w/]+)\.(sum|min|max|first|last|len|count)\(\)", r"\2(\1)", text)
    before = ""
    while before != text:
        before, text = text, re.sub(r"(?<!\w)\(([\w.]+(?:\([\w.]+\))?)\)", r"\1", text)
    return re.sub(r"^\[(.*)\]$", r"\1", text).replace("([", "(").replace("])", ")").replace("[", "(").replace("]", ")")
