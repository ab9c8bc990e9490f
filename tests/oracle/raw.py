"""The raw files as events, by gzip, csv and json alone: one reader per layout."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

from tests.oracle.arrive import Raw, Tally
from tests.oracle.grid import HOUR

POLLUTANTS = ("so2", "no2", "co", "o3", "pm10", "pm25")


def opened(path: Path) -> TextIO:
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8", newline="")
    )


def _link(e: dict[str, Any]) -> Raw:
    return e["t"], e["link"], (e["link"], e["t"]), (e["tt_ms"], e["n"])


def _det(e: dict[str, Any]) -> Raw:
    return e["t"], e["lane"], (e["lane"], e["t"]), (e["duration_ms"], e["count"], e["occ_e4"])


def _air(e: dict[str, Any]) -> Raw:
    return e["t"], e["station"], (e["station"], e["pollutant"], e["t"]), (e["pollutant"], e["ngm3"], e["covered_ms"])


def _lvl(e: dict[str, Any]) -> Raw:
    return e["t"], e["gauge"], (e["gauge"], e["t"]), (e["depth_mm"],)


def _rain(e: dict[str, Any]) -> Raw:
    return e["t"], e["gauge"], (e["gauge"], e["t"]), (e["rain_um"],)


def _park(e: dict[str, Any]) -> Raw:
    return e["t"], e["lot"], (e["lot"], e["t"]), (e["occupied"], e["total"], e["out_of_service"])


def _http(e: dict[str, Any]) -> Raw:
    return e["t"], e["service"], None, (e["status"], e.get("duration_us"))


def _case(e: dict[str, Any]) -> Raw:
    said = {k: v for k, v in e.items() if k not in ("t", "district", "case_id", "milestone", "arrival")}
    said["place"] = e["district"]
    return e["t"], e["district"], (e["case_id"], e["milestone"], e["t"]), (e["case_id"], e["milestone"], said)


SHAPES: dict[str, Callable[[dict[str, Any]], Raw]] = {
    "link": _link, "det": _det, "air": _air, "lvl": _lvl, "rain": _rain,
    "park": _park, "http": _http, "inc": _case, "case": _case, "tkt": _case,
}  # fmt: skip


def canonical(path: Path, stream: str, tally: Tally) -> Iterator[Raw]:
    """NDJSON as the simulator writes it; a line that is no JSON object with all columns is rejected."""
    shape = SHAPES[stream]
    with opened(path) as file:
        for line in file:
            try:
                yield shape(json.loads(line))
            except (ValueError, KeyError, TypeError):
                tally.rejected += 1


def aarhus(path: Path, tally: Tally) -> Iterator[Raw]:
    """The end of 5 min is stamped, in UTC; a travel time of 0 is a dead sensor."""
    with opened(path) as file:
        for row in csv.DictReader(file):
            seconds = Fraction(row["avgMeasuredTime"])
            if seconds == 0:
                continue
            t = _utc_ms(datetime.fromisoformat(row["TIMESTAMP"] + "+00:00")) - 1
            tt, n = round(seconds * 1000), int(row["vehicleCount"])
            if not (1 <= tt <= 36_000_000 and 0 <= n <= 10_000):
                tally.rejected += 1
                continue
            yield t, row["REPORT_ID"], (row["REPORT_ID"], t), (tt, n)


def beijing(path: Path, tally: Tally) -> Iterator[Raw]:
    """Hour h of Beijing is [h:00, h+1:00), ug/m3; NA is no measurement."""
    here = timezone(timedelta(hours=8))
    columns = ("SO2", "NO2", "CO", "O3", "PM10", "PM2.5")
    with opened(path) as file:
        for row in csv.DictReader(file):
            hour = datetime(int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"]), tzinfo=here)
            t, station = _utc_ms(hour) + HOUR - 1, row["station"]
            for pollutant, column in zip(POLLUTANTS, columns, strict=True):
                if row[column] != "NA":
                    yield t, station, (station, pollutant, t), (pollutant, round(Fraction(row[column]) * 1000), HOUR)


def nasa(path: Path, tally: Tally) -> Iterator[Raw]:
    """Unix seconds; one server; no durations."""
    with opened(path) as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield int(row["time"]) * 1000, "ksc-web", None, (int(row["response"]), None)


MILESTONES = {
    "Create Fine": "submit", "Send Fine": "accept", "Insert Date Appeal to Prefecture": "supplement",
    "Appeal to Judge": "supplement", "Payment": "deliver", "Send for Credit Collection": "reject",
}  # fmt: skip


def fines(path: Path, tally: Tally) -> Iterator[Raw]:
    """One row an event, sorted by case: put into the order of time."""
    rows: list[Raw] = []
    with opened(path) as file:
        for row in csv.DictReader(file):
            milestone = MILESTONES.get(row["activity"])
            if milestone is not None:
                t = _utc_ms(datetime.fromisoformat(row["timestamp_utc"]))
                said = {"item": "traffic_fine", "coarse": True, "place": "unassigned"}
                rows.append((t, "unassigned", (row["case_id"], milestone, t), (row["case_id"], milestone, said)))
    rows.sort(key=lambda r: r[0])
    yield from rows


def _utc_ms(at: datetime) -> int:
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
