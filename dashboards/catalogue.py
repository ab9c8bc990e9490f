"""What the API and the page say about an indicator: names, unit, domain, thresholds, and when its reading is old."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dashboards.panels import described
from pipelines.catalogue.graph import levels
from pipelines.city import City
from pipelines.indicator import Indicator
from pipelines.streams import DAY_MS
from pipelines.windows import Slide

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


def definition(indicator: Indicator, city: City, known: dict[str, Indicator]) -> dict[str, Any]:
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


def catalogue(indicators: Iterable[Indicator], city: City) -> dict[str, Any]:
    """All that the page needs to name what it shows: the city, its districts, the domains, the indicators."""
    known = {i.id: i for i in indicators}
    return {
        "city": {
            "id": city.id,
            "zh": city.zh,
            "en": city.en,
            "zone": city.zone,
            "outlined": bool(city.outlines),
            "districts": [{"id": d.id, "zh": d.zh, "en": d.en} for d in city.districts],
        },
        "domains": [{"id": name, "zh": zh, "en": en} for name, (zh, en) in DOMAINS.items()],
        "indicators": [definition(i, city, known) for i in known.values()],
        "screens": described(known),
    }
