"""Lifecycles: milestones merged by case (rule 17), whatever the order, copies and cuts in which their events arrive.

A book keeps **marks**: per (case, field, value) the smallest (t, event_id) at which it was seen. A field is a
milestone, the place or an attribute. Smallest is associative, commutative and idempotent, so a book is the same set of
marks for every permutation and repetition of its events, and everything that a merged case shows comes from marks:

- a milestone's time is the smallest, or the largest where `latest` names it (`case` reopened, say);
- an attribute is its first value that is not null by (t, event_id), then by the value: the id hashes the dedup key,
  so two events of one key that differ tie; a `Flag` is its maximum; the place is the first by (t, event_id);
- `<text>_seen` lists every value that a text attribute had, with its first time, for decisions that depend on what was
  so up to an instant (the channel before the delivery).

Filters are for the readers of merged cases, never for events. Memory: 29 bytes a mark and about 150 a case: 420 bytes
for a case with four milestones, its place and four attributes (resident about twice that while it grows).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from pipelines.streams import Flag, Int, Stream, Text, Time

SEEN: Final = pl.List(pl.Struct({"t": pl.Int64, "value": pl.String}))
MARKS: Final = {"case": pl.UInt32, "field": pl.UInt8, "value": pl.Int64, "t": pl.Int64, "id": pl.UInt64}
"""`field` numbers `CaseBook.fields`; `value` is 0 for a milestone, a code of `texts` for a text; `t` is negated for a
milestone that is merged by its largest time."""
DUMPED: Final = {
    "case_id": pl.String, "field": pl.String, "text": pl.String, "number": pl.Int64, "t": pl.Int64, "id": pl.UInt64,
}  # fmt: skip


def case_schema(stream: Stream) -> dict[str, Any]:
    """Columns of merged cases: `case_id`, `place`, each milestone's time (Int64 ms, null = not reached), the stream's
    attributes (Text as String, Flag as Int64 0 or 1, Time and Int as Int64), `<text>_seen` for every text attribute,
    and `as_of`, the newest milestone. ValueError for a stream without milestones."""
    if not stream.lifecycle:
        raise ValueError(f"stream {stream.name!r} has no milestones: only lifecycle streams have cases (rule 17)")
    texts = [c.name for c in _attributes(stream) if isinstance(c, Text)]
    return {
        "case_id": pl.String,
        "place": pl.String,
        **dict.fromkeys(stream.milestones, pl.Int64),
        **{c.name: pl.String if isinstance(c, Text) else pl.Int64 for c in _attributes(stream)},
        **{f"{name}_seen": SEEN for name in texts},
        "as_of": pl.Int64,
    }


class CaseBook:
    """The cases of one stream. `latest` names milestones merged by their largest time instead of the smallest."""

    def __init__(self, stream: Stream, latest: Iterable[str] = ()) -> None:
        self.stream = stream
        self.schema = case_schema(stream)
        self.latest = frozenset(latest)
        if unknown := self.latest - set(stream.milestones):
            raise LookupError(
                f"stream {stream.name!r} has no milestone {sorted(unknown)[0]!r}; it has {', '.join(stream.milestones)}"
            )
        self.fields = (*stream.milestones, "place", *(c.name for c in _attributes(stream)))
        self.texts = ("place", *(c.name for c in _attributes(stream) if isinstance(c, Text)))
        numbers = [c.name for c in _attributes(stream) if isinstance(c, Int | Time)]
        self._numbers = [self.fields.index(name) for name in numbers]
        self._case_codes: dict[str, int] = {}
        self._text_codes: dict[str, int] = {}
        self._anchored = 0
        self._marks = pl.DataFrame(schema=MARKS)

    def __len__(self) -> int:
        return len(self._case_codes)

    @property
    def unanchored(self) -> int:
        """Cases whose opening milestone is not known: they are counted here and in no denominator (rule 22)."""
        return len(self._case_codes) - self._anchored

    @property
    def bytes_held(self) -> int:
        """An estimate of the memory that the book holds."""
        names = sum(150 + len(name) for name in self._case_codes)
        return int(self._marks.estimated_size()) + names + sum(150 + len(text) for text in self._text_codes)

    def merge(self, events: pl.DataFrame) -> pl.DataFrame:
        """Adds events and returns the cases that they changed, anchored ones only, in the columns of `case_schema`.

        `events`: `t` Int64, `id` UInt64, `place` and `case_id` String (not codes), `milestone` String, and the
        stream's attributes, null where an event does not carry one; other columns are ignored. A case once returned
        stays anchored, so replacing by `case_id` what was computed for it is enough.
        """
        if events.is_empty():
            return pl.DataFrame(schema=self.schema)
        return self._add(self._marks_of(events))

    def cases(self, ids: Iterable[str] | None = None) -> pl.DataFrame:
        """The anchored cases of these ids (unknown ones are left out), or all, in the columns of `case_schema`."""
        if ids is None:
            return self._wide(self._smallest(self._marks))
        codes = [self._case_codes[i] for i in ids if i in self._case_codes]
        return self._wide(self._smallest(self._of(pl.Series(codes, dtype=pl.UInt32))))

    def dump(self) -> dict[str, pl.DataFrame]:
        """The book as a plain frame (`marks`), the same for every order of arrival."""
        marks = self._with_text(self._smallest(self._marks))
        names = pl.Series(list(self._case_codes), dtype=pl.String)
        fields = pl.Series(self.fields)
        marks = marks.select(
            names.gather(marks["case"]).alias("case_id"),
            fields.gather(marks["field"]).alias("field"),
            "text",
            pl.when(pl.col("text").is_null()).then("value").alias("number"),
            "t",
            "id",
        )
        return {"marks": marks.sort(list(DUMPED)).cast(DUMPED)}  # type: ignore[arg-type]

    @classmethod
    def load(cls, stream: Stream, frames: Mapping[str, pl.DataFrame], latest: Iterable[str] = ()) -> CaseBook:
        """A book from what `dump` gave; marks of attributes that the stream no longer has are left out."""
        book = cls(stream, latest)
        marks = frames["marks"].filter(pl.col("field").is_in(book.fields))
        fields = {name: number for number, name in enumerate(book.fields)}
        book._add(
            pl.DataFrame(
                {
                    "case": _coded(marks["case_id"], book._case_codes),
                    "field": marks["field"].replace_strict(fields, return_dtype=pl.UInt8),
                    "value": _coded(marks["text"], book._text_codes).cast(pl.Int64).fill_null(marks["number"]),
                    "t": marks["t"],
                    "id": marks["id"],
                },
                schema=MARKS,
            )
        )
        return book

    def _marks_of(self, events: pl.DataFrame) -> pl.DataFrame:
        events = events.with_columns(_coded(events["case_id"], self._case_codes).alias("case"))
        numbers = {name: number for number, name in enumerate(self.fields)}
        sign = pl.when(pl.col("milestone").is_in(sorted(self.latest))).then(-1).otherwise(1)
        reached = events.select(
            "case",
            pl.col("milestone").replace_strict(numbers, return_dtype=pl.UInt8).alias("field"),
            pl.lit(0, dtype=pl.Int64).alias("value"),
            pl.col("t") * sign,
            pl.lit(0, dtype=pl.UInt64).alias("id"),
        )
        frames = [reached.cast(MARKS)]  # type: ignore[arg-type]
        for name in self.fields[len(self.stream.milestones) :]:
            carried = events.filter(pl.col(name).is_not_null())
            value = carried[name].cast(pl.String if name in self.texts else pl.Int64)
            if name in self.texts:
                value = _coded(value, self._text_codes)
            marks = carried.select("case", pl.lit(numbers[name]).alias("field"), value.alias("value"), "t", "id")
            frames.append(marks.cast(MARKS))  # type: ignore[arg-type]
        return pl.concat(frames)

    def _add(self, marks: pl.DataFrame) -> pl.DataFrame:
        """Keeps the marks that are new or smaller than those held, and returns the merged cases that they change."""
        held = self._of(marks["case"].unique())
        fresh = self._smallest(marks).join(held, on=list(MARKS), how="anti")
        merged = self._smallest(pl.concat([held, fresh]))
        fresh = fresh.join(merged, on=list(MARKS), how="semi")
        opening = pl.col("field") == self.fields.index(str(self.stream.opening))
        opened, before = fresh.filter(opening)["case"], held.filter(opening)["case"]
        self._anchored += int((~opened.is_in(before.implode())).sum())
        self._marks = self._marks.extend(fresh)  # replaced marks stay beside smaller ones: `_smallest` ignores them
        return self._wide(merged.filter(pl.col("case").is_in(fresh["case"].unique().implode())))

    def _smallest(self, marks: pl.DataFrame) -> pl.DataFrame:
        """One mark per (case, field, value), per (case, field) of a number: the smallest by (t, id, value)."""
        apart = pl.when(pl.col("field").is_in(self._numbers)).then(0).otherwise("value")
        marks = marks.sort("t", "id", "value").with_columns(apart.alias("apart"))
        return marks.unique(["case", "field", "apart"], keep="first", maintain_order=True).drop("apart")

    def _of(self, cases: pl.Series) -> pl.DataFrame:
        return self._marks.filter(pl.col("case").is_in(cases.implode()))

    def _with_text(self, marks: pl.DataFrame) -> pl.DataFrame:
        texts = pl.Series(list(self._text_codes), dtype=pl.String)
        is_text = pl.col("field").is_in([self.fields.index(name) for name in self.texts])
        codes = marks.select(pl.when(is_text).then("value").cast(pl.UInt32)).to_series()
        return marks.with_columns(texts.gather(codes).alias("text"))

    def _wide(self, marks: pl.DataFrame) -> pl.DataFrame:
        """Merged cases from the smallest marks of whole cases."""
        opening = self.fields.index(str(self.stream.opening))
        marks = self._with_text(marks).sort("t", "id", "text", "value", nulls_last=True)
        parts = {n: part.drop("field") for (n,), part in marks.partition_by("field", as_dict=True).items()}
        none = marks.clear().drop("field")
        names = pl.Series(list(self._case_codes), dtype=pl.String)
        cases = parts.get(opening, none).select("case")
        cases = cases.with_columns(names.gather(cases["case"]).alias("case_id"))
        flags = {c.name for c in self.stream.columns if isinstance(c, Flag)}
        for number, name in enumerate(self.fields):
            part = parts.get(number, none)
            if name in self.stream.milestones:
                column = part.select("case", (pl.col("t") * (-1 if name in self.latest else 1)).alias(name))
            elif name in flags:
                column = part.group_by("case").agg(pl.col("value").max().alias(name))
            else:
                first = pl.col("text" if name in self.texts else "value").alias(name)
                column = part.unique("case", keep="first", maintain_order=True).select("case", first)
            cases = cases.join(column, on="case", how="left", maintain_order="left")
            if f"{name}_seen" in self.schema:
                seen = pl.struct("t", pl.col("text").alias("value")).alias(f"{name}_seen")
                seen_by = part.group_by("case", maintain_order=True).agg(seen)
                cases = cases.join(seen_by, on="case", how="left", maintain_order="left")
        newest = pl.max_horizontal(self.stream.milestones).alias("as_of")
        return cases.with_columns(newest).sort("case_id").select(list(self.schema)).cast(self.schema)  # type: ignore[arg-type]


def _attributes(stream: Stream) -> list[Any]:
    return [c for c in stream.columns if c.name not in ("case_id", "milestone")]


def _coded(column: pl.Series, codes: dict[str, int]) -> pl.Series:
    """Texts as their codes (null stays null); unknown ones get the next."""
    distinct = column.unique().drop_nulls()
    numbers = np.array([codes.setdefault(text, len(codes)) for text in distinct.to_list()], dtype=np.uint32)
    return column.replace_strict(distinct, pl.Series(numbers, dtype=pl.UInt32), default=None, return_dtype=pl.UInt32)
