"""A profile as text for a terminal, and the mapping that it proposes."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import Final

from connectors.profile import QUANTILES, ColumnProfile, Profile
from connectors.units import is_count
from pipelines.catalogue import STREAMS
from pipelines.streams import Int, Stream, Text

HINTS: Final[dict[str, tuple[str, ...]]] = {
    "link": ("traveltime", "travel_time", "measuredtime", "link", "segment", "avgspeed", "tt_"),
    "det": ("lane", "occupancy", "detector", "volume", "headway"),
    "air": ("pm10", "pm2", "so2", "no2", "o3", "pollutant"),
    "lvl": ("depth", "level", "gauge"),
    "rain": ("rain", "precip"),
    "park": ("spaces", "garage", "parking", "occupied", "capacity", "lot"),
    "inc": ("incident", "on_scene", "received", "dispatch", "battalion"),
    "http": ("status", "response", "url", "method", "useragent", "referer", "bytes"),
    "case": ("activity", "milestone", "lifecycle", "permit", "case_id"),
    "tkt": ("created", "closed", "complaint", "request", "ticket", "agency", "callertype", "ward"),
}
"""What the columns of a stream's sources are often called; a stream that is not here goes by its own names."""
PLACE_WORDS: Final = ("station", "site", "garage", "report_id", "district", "ward", "location", "code", "name", "id")
UNKNOWN: Final = "?"
"""Stands in a proposed mapping for what the profile cannot know; reading it back names the columns there are."""


