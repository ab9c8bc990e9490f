"""The toy stream of the golden vectors as the product declares indicators, and a run of a case through engine and brain."""

from __future__ import annotations

import random
from typing import Any

import polars as pl

from pipelines.alerts import Level, Rule, Threshold
from pipelines.brain import Brain, Step
from pipelines.city import City, District, Site
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.indicator import Case as WorkedCase
from pipelines.indicator import Indicator, Panes, Thresholds
from pipelines.model import NEVER, PlaceRegistry, Stamped
from pipelines.rollup import Rollup
from pipelines.streams import Stream
from pipelines.windows import Day, Slide, Window, tumble
from tests.conformance.toy import DEMO, DEMO_ROLLUP

Case = dict[str, Any]
PANE = 60_000
SCHEMA = {"off": pl.Int64, "t": pl.Int64, "wm": pl.Int64, "late": pl.Boolean, "place": pl.UInt32}
SCHEMA |= {"value": pl.Int64, "weight": pl.Int64}
WINDOWS: dict[str, Window] = {
    "mean5": tumble(300_000),
    "mean15": Slide(900_000, 300_000),
    "meanday": Day(),
    "hot5": tumble(300_000),
}
RATIO = pl.col("num") / pl.col("den")
SUMS = (pl.col("vw").sum().alias("num"), pl.col("w").sum().alias("den"))


def stream(config: Case) -> Stream:
    """The toy stream with the case's period and retirement."""
    period = config.get("period", 60)
    return Stream(
        "demo", "place", DEMO.columns, 60_000, round(period * 1000) if period else None, ("id",), 3_600_000,
        retire_after_ms=round(config.get("retire_after", 86_400) * 1000),
    )  # fmt: skip


def indicators(config: Case) -> list[Indicator]:
    rollup = Rollup("demo", stream(config), PANE, DEMO_ROLLUP.measures)
    no_thresholds = Thresholds((), "P", "toy")
    worked = WorkedCase(({"pane_start": 0, "vw": 30, "w": 2},), 15.0, "toy")
    limit = config.get("limit", 50)
    hot = (
        pl.when(pl.col("den") > 0).then((limit <= RATIO).cast(pl.Int64)).otherwise(0).alias("num"),
        (pl.col("den") > 0).fill_null(False).cast(pl.Int64).alias("den"),
    )
    out = []
    for name in config.get("indicators", ["mean5"]):
        if name == "hot5":
            kind = Panes(rollup, SUMS, RATIO, partial=hot, reduce=True, levels=("district", "city"))
            case = WorkedCase(({"pane_start": 0, "vw": 2 * limit, "w": 2},), 1.0, "toy")
        else:
            kind, case = Panes(rollup, SUMS, RATIO), worked
        out.append(Indicator(name, name, name, name, "points", "city", WINDOWS[name], kind, no_thresholds, case))
    return out


def rules(config: Case) -> tuple[Rule, ...]:
    given = config.get("rule")
    if not given:
        return ()
    rule = {
        "name": "hot",
        "version": 1,
        "indicator": "mean5",
        "place_kind": "site",
        "keep_firing_for": 0,
        "no_data": "hold",
    } | given
    levels = tuple(
        Threshold(Level[x["level"]], x["raise"], x["clear"], round(x.get("for", 0) * 1000)) for x in rule["levels"]
    )
    return (
        Rule(
            rule["name"], rule["version"], rule["indicator"], rule["place_kind"], levels,
            round(rule["keep_firing_for"] * 1000), rule["no_data"],
            correct_for_ms=round(config.get("correct_for", 604_800) * 1000),
        ),
    )  # fmt: skip


def city(config: Case) -> City:
    places = config.get("places", {})
    return City(
        "city", "玩", "toy", config.get("zone", "Asia/Shanghai"),
        tuple(District(d, d, d) for d in dict.fromkeys(places.values())),
        tuple(Site("demo", site, district) for site, district in places.items()),
        rules(config),
    )  # fmt: skip


