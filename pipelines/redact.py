"""Removes what identifies a person from free text before it is stored anywhere: logs, dead letters, `redact` columns.

Finds 18-digit identity numbers (GB 11643: a date of birth and a check digit by ISO 7064 MOD 11-2), mainland mobile
numbers, licence plates (GA 36), bank cards (length and first digits of an issuer, Luhn) and e-mail addresses, also in
full-width characters and with spaces or hyphens between the digits. Numbers that are only numbers stay: a time stamp
in seconds, milliseconds or microseconds, a count, a case number. All other text stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import polars as pl

PROVINCES: Final = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CHECKS: Final = "10X98765432"

# One character becomes one, so that what is found in the folded text is at the same place in the original.
_FOLD: Final = (
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys((0x3000, 0xA0, 0x2007, 0x2009, 0x202F, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD), " ")
    | dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), "-")
    | dict.fromkeys((0xFF65, 0x2022, 0x30FB), "\u00b7")
)
_GAP: Final = r"[ \-]{0,2}"
_START: Final = r"(?<!\d)(?<!\d\.)"
_ISSUER: Final = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5\d|2[2-7])\d{14}|5\d{18}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35\d{14,17}"
    r"|6\d{15,18}|9(?:55|84|40)\d{13,16}"
)
"""Lengths and first digits that issuers use: most other long numbers are not cards, whatever their last digit."""
_MAYBE: Final = (
    r"\d(?:[\s\-\u00ad\u200b-\u200d\u2010-\u2014\u2060\u2212\ufeff－]{0,2}\d){10}|[@＠]"
    rf"|[{PROVINCES}][\s·]?[A-Za-zＡ-Ｚａ-ｚ]|使"
)
"""Whatever is found below also matches this, which Polars looks for in whole columns."""


def _digits(text: str) -> str:
    return re.sub(r"[^0-9Xx]", "", text)


def _identity(found: str) -> bool:
    number = _digits(found).upper()
    month, day = int(number[10:12]), int(number[12:14])
    check = CHECKS[sum(int(d) * w for d, w in zip(number, WEIGHTS, strict=False)) % 11]
    return 1 <= month <= 12 and 1 <= day <= 31 and number[17] == check


def _card(found: str) -> bool:
    number = _digits(found)
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(number)))
    return _ISSUER.fullmatch(number) is not None and sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _plate(found: str) -> bool:
    return sum(c.isdigit() for c in found) >= 2


def _always(found: str) -> bool:
    return True


_KINDS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]] = (
    (
        "[email]",
        re.compile(r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"),
        _always,
    ),
    (
        "[id]",
        re.compile(
            rf"{_START}[1-9](?:{_GAP}\d){{5}}{_GAP}(?:1{_GAP}[89]|2{_GAP}0)(?:{_GAP}\d){{9}}{_GAP}[\dXx](?!\d)",
            re.ASCII,
        ),
        _identity,
    ),
    (
        "[card]",
        # In one piece, in groups of four, as 6 + 13, or as 4 + 6 + 5.
        re.compile(
            rf"{_START}[2-69](?:\d{{12,18}}|\d{{3}}(?:[ \-]{{1,2}}\d{{4}}){{3}}(?:[ \-]{{0,2}}\d{{1,3}})?"
            rf"|\d{{5}}[ \-]{{1,2}}\d{{10,13}}|\d{{3}}[ \-]{{1,2}}\d{{6}}[ \-]{{1,2}}\d{{4,5}})(?!\d)",
            re.ASCII,
        ),
        _card,
    ),
    (
        "[mobile]",
        re.compile(
            rf"{_START}(?:(?:\+|00)?86{_GAP})?1{_GAP}[3-9]{_GAP}\d(?:{_GAP}\d){{8}}(?!\d)",
            re.ASCII,
        ),
        _always,
    ),
    (
        "[plate]",
        re.compile(
            rf"[{PROVINCES}] ?[A-Za-z][ \u00b7.\-]?"
            r"(?:[A-Za-z0-9]{5,6}|[A-Za-z0-9]{4}[学警挂港澳试超领])(?![A-Za-z0-9])"
            r"|使 ?\d{6}(?!\d)",
            re.ASCII,
        ),
        _plate,
    ),
)


def redact(text: str) -> str:
    """The text with every personal number in it replaced by its kind: `[id] [mobile] [plate] [card] [email]`."""
    for tag, pattern, valid in _KINDS:
        text = _replace(text, tag, pattern, valid)
    return text


def redact_series(texts: pl.Series) -> pl.Series:
    """`redact` of a String column; only the texts that may hold something are looked at one by one. Nulls stay."""
    maybe = texts.str.contains(_MAYBE).fill_null(False)
    if not maybe.any():
        return texts
    rows = maybe.arg_true()
    return texts.scatter(rows, [redact(text) for text in texts.gather(rows)])


def _replace(text: str, tag: str, pattern: re.Pattern[str], valid: Callable[[str], bool]) -> str:
    folded, out, kept, at = text.translate(_FOLD), [], 0, 0
    while found := pattern.search(folded, at):
        if not valid(found[0]):
            at = found.start() + 1  # what follows within it may be one
            continue
        out += [text[kept : found.start()], tag]
        kept = at = found.end()
    return "".join((*out, text[kept:])) if out else text