def render(profile: Profile) -> str:
    """The profile in plain lines; the last part is the proposed mapping, unless one was given."""
    seen = "" if profile.whole else " (the file goes on; only these were looked at)"
    lines = [
        f"{profile.path}: {profile.format_name}, {profile.records:,} records{seen}, {len(profile.columns)} columns",
        f"records equal to an earlier one: {profile.repeated:,}",
        *(f"not readable: {x.position}: {x.reason}: {x.detail}" for x in profile.broken[:3]),
    ]
    if len(profile.broken) > 3:
        lines.append(f"not readable in all: {len(profile.broken):,}")
    lines += ["", *_columns(profile.columns), "", *_late(profile)]
    if profile.mapped is not None:
        lines += ["", *_events(profile)]
    elif (own := own_stream(profile)) is not None:
        named = "" if profile.path.name.split(".")[0] == own.name else f" --stream {own.name}"
        lines += [
            "",
            f"The columns are those of stream {own.name}: no mapping is needed, citybrain replay{named} reads it.",
        ]
    else:
        lines += ["", "A mapping to begin with:", "", skeleton(profile)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _columns(columns: tuple[ColumnProfile, ...]) -> list[str]:
    head = ("column", "kind", "empty", "distinct", "from", "to", "most often")
    rows = [head]
    for c in columns:
        often = ", ".join(f"{_short(w, 16)} ({n:,})" for w, n in c.top[:2])
        nulls = f"{c.empty:,}" + "".join(f" +{n:,} {w}" for w, n in c.null_words[:2])
        rows.append((c.name, c.kind, nulls, f"{c.distinct:,}", _short(c.low), _short(c.high), often))
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _short(text: str, width: int = 24) -> str:
    shown = text.encode("unicode_escape").decode() if any(c < " " for c in text) else text
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def _late(profile: Profile) -> list[str]:
    late = profile.lateness
    if late is None:
        return ["No column reads like a time, so how late rows are is unknown."]
    source = f"column {profile.time_column}" if profile.mapped is None else f"mapping {profile.mapped.name}"
    lines = [
        f"time ({source}): {_time(late.first_ms)} to {_time(late.last_ms)} UTC",
        f"late in file order: {late.late:,} of {late.events:,} ({late.late / late.events:.2%}), "
        f"at most {late.largest_ms / 1000:,.0f} s",
    ]
    if late.late:
        shown = ", ".join(f"{q:.1%} {v / 1000:,.0f} s" for q, v in zip(QUANTILES, late.quantiles_ms, strict=True))
        lines.append(f"lateness of the late ones: {shown}")
    if late.proposed_s is None:
        lines.append('proposed: order = "event_time" (no bound up to an hour covers 99.9 % of the rows)')
    else:
        lines.append(f'proposed: disorder = "{late.proposed_s}s" (the least that covers 99.9 % of the rows)')
    return lines


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def _events(profile: Profile) -> list[str]:
    mapped = profile.mapped
    if mapped is None:
        return []
    key = "it has no key" if mapped.duplicates is None else f"{mapped.duplicates:,} repeat an earlier key"
    lines = [f"mapping {mapped.name}: {mapped.events:,} {mapped.stream} events at {mapped.places:,} places; {key}"]
    lines += [f"  {name}: {low} to {high}" for name, low, high in mapped.ranges if low is not None]
    lines += [f"  refused, {reason}: {n:,}" for reason, n in mapped.refused] or ["  refused: none"]
    lines += [f"    {x.position}: {x.detail}" for x in mapped.examples]
    return lines


def own_stream(profile: Profile) -> Stream | None:
    """The stream whose own columns these are: that of the file's name, else the one that has the most of them."""
    names = {c.name for c in profile.columns}
    fitting = [s for s in STREAMS if {"t", s.place, *(c.name for c in s.columns if not c.nullable)} <= names]
    named = [s for s in fitting if s.name == profile.path.name.split(".")[0]]
    return max(named or fitting, key=lambda s: sum(c.name in names for c in s.columns), default=None)


def nearest_stream(names: tuple[str, ...]) -> Stream:
    """The stream whose usual column names these resemble most; the first declared among equals."""
    low = [n.lower() for n in names]

    def score(stream: Stream) -> int:
        words = (*HINTS.get(stream.name, (stream.place,)), *(c.name for c in stream.columns))
        return sum(any(word in name for name in low) for word in words)

    return max(STREAMS, key=score)


def skeleton(profile: Profile) -> str:
    """A TOML text for the nearest stream: what the profile knows is filled in, the rest says "?"."""
    names = tuple(c.name for c in profile.columns)
    stream = nearest_stream(names)
    lines = [f'stream = "{stream.name}"', f'source = "{profile.path.name}"', f'format = "{profile.format_name}"']
    late = profile.lateness
    if late is not None:
        bound = late.proposed_s
        lines.append('order = "event_time"' if bound is None else f'disorder = "{bound}s"')
    if profile.delimiter not in ("", ","):
        lines += ["", "[csv]", f"delimiter = {_quoted(profile.delimiter)}"]
    time = next((c for c in profile.columns if c.name == profile.time_column), None)
    lines += ["", "[time]", f"column = {_quoted(time.name if time else UNKNOWN)}"]
    lines.append(f'format = "{time.time_format if time and time.time_format else "iso"}"')
    if time is None or not str(time.time_format).startswith("unix"):
        lines.append('zone = "UTC"  # of times without an offset: is it?')
    lines += ["", "[place]", f"column = {_quoted(_place(profile, stream))}", "", "[fields]"]
    for column in stream.columns:
        if column.nullable and not isinstance(column, Text | Int):
            continue
        near = _nearest(column.name, names) or UNKNOWN
        spec = f"column = {_quoted(near)}"
        if isinstance(column, Int) and not is_count(column.unit):
            spec += f', unit = "{column.unit}"'
        if isinstance(column, Text) and column.values:
            spec += f", values = {{ {_quoted(UNKNOWN)} = {_quoted(column.values[0])} }}"
        optional = "# " if column.nullable and near == UNKNOWN else ""
        lines.append(f"{optional}{column.name} = {{ {spec} }}")
    nulls = [(c.name, c.null_words) for c in profile.columns if c.null_words and c.kind != "integer"]
    if nulls:
        lines += ["", "[null_when]"]
        lines += [f"{_quoted(n)} = [{', '.join(_quoted(w) for w, _ in words)}]" for n, words in nulls]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("\n", "\\n") + '"'


def _nearest(name: str, names: tuple[str, ...]) -> str | None:
    found = difflib.get_close_matches(name, names, 1, 0.5)
    return found[0] if found else next((n for n in names if name.split("_")[0] in n.lower()), None)


def _place(profile: Profile, stream: Stream) -> str:
    """A column that repeats and is called like a place."""
    most = max(2, profile.records // 3)
    repeats = [
        c
        for c in profile.columns
        if c.kind in ("text", "integer") and (1 < c.distinct <= most or c.name.lower() == stream.place)
    ]
    for word in (stream.place, *PLACE_WORDS):
        for column in repeats:
            if word in column.name.lower():
                return column.name
    return UNKNOWN
