"""What makes a record of a stream valid: types, ranges, values, times (rule 1, "validate").

Every decoder ends here. `check` judges a whole frame with a few passes over its columns; `check_record` judges one
record that was decoded on its own. Both give the same verdict and the same words, because a record must not fare
differently with its neighbours (rule 12). The first violation counts, in the order `t`, place, then the stream's
columns as declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, assert_never

import numpy as np
import polars as pl

from pipelines.reasons import Reason
from pipelines.streams import Column, Flag, Int, Stream, Text, Time

TIME_END: Final = 10_382_256_000_000
"""2299-01-01T00:00:00Z in UTC ms: valid times are in [0, TIME_END). The store's times end with that year, and a window
may end after its last event."""
PLACE_BYTES: Final = 128
SHOWN: Final = 80
"""Characters of a refused value that its detail shows."""
INT64_LOW: Final = -(2**63)
INT64_HIGH: Final = 2**63 - 1
CONTROL: Final = r"[\x00-\x1f\x7f]"
"""What no text may hold: U+0000 to U+001F and U+007F."""


class Refused(NamedTuple):
    """Why a record was refused; `detail` names column, value and what is allowed."""

    reason: Reason
    detail: str


def show(value: object) -> str:
    """A value in a detail: text in double quotes, JSON's words for null, true and false, cut to `SHOWN` characters."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            text = '"' + value.encode("unicode_escape").decode("ascii") + '"' if _odd(value) else f'"{value}"'
        case dict():
            return f"an object of {len(value)} keys"
        case list():
            return f"an array of {len(value)} values"
        case _:
            text = str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _odd(text: str) -> bool:
    return any(c < " " or c == "\x7f" for c in text)


def _null(name: str) -> Refused:
    return Refused("null_value", f"{name} is null; the stream requires a value")


def _empty(name: str) -> Refused:
    return Refused("null_value", f"{name} is empty; it names the site an event belongs to")


def _long(name: str, size: int, allowed: int) -> Refused:
    return Refused("too_long", f"{name} has {size} bytes; at most {allowed} are allowed")


def _control(name: str, value: object) -> Refused:
    return Refused("bad_encoding", f"{name} is {show(value)}; control characters are not allowed in a text")


def _range(name: str, value: object, low: int, high: int) -> Refused:
    return Refused("out_of_range", f"{name} is {show(value)}; allowed is {low} to {high}")


def _when(name: str, value: object) -> Refused:
    allowed = f"allowed are whole milliseconds since 1970-01-01 (UTC), 0 to {TIME_END - 1}"
    return Refused("bad_time", f"{name} is {show(value)}; {allowed}")


def _unknown(name: str, value: object, values: tuple[str, ...]) -> Refused:
    return Refused("unknown_value", f"{name} is {show(value)}; allowed are {', '.join(values)}")


def _type(name: str, value: object, wanted: str) -> Refused:
    return Refused("wrong_type", f"{name} is {show(value)}; {wanted} is wanted")


# One record --------------------------------------------------------------------------------------------------------


def check_record(record: Mapping[str, object], stream: Stream) -> dict[str, int | str | None] | Refused:
    """`t`, `place` and the stream's columns of one record, or why it is refused.

    `record` is keyed by `t`, the stream's own name of the place (`link`, `lane`) and its columns; other keys are
    ignored. Values are as a JSON parser gives them: int, float, str, bool, None, dict, list.
    """
    found: object = record.get("t", _MISSING)
    time = _check_time("t", found, nullable=False)
    if isinstance(time, Refused):
        return time
    place = _check_place(stream.place, record.get(stream.place, _MISSING))
    if isinstance(place, Refused):
        return place
    out: dict[str, int | str | None] = {"t": time, "place": place}
    for column in stream.columns:
        value = _check_value(column, record.get(column.name, _MISSING))
        if isinstance(value, Refused):
            return value
        out[column.name] = value
    return out


_MISSING: Final = object()


def _absent(name: str, value: object, nullable: bool) -> Refused | None:
    """The refusal of a missing or null value that is required."""
    if nullable:
        return None
    if value is _MISSING:
        return Refused("missing_field", f"{name} is missing; the stream requires it")
    return _null(name) if value is None else None


def _check_place(name: str, value: object) -> str | Refused:
    text = _check_text(name, value, PLACE_BYTES, nullable=False)
    if text is None or text == "":
        return _empty(name)
    return text


def _check_value(column: Column, value: object) -> int | str | Refused | None:
    match column:
        case Int():
            return _check_int(column, value)
        case Text():
            text = _check_text(column.name, value, column.max_bytes, column.nullable)
            if isinstance(text, str) and column.values and text not in column.values:
                return _unknown(column.name, text, column.values)
            return text
        case Flag():
            if value is _MISSING or value is None:
                return _absent(column.name, value, column.nullable)
            if isinstance(value, int) and value in (0, 1):
                return int(value)
            return _type(column.name, value, "true, false, 0 or 1")
        case Time():
            return _check_time(column.name, value, column.nullable)
    assert_never(column)


