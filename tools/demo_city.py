"""Writes `cities/demo/places.csv`: the sites of the invented demo city. `python -m tools.demo_city [--check]`."""

from __future__ import annotations

import csv
import io
import random
import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "cities" / "demo" / "places.csv"
DISTRICTS = tuple(f"d{n:02}" for n in range(1, 13))
COLUMNS = ("stream", "id", "parent", "district", "period_s", "length_m", "free_kmh", "capacity")
SENSORS = (("air", "st", 24, 300), ("lvl", "wl", 60, 60), ("rain", "rg", 36, 600), ("park", "lot", 40, 60))


Row = dict[str, str | int]


def rows() -> list[Row]:
    """2,000 links, 40 lanes at 20 sites, 160 other sensors, 12 services."""
    rnd = random.Random(1)
    out: list[Row] = []
    for n in range(2000):
        length, speed = rnd.choice([150, 220, 300, 450, 700, 1200]), rnd.choice([30, 40, 50, 60, 80])
        place: Row = {"stream": "link", "id": f"l{n:04}", "district": rnd.choice(DISTRICTS), "period_s": 60}
        out.append(place | {"length_m": length + rnd.randint(0, 60), "free_kmh": speed})
    for n in range(40):
        site = f"x{n // 2:02}"
        place = {"stream": "det", "id": f"{site}-{n % 2 + 1}", "parent": site, "district": DISTRICTS[n // 2 % 12]}
        out.append(place | {"period_s": 60})
    for stream, prefix, count, period in SENSORS:
        for n in range(count):
            place = {"stream": stream, "id": f"{prefix}{n:02}", "district": DISTRICTS[n % 12], "period_s": period}
            capacity: Row = {"capacity": rnd.choice([80, 200, 450, 900])} if stream == "park" else {}
            out.append(place | capacity)
    for n in range(12):
        out.append({"stream": "http", "id": f"svc{n:02}", "district": DISTRICTS[n], "period_s": 60})
    return out


def text() -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows())
    return buffer.getvalue()


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text() else f"{TARGET} is stale: python -m tools.demo_city")
    TARGET.write_text(text())
