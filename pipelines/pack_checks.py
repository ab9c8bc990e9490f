"""Checks of what stands in a city pack: each refuses with where it stands, the value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

DURATIONS: Final[Mapping[str, int]] = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class PackError(ValueError):
    """A city pack that cannot be used; the text says where and what to do."""


def known(where: str, given: Iterable[str], allowed: Iterable[str], what: str = "key") -> None:
    """Refuses unknown names with what is allowed and the nearest one."""
    allowed = tuple(allowed)
    for name in given:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise PackError(f"{where}: unknown {what} {name!r}; known are {', '.join(allowed)}.{hint}")


def required(where: str, given: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuses a table in which a key is missing."""
    for key in keys:
        if key not in given:
            raise PackError(f"{where}: {key!r} is missing; needed are {', '.join(keys)}")


def duration_ms(text: str | int, where: str) -> int:
    """'90s', '10m', '24h' or '7d' in ms; a bare number is refused because it does not say its unit."""
    if isinstance(text, str) and text[-1:] in DURATIONS and text[:-1].isascii() and text[:-1].isdigit():
        return int(text[:-1]) * DURATIONS[text[-1]]
    raise PackError(f'{where}: {text!r} is no duration; write a whole number and s, m, h or d, such as "10m"')


def positive(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise PackError(f"{where} is {text!r}; it must be a whole number above 0")
    return int(text)


def a_weight(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PackError(f"{where} is {value!r}; it must be a whole number from 0")
    return value


def ascending(values: Any, where: str) -> tuple[float, ...]:
    out = tuple(a_number(x, where) for x in a_list(values, where))
    if list(out) != sorted(set(out)):
        raise PackError(f"{where} is {values!r}; bounds must ascend")
    return out


def a_number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PackError(f"{where} is {value!r}; it must be a finite number")
    return float(value)


def a_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise PackError(f"{where} is {value!r}; it must be a text without outer blanks")
    return value


def a_table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PackError(f"{where} is {value!r}; it must be a table of keys and values")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise PackError(f"{where} is {value!r}; it must be a list in [ ]")
    return value
