"""What each screen shows: a list of panels, an entry each. Adding a panel is adding one.

A screen is a grid of 24 columns and 11 rows below its header; `area` is (column, row, columns, rows), from 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Kind = Literal["kpi", "line", "map", "ranking", "alerts", "timeline", "sources"]
"""`kpi`: one indicator of the city. `line`: the last hours of up to two. `map`: districts by one, which `M` changes. `ranking`:
districts in order. `alerts`: what is open. `timeline`: how many began in each hour. `sources`: the health of each stream."""
COLUMNS: Final = 24
ROWS: Final = 11
LINES: Final = 2
"""Indicators of one line panel: it has two axes."""


@dataclass(frozen=True, slots=True)
class Panel:
    id: str
    kind: Kind
    zh: str
    en: str
    area: tuple[int, int, int, int]
    indicators: tuple[str, ...] = ()
    """Ids of the catalogue; those that a city does not have are left out, and a panel that is left with none is, too."""
    turns: bool = False
    """A line panel that shows its indicators one after the other instead of together."""


@dataclass(frozen=True, slots=True)
class Screen:
    id: str
    zh: str
    en: str
    panels: tuple[Panel, ...]


KPIS: Final = (
    "city.vital_sign",
    "traffic.tpi",
    "traffic.speed",
    "aqi.realtime",
    "hotline.answer_15s",
    "approval.one_second",
)


def strip(screen: str, indicators: tuple[str, ...]) -> tuple[Panel, ...]:
    """A row of key figures."""
    width = COLUMNS // len(indicators)
    return tuple(
        Panel(f"{screen}.kpi{n}", "kpi", "", "", (1 + n * width, 1, width, 1), (name,))
        for n, name in enumerate(indicators)
    )


def side(screen: str, ranked: str) -> tuple[Panel, ...]:
    """What every screen has at its right: districts in order, and open alerts."""
    return (
        Panel(f"{screen}.ranking", "ranking", "各区排行", "Districts in order", (19, 2, 6, 4), (ranked,)),
        Panel(f"{screen}.alerts", "alerts", "实时预警", "Open alerts", (19, 6, 6, 6)),
    )


def foot(screen: str) -> tuple[Panel, ...]:
    return (
        Panel(f"{screen}.timeline", "timeline", "预警时间线（24 小时）", "Alerts by hour (24 h)", (1, 10, 12, 2)),
        Panel(f"{screen}.sources", "sources", "数据来源", "Sources", (13, 10, 6, 2)),
    )


OVERVIEW: Final = Screen(
    "overview", "城市运行态势总览", "City operations overview",
    (
        *strip("overview", KPIS),
        Panel("overview.traffic", "line", "路网交通指数", "Traffic performance", (1, 2, 6, 4), ("traffic.tpi",)),
        Panel(
            "overview.turns", "line", "环境与服务", "Environment and services", (1, 6, 6, 4),
            ("aqi.realtime", "water.depth", "http.p95", "parking.occupancy"), turns=True,
        ),
        Panel(
            "overview.map", "map", "区级运行热力", "Districts", (7, 2, 12, 8),
            ("traffic.tpi", "aqi.realtime", "water.depth", "hotline.answer_15s", "parking.occupancy"),
        ),
        *side("overview", "traffic.tpi"),
        *foot("overview"),
    ),
)  # fmt: skip
TRAFFIC: Final = Screen(
    "traffic", "交通出行", "Traffic",
    (
        *strip(
            "traffic",
            ("traffic.tpi", "traffic.speed", "traffic.tti", "traffic.congested_mileage", "accident.settled_5min",
             "parking.occupancy"),
        ),
        Panel(
            "traffic.speed", "line", "速度与拥堵里程", "Speed and congested mileage", (1, 2, 6, 4),
            ("traffic.speed", "traffic.congested_mileage"),
        ),
        Panel(
            "traffic.detectors", "line", "流量与占有率", "Flow and occupancy", (1, 6, 6, 4),
            ("traffic.flow", "traffic.occupancy"),
        ),
        Panel(
            "traffic.map", "map", "各区路况", "Traffic by district", (7, 2, 12, 8),
            ("traffic.tpi", "traffic.speed", "traffic.tti", "traffic.congested_mileage", "parking.occupancy"),
        ),
        *side("traffic", "traffic.tpi"),
        *foot("traffic"),
    ),
)  # fmt: skip
WATER_AIR: Final = Screen(
    "water-air", "水情与空气", "Water and air",
    (
        *strip("water-air", ("water.depth", "water.rise", "rain.3h", "rain.12h", "aqi.realtime", "aqi.realtime_2012")),
        Panel("water-air.depth", "line", "道路积水", "Water on roads", (1, 2, 6, 4), ("water.depth", "rain.3h")),
        Panel("water-air.aqi", "line", "空气质量", "Air quality", (1, 6, 6, 4), ("aqi.realtime",)),
        Panel(
            "water-air.map", "map", "各区水情与空气", "Water and air by district", (7, 2, 12, 8),
            ("water.depth", "rain.3h", "aqi.realtime", "rain.12h"),
        ),
        *side("water-air", "water.depth"),
        *foot("water-air"),
    ),
)  # fmt: skip
SERVICE: Final = Screen(
    "service", "政务服务", "Government services",
    (
        *strip(
            "service",
            ("approval.one_second", "licence.same_day", "case.zero_visit", "case.overdue", "hotline.answer_15s",
             "hotline.feedback_in_time"),
        ),
        Panel(
            "service.portal", "line", "门户响应与错误", "Portal latency and errors", (1, 2, 6, 4),
            ("http.p95", "http.error_ratio"),
        ),
        Panel(
            "service.hotline", "line", "12345 热线", "12345 hotline", (1, 6, 6, 4),
            ("hotline.answer_15s", "case.overdue"),
        ),
        Panel(
            "service.map", "map", "各区服务", "Services by district", (7, 2, 12, 8),
            ("hotline.answer_15s", "http.apdex", "approval.one_second", "case.overdue"),
        ),
        *side("service", "hotline.answer_15s"),
        *foot("service"),
    ),
)  # fmt: skip
ALERTS: Final = Screen(
    "alerts", "预警", "Alerts",
    (
        *strip("alerts", KPIS),
        Panel("alerts.map", "map", "预警分布", "Where alerts are", (1, 2, 12, 8), ("traffic.tpi", "water.depth", "aqi.realtime")),
        Panel("alerts.list", "alerts", "实时预警", "Open alerts", (13, 2, 12, 8)),
        Panel("alerts.timeline", "timeline", "预警时间线（24 小时）", "Alerts by hour (24 h)", (1, 10, 16, 2)),
        Panel("alerts.sources", "sources", "数据来源", "Sources", (17, 10, 8, 2)),
    ),
)  # fmt: skip
SCREENS: Final = (OVERVIEW, TRAFFIC, WATER_AIR, SERVICE, ALERTS)


def charted(screens: Iterable[Screen] = SCREENS) -> frozenset[str]:
    """The indicators whose last hours are shown, for the city as a whole."""
    return frozenset(name for s in screens for p in s.panels if p.kind in ("line", "kpi") for name in p.indicators)


def described(known: Collection[str], screens: Iterable[Screen] = SCREENS) -> list[dict[str, Any]]:
    """The screens for JSON, without what the city does not have. ValueError for a panel that cannot be drawn."""
    out = []
    for screen in screens:
        panels = []
        for panel in screen.panels:
            _checked(screen, panel)
            names = [name for name in panel.indicators if name in known]
            if names or not panel.indicators:
                own = {"id": panel.id, "kind": panel.kind, "zh": panel.zh, "en": panel.en, "area": panel.area}
                panels.append(own | {"indicators": names, "turns": panel.turns})
        out.append({"id": screen.id, "zh": screen.zh, "en": screen.en, "panels": panels})
    return out


def _checked(screen: Screen, panel: Panel) -> None:
    column, row, columns, rows = panel.area
    if panel.kind not in get_args(Kind):
        raise ValueError(f"panel {panel.id!r}: kind {panel.kind!r} is none of {', '.join(get_args(Kind))}")
    if not (column >= 1 and row >= 1 and columns >= 1 and rows >= 1):
        raise ValueError(f"panel {panel.id!r}: area {panel.area} begins before the grid, or is empty")
    if column + columns - 1 > COLUMNS or row + rows - 1 > ROWS:
        raise ValueError(f"panel {panel.id!r}: area {panel.area} leaves the grid of {COLUMNS} columns and {ROWS} rows")
    if panel.kind == "line" and not panel.turns and len(panel.indicators) > LINES:
        raise ValueError(f"panel {panel.id!r} has {len(panel.indicators)} lines; {LINES} at most, or turns=True")
    mine = {(c, r) for c in range(column, column + columns) for r in range(row, row + rows)}
    for other in screen.panels:
        c, r, w, h = other.area
        if other is not panel and any((x, y) in mine for x in range(c, c + w) for y in range(r, r + h)):
            raise ValueError(f"panels {panel.id!r} and {other.id!r} of screen {screen.id!r} lie upon each other")
