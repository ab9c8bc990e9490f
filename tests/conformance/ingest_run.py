"""Feeds cases in the format of the golden vectors to ingest, in blocks of any size, and compares all that comes out."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import groupby
from typing import Any

import polars as pl

from pipelines.event_id import event_ids
from pipelines.ingest import Ingest, Input
from pipelines.model import NEVER, DeadLetter, Decoded, PlaceRegistry, Stamped
from tests.conformance.toy import DEMO, RANDOM_CASES, model

Case = dict[str, Any]
SCHEMA = {"record": pl.Int64, "index": pl.Int32, "t": pl.Int64, "id": pl.String, "place": pl.String}
SCHEMA |= {"value": pl.Int64, "weight": pl.Int64}


def expect(case: Case) -> Case:
    """The case with what the model's ingest makes of it; the model's slow part, the readings, is not needed here."""
    case = json.loads(json.dumps(case))
    cfg = model().configure(case)
    done = model().ingest(case, cfg)
    largest = max(i.M for i in done.inputs.values())
    last = dict.fromkeys(cfg.parts, NEVER) | {r["part"]: NEVER if r["wm"] is None else r["wm"] for r in done.log}
    watermark = min(last.values())
    if not cfg.live and largest > NEVER:
        watermark = max(largest // 60_000 * 60_000 + 60_000, cfg.until)
    expected = {"log": done.log, "refused": done.refused, "counters": done.counters}
    return case | {"expected": expected | {"watermark": None if watermark == NEVER else watermark}}


@cache
def generated(n: int = RANDOM_CASES, first: int = 1) -> list[tuple[str, Case]]:
    """Generated cases."""
    return [(f"random {seed}", expect(model().generate(seed))) for seed in range(first, first + n)]


class Source:
    """What a decoder would make of the records of an input, in any blocks; and the vectors' id of every hash."""

    def __init__(self, name: str, records: list[dict[str, Any]], rnd: random.Random) -> None:
        self.name = name
        self.at: list[int] = []  # events before each record
        good: list[dict[str, Any]] = []
        self.bad: dict[int, DeadLetter] = {}
        for k, r in enumerate(records):
            self.at.append(len(good))
            integers = all(isinstance(r.get(x), int) for x in ("t", "value", "weight"))
            if "control" in r:
                continue
            if not integers or not -1000 <= r["value"] <= 100_000 or not 0 <= r["weight"] <= 1000:
                self.bad[k] = DeadLetter(name, str(k + 1), "demo", "wrong_type", "", "")
            else:
                good.append({x: r[x] for x in ("t", "id", "place", "value", "weight")} | {"record": k + 1, "index": 0})
                good[-1]["arrival"] = r.get("arrival", r.get("at"))
        self.at.append(len(good))
        frame = pl.DataFrame(good, schema=SCHEMA | {"arrival": pl.Int64}, orient="row")
        hashed = event_ids(frame, DEMO)
        self.texts = dict(zip(hashed, frame["id"], strict=True))
        kind = rnd.choice([pl.String, pl.Categorical, pl.Enum(frame["place"].unique().sort())])
        frame = frame.with_columns(hashed, pl.col("place").cast(kind))
        plain = not any("arrival" in r for r in records) and rnd.random() < 0.8
        self.frame = frame.drop("arrival") if plain else frame

    def block(self, first: int, end: int) -> Decoded:
        """Records `first` (from 0) to before `end`."""
        events = self.frame.slice(self.at[first], self.at[end] - self.at[first])
        bad = tuple(self.bad[k] for k in range(first, end) if k in self.bad)
        return Decoded(self.name, "demo", events, bad, end + 1, end - first)


