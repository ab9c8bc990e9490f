"""Writes `cities/demo/districts.geojson`: outlines of the invented districts. `python -m tools.demo_map [--check]`."""

from __future__ import annotations

import json
import math
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Final

TARGET: Final = Path(__file__).parent.parent / "cities" / "demo" / "districts.geojson"
PLACES: Final = (
    ("d08", "d12", "d02", "d01"),
    ("d04", "d07", "d03", "d11"),
    ("d06", "d05", "d09", "d10"),
)
"""Who is whose neighbour, from north to south and from west to east."""
WEST_EAST, NORTH_SOUTH = 118.5, 29.8
"""The middle (WGS-84), and half of the height in degrees."""
HALF: Final = 0.32
Point = tuple[float, float]
Node = tuple[int, int]


def outlines() -> str:
    """Four by three cells whose corners are moved and whose edges are broken; neighbours share theirs."""
    rnd, wide, high = random.Random(7), len(PLACES[0]), len(PLACES)

    def corner(i: int, j: int) -> Point:
        u, v = 2 * i / wide - 1, 2 * j / high - 1
        u, v = math.copysign(abs(u) ** 1.25, u), math.copysign(abs(v) ** 1.2, v)
        inside = 0 < i < wide and 0 < j < high
        by = 0.05 if inside else 0.12
        x, y = u * math.sqrt(1 - v * v / 2.4), v * math.sqrt(1 - u * u / 2.4)
        return 1.35 * x + rnd.uniform(-by, by), y + rnd.uniform(-by, by)

    def broken(a: Point, b: Point, times: int, by: float) -> list[Point]:
        if times == 0:
            return [a]
        aside = rnd.uniform(-by, by)
        middle = (a[0] + b[0]) / 2 - (b[1] - a[1]) * aside, (a[1] + b[1]) / 2 + (b[0] - a[0]) * aside
        return broken(a, middle, times - 1, 0.8 * by) + broken(middle, b, times - 1, 0.8 * by)

    corners = {(i, j): corner(i, j) for i in range(wide + 1) for j in range(high + 1)}
    edges: dict[tuple[Node, Node], list[Point]] = {}

    def edge(a: Node, b: Node) -> list[Point]:
        if (b, a) in edges:
            return [corners[a], *reversed(edges[b, a][1:])]
        outer = (a[1] == b[1] and a[1] in (0, high)) or (a[0] == b[0] and a[0] in (0, wide))
        return edges.setdefault((a, b), broken(corners[a], corners[b], 4, 0.22 if outer else 0.16))

    flat = math.cos(math.radians(NORTH_SOUTH))
    features = []
    for j, row in enumerate(PLACES):
        for i, name in enumerate(row):
            around = ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1), (i, j))
            ring = [point for a, b in pairwise(around) for point in edge(a, b)]
            ring = [*ring, ring[0]]
            degrees = [
                [round(WEST_EAST + x * HALF, 4), round(NORTH_SOUTH - y * HALF * flat, 4)] for x, y in reversed(ring)
            ]
            features.append({"type": "Feature", "id": name, "geometry": {"type": "Polygon", "coordinates": [degrees]}})
    features.sort(key=lambda feature: str(feature["id"]))
    lines = ",\n".join(json.dumps({**f, "properties": {}}, separators=(",", ":")) for f in features)
    return f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == outlines() else f"{TARGET} is stale: python -m tools.demo_map")
    TARGET.write_text(outlines())
