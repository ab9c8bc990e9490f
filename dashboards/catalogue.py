"""What the API and the page say about an indicator: names, unit, domain, thresholds, and when its reading is old."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from pipelines.city import City
from pipelines.indicator import Composite, Derived, Good, Panes, Thresholds
from pipelines.streams import DAY_MS, Stream
from pipelines.windows import Slide, Window

DOMAINS: Final[Mapping[str, tuple[str, str]]] = {
    "city": ("城市体征", "City"),
    "traffic": ("交通出行", "Traffic"),
    "environment": ("生态环境", "Environment"),
    "safety": ("公共安全", "Public safety"),
    "government": ("政务服务", "Government services"),
    "health": ("医疗健康", "Health"),
    "elderly": ("养老关爱", "Elderly care"),
    "fiscal": ("财政支付", "Fiscal and payment"),
    "living": ("城市生活", "City life"),
}
"""Order of the sections on the page: the composite first, then the eight domains."""


class Shown(Protocol):
    """The part of `pipelines.indicator.Indicator` that is shown."""

    @property
    def id(self) -> str: ...
    @property
    def method_id(self) -> str: ...
    @property
    def zh(self) -> str: ...
    @property
    def en(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def window(self) -> Window: ...
    @property
    def thresholds(self) -> Thresholds: ...
    @property
    def good(self) -> Good: ...
    @property
    def target(self) -> float | None: ...
    @property
    def decimals(self) -> int: ...
    @property
    def stream(self) -> Stream | None: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> object: ...


def levels(indicator: Shown, known: Mapping[str, Shown]) -> tuple[str, ...]:
    """Place kinds at which it is published: its own, else those of its stream, else those that all its inputs have."""
    match indicator.kind:
        case Panes(levels=(_, *_) as own) | Derived(levels=(_, *_) as own) | Composite(levels=(_, *_) as own):
            return own
    if indicator.stream is not None:
        return indicator.stream.levels
    of_inputs = [levels(known[i], known) for i in indicator.inputs if i in known]
    return tuple(kind for kind in of_inputs[0] if all(kind in x for x in of_inputs)) if of_inputs else ()


def definition(indicator: Shown, city: City, known: Mapping[str, Shown]) -> dict[str, Any]:
    """One indicator for JSON. Thresholds are the city's where it overrides them.

    A reading is stale when its window ended more than `stale_after_s` ago, and silent after `no_data_after_s`; both
    are views on live surfaces and never stored (rule 21).
    """
    step_ms = indicator.window.step_ms if isinstance(indicator.window, Slide) else DAY_MS
    size_ms = indicator.window.size_ms if isinstance(indicator.window, Slide) else DAY_MS
    overridden = city.thresholds.get(indicator.id)
    return {
        "id": indicator.id,
        "method_id": indicator.method_id,
        "zh": indicator.zh,
        "en": indicator.en,
        "unit": indicator.unit,
        "domain": indicator.domain,
        "stream": indicator.stream.name if indicator.stream is not None else None,
        "levels": list(levels(indicator, known)),
        "window": {
            "kind": "slide" if isinstance(indicator.window, Slide) else "day",
            "size_s": size_ms // 1000,
            "step_s": step_ms // 1000,
        },
        "thresholds": {
            "values": list(indicator.thresholds.values if overridden is None else overridden),
            "grade": indicator.thresholds.grade if overridden is None else "city",
            "source": indicator.thresholds.source if overridden is None else f"city pack {city.id}",
        },
        "good": indicator.good,
        "target": indicator.target,
        "decimals": indicator.decimals,
        "stale_after_s": max(5, 3 * step_ms // 1000),
        "no_data_after_s": 20 * step_ms // 1000,
    }


def catalogue(indicators: Iterable[Shown], city: City) -> dict[str, Any]:
    """All that the page needs to name what it shows: the city, its districts, the domains, the indicators."""
    known = {i.id: i for i in indicators}
    return {
        "city": {
            "id": city.id,
            "zh": city.zh,
            "en": city.en,
            "zone": city.zone,
            "districts": [{"id": d.id, "zh": d.zh, "en": d.en} for d in city.districts],
        },
        "domains": [{"id": name, "zh": zh, "en": en} for name, (zh, en) in DOMAINS.items()],
        "indicators": [definition(i, city, known) for i in known.values()],
    }
