"""Renders the catalogue as `docs/indicators.md`; `make fix` writes it, a test compares it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.indicator import Cases, Composite, Derived, Indicator, Panes, Stock, Thresholds
from pipelines.streams import DAY_MS, HOUR_MS, MINUTE_MS
from pipelines.windows import Day, Window

HEAD = """\
# Indicators

Generated from `pipelines/catalogue/` by `make fix`; do not edit. Evidence: V = read in the primary document (or a
transcription of it), S = a secondary source, P = our proposal, never to be shown as a standard. A city pack may set
`[thresholds]`, the `[weights]` of composites and the parameters named here. Times of worked cases are the window's.
"""
DOMAINS: Mapping[str, str] = {
    "traffic": "Traffic and parking",
    "environment": "Environment",
    "safety": "Public safety",
    "government": "Government services",
    "health": "Health",
    "elderly": "Elderly care",
    "fiscal": "Fiscal and payment",
    "living": "City life",
    "city": "The city as a whole",
}


def render() -> str:
    """The page: one table of all indicators, then one section a domain with method, bands and worked case."""
    from pipelines.catalogue import CATALOGUE, TUNABLE

    by_domain = {d: [i for i in CATALOGUE if i.domain == d] for d in DOMAINS}
    out = [HEAD, "| id | zh | en | unit | kind | window | places |", "|---|---|---|---|---|---|---|"]
    known = {i.id: i for i in CATALOGUE}
    for each in (i for group in by_domain.values() for i in group):
        cells = (f"`{each.id}`", each.zh, each.en, each.unit, kind(each), window(each.window), places(each, known))
        out.append(_row(cells))
    for domain, group in by_domain.items():
        if group:
            out.append(f"\n## {DOMAINS[domain]}")
            out += [line for each in group for line in section(each, TUNABLE.get(each.id))]
    return "\n".join(out) + "\n"


def section(each: Indicator, tunable: Any = None) -> list[str]:
    """One indicator in full."""
    import inspect

    lines = [
        f"\n### `{each.id}` {each.zh} / {each.en}\n",
        f"- method: {each.method_id}; {kind(each)}, {window(each.window)}; unit {each.unit}; {reads(each)}",
        f"- thresholds: {bands(each.thresholds)}; good is {each.good}"
        + (f"; target {each.target:g}" if each.target is not None else ""),
        f"- samples needed: {each.min_samples}",
        f"- worked case: {_number(each.case.gives)} ({each.case.source})",
    ]
    if isinstance(each.kind, Composite):
        weights = ", ".join(f"`{p.indicator}` {p.weight}" for p in each.kind.parts)
        lines.append(f"- weights: {weights}; null when more than {each.kind.missing_share:.0%} of them are missing")
    if tunable is not None:
        parameters = inspect.signature(tunable).parameters.values()
        lines.append("- parameters: " + ", ".join(f"`{p.name} = {p.default!r}`" for p in parameters))
    return lines


def kind(each: Indicator) -> str:
    """The word of rule 18 for its kind."""
    match each.kind:
        case Panes(by_bucket=True):
            return "histogram"
        case Panes(reduce=True):
            return "reduce"
        case Panes(lookback_ms=lookback) if lookback:
            return "as-of"
        case Panes():
            return "merge"
        case Cases():
            return "lifecycle"
        case Stock():
            return "stock"
        case Derived():
            return "derived"
        case Composite():
            return "composite"


def reads(each: Indicator) -> str:
    """Its stream or its inputs."""
    if each.stream is not None:
        return f"stream `{each.stream.name}`"
    return "from " + ", ".join(f"`{name}`" for name in each.inputs)


def places(each: Indicator, known: dict[str, Indicator]) -> str:
    from pipelines.catalogue.graph import levels

    return ", ".join(levels(each, known))


def window(of: Window) -> str:
    """'every 5 min', '24 h every 5 min' or 'local day'."""
    if isinstance(of, Day):
        return "local day"
    if of.size_ms == of.step_ms:
        return f"every {length(of.size_ms)}"
    return f"{length(of.size_ms)} every {length(of.step_ms)}"


def length(ms: int) -> str:
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", 1000)):
        if ms % size == 0 and (unit != "d" or ms > DAY_MS):
            return f"{ms // size} {unit}"
    return f"{ms} ms"


def bands(of: Thresholds) -> str:
    values = " / ".join(_number(v) for v in of.values) or "none"
    return f"{values} [{of.grade}] {of.source}"


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.6g}"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