class Run:
    """One case: its expected log through the engine and the brain, a step whenever time passed a pane or an event came late."""

    def __init__(
        self, case: Case, rnd: random.Random | None = None, share: float = 0.5, forgetful: bool = False
    ) -> None:
        """`rnd`: only this share of the steps, at random. `forgetful`: panes are evicted as soon as no coming window
        needs them, and read back from what was stored."""
        config = case["config"]
        self.case, self.config, self.rnd, self.share = case, config, rnd, share
        self.registry = PlaceRegistry()
        self.parts = list(dict.fromkeys(i["part"] for i in config.get("inputs", {"a": {"part": "p0"}}).values()))
        self.engine = PolarsEngine([Rollup("demo", stream(config), PANE, DEMO_ROLLUP.measures)], self.parts)
        self.stored: list[pl.DataFrame] = []
        self.brain = Brain(
            city(config),
            indicators(config),
            {"demo": self.registry},
            repeats="redelivered" in case,
            older=self._older if forgetful else None,
            remember_ms=0,
        )
        self.loads = 0
        self.steps: list[Step] = []
        self.pending: dict[str, list[dict[str, Any]]] = {}

    def _older(self, rollup: Rollup, since: int, until: int) -> pl.DataFrame:
        self.loads += 1
        return pl.concat(self.stored).filter(pl.col("pane_start").is_between(since, until, closed="left"))

    def _flush(self) -> None:
        for part, run in self.pending.items():
            events = pl.DataFrame(run, schema=SCHEMA, orient="row")
            self.engine.add(Stamped("demo", part, events, run[0]["off"], run[-1]["wm"]))
        self.pending = {}

    def _step(self, watermark: int, rows: list[Any] | None = None) -> None:
        rows = self.engine.take() if rows is None else rows
        self.steps.append(self.brain.step(rows, (), {"demo": watermark}, len(self.steps) + 1))
        self.stored += [one.rows for one in rows]

    def go(self) -> None:
        latest, watermark = dict.fromkeys(self.parts, NEVER), NEVER
        for record in self.case["expected"]["log"]:
            part, wm = record["part"], NEVER if record["wm"] is None else record["wm"]
            before = watermark
            latest[part] = wm
            if "t" in record:
                event = {k: record[k] for k in ("off", "t", "late", "value", "weight")}
                self.pending.setdefault(part, []).append(
                    event | {"wm": wm, "place": self.registry.code(record["place"])}
                )
            else:
                self._flush()
                self.engine.add(Stamped("demo", part, None, record["off"], wm))
            watermark = min(latest.values())
            moved = watermark // PANE > before // PANE or record.get("late", False)
            if watermark > NEVER and moved and (self.rnd is None or self.rnd.random() < self.share):
                self._flush()
                self._step(watermark)
        self._flush()
        self._finish(watermark)

    def _finish(self, watermark: int) -> None:
        config, expected = self.config, self.case["expected"]
        if config.get("live", False):
            if watermark > NEVER:
                self._step(watermark)
            self._redeliver(watermark)
            return
        if expected["watermark"] is None:
            return
        if config.get("until_s") is None:
            self._step(expected["watermark"], self.engine.finish())
            self._redeliver(expected["watermark"])
            self.steps.append(self.brain.close(len(self.steps) + 1))
        else:
            for part in self.parts:
                self.engine.add(Stamped("demo", part, None, 0, expected["watermark"]))
            self._step(expected["watermark"])

    def _redeliver(self, watermark: int) -> None:
        if rows := self.case.get("redelivered"):
            frame = pl.DataFrame(
                [{**r, "place": self.registry.code(r["place"])} for r in rows],
                schema={"place": pl.UInt32, "pane_start": pl.Int64, "vw": pl.Int64, "w": pl.Int64, "n": pl.Int64,
                        "as_of": pl.Int64, "late": pl.Boolean, "part": pl.String, "off": pl.Int64},
                orient="row",
            )  # fmt: skip
            from pipelines.model import Rows

            self._step(watermark, [Rows("demo", frame, frame.clear(), watermark)])

    def readings(self) -> list[dict[str, Any]]:
        """The newest revision of every cell."""
        frame = pl.concat([s.readings for s in self.steps]) if self.steps else pl.DataFrame()
        key = ["indicator", "place_kind", "place", "window_start", "window_end"]
        return [] if frame.is_empty() else frame.unique(key, keep="last", maintain_order=True).to_dicts()