class Run:
    """Feeds a case to an ingest and collects what comes out, in the words of the vectors."""

    def __init__(self, case: Case, rnd: random.Random, longest: int) -> None:
        self.case, self.rnd, self.longest = case, rnd, longest
        cfg = model().configure(case)
        self.cfg, self.registry = cfg, PlaceRegistry()
        stream = DEMO if cfg.dedup else replace(DEMO, dedup=None)
        inputs = [
            Input(name, i["part"], round(i["D"] * 1000) if "D" in i else None, i.get("joins", False))
            for name, i in cfg.inputs.items()
        ]
        self.ingest = Ingest(
            stream,
            inputs,
            live=cfg.live,
            registry=self.registry,
            configured=cfg.places,
            max_places=cfg.max_places,
            start=cfg.origin,
            disorder_ms=cfg.D,
            horizon_ms=cfg.H,
            future_ms=cfg.F,
            jump_ms=cfg.J,
            max_lag_ms=cfg.max_lag,
            idle_timeout_ms=cfg.idle_timeout,
        )
        self.sources = {name: Source(name, case["input"].get(name, []), rnd) for name in cfg.inputs}
        self.texts = {hashed: text for source in self.sources.values() for hashed, text in source.texts.items()}
        self.log: dict[str, list[dict[str, Any]]] = {part: [] for part in cfg.parts}
        (self.live if cfg.live else self.files)()

    def take(self, runs: list[Stamped]) -> None:
        for run in runs:
            log = self.log[run.part]
            assert run.off == len(log)
            if run.events is None:
                log.append({"part": run.part, "off": run.off, "wm": run.last_wm})
            else:
                assert run.events.height and run.last_wm == run.events["wm"][-1]
                assert run.events.columns == ["off", "t", "wm", "late", "id", "place", "value", "weight"]
                log += [{"part": run.part} | r for r in run.events.to_dicts()]
        if self.rnd.random() < 0.01:
            self.ingest = pickle.loads(pickle.dumps(self.ingest))
            self.registry = self.ingest.places.registry
        c = self.ingest.counters
        assert c["received"] == c["accepted"] + c["duplicate"] + c["rejected"] + c["quarantined"], "rule 11"
        assert c["accepted"] == c["on_time"] + c["late"], "rule 11"

    def push(self, name: str, first: int, end: int, now: int, last: bool = False) -> None:
        self.take(self.ingest.push(self.sources[name].block(first, end), now, last))

    def live(self) -> None:
        """By the clock; at one instant records in the order of the inputs, then the tick."""
        inputs = self.case["input"]
        script = [
            (r["at"], n, k, name, r)
            for n, name in enumerate(self.cfg.inputs)
            for k, r in enumerate(inputs.get(name, []))
        ]
        script += [(now, 99, 0, "", {}) for now in self.case["clock"]]
        for (now, _, name), group in groupby(sorted(script, key=lambda x: x[:3]), key=lambda x: (x[0], x[1], x[3])):
            waiting: list[int] = []  # records of one block
            for _, _, k, _, r in [*group, (0, 0, 0, "", {"control": ""})]:
                if waiting and ("control" in r or len(waiting) >= self.longest):
                    self.push(name, waiting[0], waiting[-1] + 1, now)
                    waiting = []
                if not r:
                    self.take(self.ingest.tick(now))
                elif r.get("control") == "end":
                    self.take(self.ingest.end(name, now))
                elif r.get("control") == "join":
                    self.ingest.join(name, now)
                elif "control" not in r:
                    waiting.append(k)

    def files(self) -> None:
        at = dict.fromkeys(self.cfg.inputs, 0)
        mixed = len({feed.disorder_ms for feed in self.ingest.feeds.values()}) > 1
        while (name := self.ingest.wanted()) is not None:
            first, last = at[name], len(self.sources[name].at) - 1
            at[name] = min(last, first + self.rnd.randint(1, self.longest))
            ends = at[name] == last and (mixed or first == last or self.rnd.random() < 0.8)
            if first < last:
                self.push(name, first, at[name], self.cfg.origin, ends)
            elif ends:
                self.take(self.ingest.end(name, self.cfg.origin))

    def found(self) -> dict[str, Any]:
        log = [
            {
                **({k: r[k] for k in r if k not in ("id", "place", "wm")}),
                "wm": None if r["wm"] == NEVER else r["wm"],
                **({"place": self.registry.ids[r["place"]]} if "t" in r else {}),
                **({"id": self.texts.get(r["id"], r["id"])} if "t" in r and self.cfg.dedup else {}),
            }
            for part in self.cfg.parts
            for r in self.log[part]
        ]
        letters = [
            {"input": x.source, "position": int(x.position) - 1, "why": x.kind} for x in self.ingest.dead_letters()
        ]
        watermark = self.ingest.watermark
        if not self.cfg.live:
            watermark = (
                NEVER
                if self.ingest.largest == NEVER
                else max(self.ingest.largest // 60_000 * 60_000 + 60_000, self.cfg.until)
            )
        return {
            "log": log,
            "refused": letters,
            "counters": self.ingest.counters,
            "watermark": None if watermark == NEVER else watermark,
        }


def compare(cases: list[tuple[str, Case]], seed: int = 5) -> Counter[str]:
    rnd, compared = random.Random(seed), Counter[str]()
    for name, case in cases:
        run = Run(case, rnd, rnd.choice([1, 2, 7, 1000, 1000]))
        found, expected = run.found(), case["expected"]
        for part in run.cfg.parts:
            ours = [r for r in found["log"] if r["part"] == part]
            theirs = [
                {k: v for k, v in r.items() if k != "id" or run.cfg.dedup} for r in expected["log"] if r["part"] == part
            ]
            assert ours == theirs, f"{name}, {part}"
            compared["records"] += sum("t" in r for r in ours)
            compared["ticks"] += sum("t" not in r for r in ours)
            compared["late"] += sum(r.get("late", False) for r in ours)
        # Duplicates are counted, they make no dead letter.
        position = lambda r: (r["input"], r["position"])  # noqa: E731
        refused = sorted((r for r in expected["refused"] if r["why"] != "duplicate"), key=position)
        assert sorted(found["refused"], key=position) == refused, name
        assert found["counters"] == expected["counters"], name
        assert found["watermark"] == expected["watermark"], name
        # Sites get codes in the order of the log.
        seen = dict.fromkeys([*run.cfg.places, *(r["place"] for r in expected["log"] if "t" in r)])
        assert run.registry.ids == list(seen), name
        compared["refused"] += len(refused)
        compared["duplicate"] += found["counters"]["duplicate"]
        compared["cases"] += 1
        compared["live"] += run.cfg.live
    return compared