def _check_int(column: Int, value: object) -> int | Refused | None:
    if value is _MISSING or value is None:
        return _absent(column.name, value, column.nullable)
    if isinstance(value, float) and abs(value) >= 2**63:
        return _range(column.name, value, column.low, column.high)
    if isinstance(value, bool) or not isinstance(value, int):
        return _type(column.name, value, "a whole number")
    return value if column.low <= value <= column.high else _range(column.name, value, column.low, column.high)


def _check_text(name: str, value: object, max_bytes: int, nullable: bool) -> str | Refused | None:
    if value is _MISSING or value is None:
        return _absent(name, value, nullable)
    if not isinstance(value, str):
        return _type(name, value, "a text")
    if (size := len(value.encode("utf-8"))) > max_bytes:
        return _long(name, size, max_bytes)
    return _control(name, value) if _odd(value) else value


def _check_time(name: str, value: object, nullable: bool) -> int | Refused | None:
    if value is _MISSING or value is None:
        return _absent(name, value, nullable)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < TIME_END:
        return _when(name, value)
    return value


# A frame -----------------------------------------------------------------------------------------------------------


def check(frame: pl.DataFrame, stream: Stream, *, control: bool = True) -> tuple[pl.DataFrame, dict[int, Refused]]:
    """The valid rows of `frame`, in order, and for each other row (its index in `frame`) why it is refused.

    `frame` holds `t` Int64, `place` String, Categorical or Enum, the stream's columns (Int, Flag and Time Int64; Text
    String) and any others, which are carried along. `control=False` leaves out the search for control characters: for
    bytes that are known to have none.
    """
    refused: dict[int, Refused] = {}
    _bound(frame["t"], 0, TIME_END - 1, False, lambda v: _when("t", v), refused)
    _sites(frame["place"], stream.place, control, refused)
    for column in stream.columns:
        _column(frame[column.name], column, control, refused)
    if not refused:
        return frame, refused
    good = np.ones(frame.height, dtype=np.bool_)
    good[list(refused)] = False
    return frame.filter(pl.Series(good)), refused


def _column(series: pl.Series, column: Column, control: bool, refused: dict[int, Refused]) -> None:
    name = column.name
    match column:
        case Int(low=low, high=high):
            _bound(series, low, high, column.nullable, lambda v: _range(name, v, low, high), refused)
        case Text():
            _texts(series, name, column.max_bytes, column.nullable, control, refused)
            if column.values:
                known = pl.Series(column.values).implode()
                _mark(series, ~series.is_in(known), lambda v: _unknown(name, v, column.values), refused)
        case Flag():
            wanted = "true, false, 0 or 1"
            _bound(series, 0, 1, column.nullable, lambda v: _type(name, v, wanted), refused)
        case Time():
            _bound(series, 0, TIME_END - 1, column.nullable, lambda v: _when(name, v), refused)
        case _:
            assert_never(column)


def _bound(
    series: pl.Series,
    low: int,
    high: int,
    nullable: bool,
    verdict: Callable[[object], Refused],
    refused: dict[int, Refused],
) -> None:
    if not nullable:
        _nulls(series, series.name, refused)
    smallest, largest = series.min(), series.max()
    if isinstance(smallest, int) and isinstance(largest, int) and (smallest < low or largest > high):
        _mark(series, (series < low) | (series > high), verdict, refused)


def _sites(series: pl.Series, name: str, control: bool, refused: dict[int, Refused]) -> None:
    """Site ids repeat: where they are categories, only the distinct ones are looked at unless one of them is bad."""
    if series.dtype != pl.String:
        distinct = series.unique().cast(pl.String)
        found: dict[int, Refused] = {}
        _sites(distinct, name, control, found)
        if not found:
            return
        series = series.cast(pl.String)
    _nulls(series, name, refused)
    _texts(series, name, PLACE_BYTES, True, control, refused)
    if series.str.len_bytes().min() == 0:
        _mark(series, series.str.len_bytes() == 0, lambda _: _empty(name), refused)


def _texts(
    series: pl.Series, name: str, max_bytes: int, nullable: bool, control: bool, refused: dict[int, Refused]
) -> None:
    if not nullable:
        _nulls(series, name, refused)
    sizes = series.str.len_bytes()
    longest = sizes.max()
    if isinstance(longest, int) and longest > max_bytes:
        _mark(series, sizes > max_bytes, lambda v: _long(name, len(str(v).encode()), max_bytes), refused)
    if control and (odd := series.str.contains(CONTROL)).any():
        _mark(series, odd, lambda v: _control(name, v), refused)


def _nulls(series: pl.Series, name: str, refused: dict[int, Refused]) -> None:
    if series.null_count():
        _mark(series, series.is_null(), lambda _: _null(name), refused)


def _mark(series: pl.Series, bad: pl.Series, verdict: Callable[[object], Refused], refused: dict[int, Refused]) -> None:
    """Enters the rows where `bad` is true, unless an earlier column refused them already."""
    for row in bad.fill_null(False).arg_true().to_list():
        if row not in refused:
            refused[row] = verdict(series[row])
