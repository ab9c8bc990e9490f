"""Units and decimals: exact, half to even, and refused when they do not fit."""

from __future__ import annotations

from fractions import Fraction

import polars as pl
import pytest

from connectors.numbers import scaled, scaled_column
from connectors.units import UNITS, UnitError, factor, is_count, unit
from pipelines.records import Refused
from pipelines.streams import STREAMS, Int

CONVERSIONS = [
    # text, source, target, gas, stored integer; computed by hand
    ("0.8", "mg/m3", "ug/m3", None, 800),
    ("0.8", "mg/m3", "0.001 ug/m3", None, 800_000),
    ("0.1", "km/h", "0.1 km/h", None, 1),
    ("30", "mph", "0.1 km/h", None, 483),  # 30 * 1.609344 = 48.28032 km/h
    ("13.9", "m/s", "0.1 km/h", None, 500),  # 50.04 km/h
    ("1.5", "minutes", "ms", None, 90_000),
    ("0.0005", "s", "ms", None, 0),  # half to even: 0.5 -> 0
    ("0.0015", "s", "ms", None, 2),  # 1.5 -> 2
    ("0.0025", "s", "ms", None, 2),  # 2.5 -> 2
    ("-0.0025", "s", "ms", None, -2),
    ("1e3", "us", "ms", None, 1),
    ("1", "in", "mm", None, 25),  # 25.4
    ("1", "ft", "mm", None, 305),  # 304.8
    ("12.34", "%", "0.0001", None, 1234),
    ("0.1", "mm", "0.001 mm", None, 100),
    ("40", "ppb", "0.001 ug/m3", "o3", 78_475),  # 40 * 47.997 / 24.465 = 78.47456 ug/m3
    ("1", "ppm", "0.001 ug/m3", "co", 1_144_901),  # 1000 * 28.010 / 24.465 = 1144.9008... ug/m3
    ("10", "ug/m3", "ppb", "no2", 5),  # 10 * 24.465 / 46.005 = 5.317...
]


@pytest.mark.parametrize(("text", "source", "target", "gas", "stored"), CONVERSIONS)
def test_conversion_is_exact(text: str, source: str, target: str, gas: str | None, stored: int) -> None:
    by = factor(source, target, gas)
    assert scaled(text, "x", by, False) == stored
    values, refused = scaled_column(pl.Series([text, None]), "x", by, False)
    assert values.to_list() == [stored, None]
    assert not refused


def test_half_even_over_a_whole_column() -> None:
    """Every thousandth from -20 to 20, where a tie is every fifth: as Fraction rounds."""
    texts = [f"{'-' if n < 0 else ''}{abs(n) // 1000}.{abs(n) % 1000:03d}" for n in range(-20_000, 20_001)]
    values, refused = scaled_column(pl.Series(texts), "x", Fraction(1, 2) * 10, False)
    wanted = [round(Fraction(n, 200)) for n in range(-20_000, 20_001)]
    assert values.to_list() == wanted
    assert not refused
    print(f"half-even values compared: {len(wanted)}")


def test_no_float_anywhere() -> None:
    """0.1 + 0.2 is not 0.3 in doubles, and 2**53 + 1 is no double."""
    assert scaled("9007199254740993", "x", Fraction(1), True) == 2**53 + 1
    assert scaled_column(pl.Series(["9007199254740993"]), "x", Fraction(1), True)[0].to_list() == [2**53 + 1]
    assert scaled("1.005", "x", Fraction(100), False) == 100  # the double 1.005 is below, the decimal a tie
    assert scaled("1.015", "x", Fraction(100), False) == 102
    assert scaled("0.30000000000000004", "x", Fraction(10) ** 17, True) == 30000000000000004


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "wrong_type"), ("1_0", "wrong_type"), ("٣", "wrong_type"), ("0x1", "wrong_type"), ("NaN", "wrong_type"),
     ("inf", "wrong_type"), ("1,5", "wrong_type"), ("1" * 61, "wrong_type"), ("1e999", "out_of_range"),
     ("99999999999999999999", "out_of_range")],
)  # fmt: skip
def test_what_is_no_number(text: str, reason: str) -> None:
    one = scaled(text, "speed", Fraction(1), False)
    assert isinstance(one, Refused)
    assert one.reason == reason
    assert "speed" in one.detail
    assert scaled_column(pl.Series(["5", text]), "speed", Fraction(1), False)[1] == {1: one}


def test_a_fraction_of_a_vehicle_is_refused() -> None:
    one = scaled("2.7", "n", Fraction(1), True)
    assert isinstance(one, Refused)
    assert one.reason == "wrong_type"
    assert scaled("2.0", "n", Fraction(1), True) == 2
    assert is_count("vehicles")
    assert not is_count("ms")


def test_every_stored_unit_of_the_streams_is_known() -> None:
    stored = {c.unit for s in STREAMS for c in s.columns if isinstance(c, Int)}
    assert len(stored) > 5
    for name in stored:
        assert factor(name, name) == 1


def test_unknown_and_unfit_units_say_what_is_allowed() -> None:
    with pytest.raises(UnitError, match=r"'kmph' is unknown; known are .*km/h.* Did you mean"):
        unit("kmph")
    with pytest.raises(UnitError, match=r"'mph' is a speed, 'ms' is a time; allowed are us, ms, s, minutes"):
        factor("mph", "ms")
    with pytest.raises(UnitError, match=r"'ppb' needs the gas .* None, known are so2, no2"):
        factor("ppb", "ug/m3")
    assert unit("µg/m³") == unit("ug/m3")
    assert len({u.name for u in UNITS}) == len(UNITS)
