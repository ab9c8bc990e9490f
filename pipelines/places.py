"""Codes for the places of a block of events, and the only limit on how many places a stream may have (rule 10)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.model import PlaceRegistry

Codes = npt.NDArray[np.uint32]
Index = npt.NDArray[np.int64]

OTHER: Final = "__other__"
"""The site that stands for all sites beyond `max_places`."""
MISSING: Final = 0xFFFFFFFF
SPARE: Final = 64
"""Places registered since the Enum was made; as many as it has itself and these, and it is made anew."""


class Places:
    """Gives every site its code; sites that are not configured keep their id while there are less than `max_places`."""

    def __init__(self, registry: PlaceRegistry, configured: Iterable[str], max_places: int) -> None:
        configured = list(configured)
        for place in configured:
            registry.code(place)
        self.registry, self.max_places = registry, max_places
        self.unknown = len(registry.known.keys() - set(configured) - {OTHER})
        self._forget()

    def _forget(self) -> None:
        self._enum = pl.Enum(self.registry.ids)
        self._coded: tuple[Any, pl.Series, Codes] | None = None

    def __getstate__(self) -> tuple[PlaceRegistry, int, int]:
        return self.registry, self.max_places, self.unknown

    def __setstate__(self, state: tuple[PlaceRegistry, int, int]) -> None:
        self.registry, self.max_places, self.unknown = state
        self._forget()

    def encode(self, columns: Sequence[pl.Series], ranks: Sequence[Index]) -> list[Codes]:
        """The codes of each column. New sites are admitted by rank, then by column and row: the order of the log.

        Columns are String, Categorical or Enum without nulls (ValueError).
        """
        for column in columns:
            if column.null_count():
                raise ValueError(f"{column.null_count()} events have no place; a decoder must refuse them (null_value)")
        codes = [self._look_up(column) for column in columns]
        firsts: list[pl.DataFrame] = []
        for k, (column, rank) in enumerate(zip(columns, ranks, strict=True)):
            missing = np.flatnonzero(codes[k] == MISSING)
            if len(missing):
                names = column.gather(missing).cast(pl.String)
                rows = pl.DataFrame({"rank": rank[missing], "column": k, "row": missing, "place": names})
                firsts.append(rows.unique("place", keep="first", maintain_order=True))
        if firsts:
            new = pl.concat(firsts).sort("rank", "column", "row")["place"].unique(maintain_order=True)
            given = pl.Series([self._admit(place) for place in new], dtype=pl.UInt32)
            for k, missing in enumerate(code == MISSING for code in codes):
                if missing.any():
                    codes[k] = self._fill_in(columns[k], codes[k], new, given)
        return codes

    def _admit(self, place: str) -> int:
        """The code of a site that has none in the caches, `__other__`'s once there are too many."""
        if place in self.registry.known:
            return self.registry.known[place]
        if self.unknown < self.max_places:
            self.unknown += 1
            return self.registry.code(place)
        return self.registry.code(OTHER)

    def _look_up(self, column: pl.Series) -> Codes:
        """Codes by the caches, MISSING where they do not know a site."""
        if column.dtype == pl.String:
            if len(self.registry.ids) > 2 * len(self._enum.categories) + SPARE:
                self._enum = pl.Enum(self.registry.ids)
            cast = column.cast(self._enum, strict=False).to_physical()
            if cast.null_count():
                return cast.cast(pl.UInt32).fill_null(MISSING).to_numpy()
            return cast.to_numpy().astype(np.uint32)
        physical: Codes = column.to_physical().to_numpy()
        codes: Codes = self._remap(column, physical)[physical]
        return codes

    def _remap(self, column: pl.Series, physical: Codes) -> Codes:
        """Registry code by physical code of a Categorical or Enum; valid while a series of that type is kept alive."""
        if self._coded is None or self._coded[0] != column.dtype:
            self._coded = (column.dtype, column.head(1), np.zeros(0, dtype=np.uint32))
        dtype, alive, known = self._coded
        size = int(physical.max(initial=0)) + 1
        if size > len(known):
            grown = np.full(max(size, 2 * len(known)), MISSING, dtype=np.uint32)
            grown[: len(known)] = known
            self._coded = (dtype, alive, grown)
            return grown
        return known

    def _fill_in(self, column: pl.Series, codes: Codes, new: pl.Series, given: pl.Series) -> Codes:
        """Codes with those of the `new` sites, `given` to them."""
        missing = np.flatnonzero(codes == MISSING)
        names = column.gather(missing).cast(pl.String)
        found = names.replace_strict(new, given, return_dtype=pl.UInt32).to_numpy()
        codes = codes.copy()
        codes[missing] = found
        if column.dtype != pl.String:
            physical: Codes = column.to_physical().to_numpy()
            self._remap(column, physical)[physical[missing]] = found
        return codes
