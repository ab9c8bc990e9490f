"""The places of one stream as a tree site -> district -> city of codes, and their attributes in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.city import City, Site
from pipelines.model import PlaceRegistry
from pipelines.streams import Stream

UNASSIGNED: Final = "unassigned"
Ints = npt.NDArray[np.int64]


class PlaceTree:
    """Codes and names per level, and the parent of each. Sites that the city does not know belong to `unassigned`."""

    def __init__(self, city: City, stream: Stream, registry: PlaceRegistry) -> None:
        self.stream, self.registry, self.levels = stream, registry, stream.levels
        self.sites: dict[str, list[Site]] = {}
        for site in city.sites:
            if site.stream == stream.name:
                self.sites.setdefault(site.id, []).append(site)
        districts = [d.id for d in city.districts] if stream.levels[0] == "district" else []
        self.configured = np.array([registry.code(x) for x in (*self.sites, *districts)], dtype=np.int64)
        self._above: list[PlaceRegistry] = [PlaceRegistry() for _ in stream.levels[1:]]
        self._parents: list[list[int]] = [[] for _ in stream.levels[1:]]
        self._periods: list[int] = []
        self._names: dict[int, pl.Series] = {}
        self._as_series: dict[int, pl.Series] = {}
        self._attributes: dict[tuple[str, ...], pl.DataFrame] = {}

    def _grow(self) -> None:
        for code in range(len(self._periods), len(self.registry.ids)):
            known = self.sites.get(self.registry.ids[code])
            site = known[0] if known else None
            self._periods.append((site.period_ms if site and site.period_ms else self.stream.period_ms) or 0)
            child = code
            for level, kind in enumerate(self.levels[1:]):
                if len(self._parents[level]) > child:
                    break
                self._parents[level].append(self._above[level].code(self._parent(kind, site, code)))
                child = self._parents[level][child]

    def _parent(self, kind: str, site: Site | None, code: int) -> str:
        if kind == "city":
            return "city"
        if kind == "district":
            return site.district if site else UNASSIGNED
        return site.parent if site and site.parent else self.registry.ids[code]

    def parents(self, level: int) -> pl.Series:
        """Code of the parent (at level + 1) of every code of a level."""
        self._grow()
        cached = self._as_series.get(level)
        if cached is None or len(cached) != len(self._parents[level]):
            cached = self._as_series[level] = pl.Series(self._parents[level], dtype=pl.UInt32)
        return cached

    def names(self, level: int) -> pl.Series:
        """Ids of the places of a level, by code."""
        self._grow()
        ids = self.registry.ids if level == 0 else self._above[level - 1].ids
        cached = self._names.get(level)
        if cached is None or len(cached) != len(ids):
            cached = self._names[level] = pl.Series(ids, dtype=pl.String)
        return cached

    def periods(self) -> Ints:
        """The declared period of every site in ms; 0 without one."""
        self._grow()
        return np.array(self._periods, dtype=np.int64)

    def with_attributes(self, panes: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        """Adds the attributes that were valid at each pane's start; null where the city does not know them."""
        if not names:
            return panes
        table = self._attribute_table(tuple(names))
        if table["place"].n_unique() == len(table) and (table["pane_start"] == 0).all():
            return panes.join(table.drop("pane_start"), on="place", how="left", maintain_order="left")
        order = panes.with_row_index("_order").sort("pane_start")
        joined = order.join_asof(table, on="pane_start", by="place", strategy="backward", check_sortedness=False)
        return joined.sort("_order").drop("_order")

    def _attribute_table(self, names: tuple[str, ...]) -> pl.DataFrame:
        cached = self._attributes.get(names)
        if cached is None:
            rows = [
                (self.registry.known[site.id], site.valid_from, *(site.attributes.get(n) for n in names))
                for entries in self.sites.values()
                for site in entries
            ]
            schema = {"place": pl.UInt32, "pane_start": pl.Int64} | dict.fromkeys(names, pl.Int64)
            cached = self._attributes[names] = pl.DataFrame(rows, schema=schema, orient="row").sort("pane_start")
        return cached
