"""Times of a mapping: formats, zones, hours that daylight saving repeats or skips; one text and a column agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.times import TimeFormat
from pipelines.records import Refused


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def both(format_: TimeFormat, text: str) -> int | Refused:
    """The one text and the column must say the same (null in the column: left to the one text)."""
    one = format_.read(text, "at")
    column = format_.column(pl.Series([text]))[0]
    assert column is None or column == one
    return one


CHICAGO = "America/Chicago"


def test_repeated_hour() -> None:
    """2018-11-04 01:30 in Chicago is 06:30 UTC (daylight saving) and 07:30 UTC."""
    text = "2018-11-04 01:30:00"
    assert both(TimeFormat("iso", CHICAGO, "earliest"), text) == ms("2018-11-04T06:30:00+00:00")
    assert both(TimeFormat("iso", CHICAGO, "latest"), text) == ms("2018-11-04T07:30:00+00:00")
    refused = both(TimeFormat("iso", CHICAGO), text)
    assert isinstance(refused, Refused)
    assert refused.reason == "bad_time"
    assert "has twice" in refused.detail
    for policy in ("earliest", "latest", "refuse"):
        assert both(TimeFormat("iso", CHICAGO, policy), "2018-11-04 02:00:00") == ms("2018-11-04T08:00:00+00:00")


def test_skipped_hour() -> None:
    """2018-03-11 02:30 does not exist in Chicago; shifted by the gap it is 03:30 daylight saving, 08:30 UTC."""
    text = "2018-03-11 02:30:00"
    assert both(TimeFormat("iso", CHICAGO, nonexistent="shift"), text) == ms("2018-03-11T08:30:00+00:00")
    refused = both(TimeFormat("iso", CHICAGO), text)
    assert isinstance(refused, Refused)
    assert "skips" in refused.detail


@pytest.mark.parametrize(
    ("format_", "zone", "text", "wanted"),
    [
        ("iso", None, "2024-05-06T07:08:09.1239Z", "2024-05-06T07:08:09.123+00:00"),
        ("iso", None, "2024-05-06 07:08:09+0530", "2024-05-06T07:08:09+05:30"),
        ("iso", "Asia/Shanghai", "2024-05-06", "2024-05-06T00:00:00+08:00"),
        ("iso", "Asia/Shanghai", "2024-05-06T07:08Z", "2024-05-06T07:08:00+00:00"),
        ("%d.%m.%y %I:%M %p", "UTC", "6.5.24 12:08 am", "2024-05-06T00:08:00+00:00"),
        ("%d/%b/%Y:%H:%M:%S %z", None, "01/Aug/1995:00:00:01 -0400", "1995-08-01T00:00:01-04:00"),
        ("%Y-%m-%d %H:%M:%S+00:00", "America/Los_Angeles", "2016-07-13 15:11:07+00:00", "2016-07-13T15:11:07-07:00"),
        ("%Y %m %d %H", "Asia/Shanghai", "2013 3 1 0", "2013-03-01T00:00:00+08:00"),
        ("unix_s", None, "807256800", "1995-08-01T06:00:00+00:00"),
        ("unix_s", None, "807256800.9996", "1995-08-01T06:00:00.999+00:00"),
        ("unix_ms", None, "807256800001", "1995-08-01T06:00:00.001+00:00"),
        ("unix_us", None, "807256800001999", "1995-08-01T06:00:00.001+00:00"),
    ],
)
def test_formats(format_: str, zone: str | None, text: str, wanted: str) -> None:
    assert both(TimeFormat(format_, zone), text) == ms(wanted)


@pytest.mark.parametrize(
    "text",
    ["2024-02-30", "2024-13-01", "24-01-01", "2024-01-01T24:00", "2024-01-01T00:00:60", "", "now", "2024-01-01T00:00",
     "2024-01-01T00:00+99:00", "٢٠٢٤-01-01"],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    """Among them a naive time where no zone is named (rule 2)."""
    refused = both(TimeFormat("iso"), text)
    assert isinstance(refused, Refused)
    assert refused.reason == "bad_time"


@pytest.mark.parametrize(
    ("format_", "zone", "message"),
    [("%Y-%m", None, "lacks"), ("%Q", None, "unknown"), ("rfc", None, "unknown"), ("%Y-%m-%d %I", None, "without %p"),
     ("%Y-%m-%d %Y", None, "twice"), ("%Y-%m-%d %z", "UTC", "twice")],
)  # fmt: skip
def test_formats_are_closed(format_: str, zone: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeFormat(format_, zone)


ZONES = ["America/Chicago", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Shanghai", "America/Sao_Paulo", "UTC"]
counted = {"instants": 0}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ZONES),
    st.sampled_from(["earliest", "latest", "refuse"]),
    st.sampled_from(["shift", "refuse"]),
    st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2098, 1, 1)), min_size=1, max_size=40),
)
def column_equals_text(zone: str, ambiguous: str, nonexistent: str, times: list[datetime]) -> None:
    """Also around the changes of the zone, which are looked for day by day."""
    format_ = TimeFormat("iso", zone, ambiguous, nonexistent)  # type: ignore[arg-type]
    near = [change for t in times[:3] if (change := next_change(t, ZoneInfo(zone)))]
    moments = [*times, *(c + timedelta(minutes=m) for c in near for m in (-90, -31, -1, 0, 1, 29, 59, 90))]
    texts = [t.isoformat(" ", "milliseconds") for t in moments]
    column = format_.column(pl.Series(texts)).to_list()
    for text, value in zip(texts, column, strict=True):
        one = format_.read(text, "at")
        # The column leaves to the single text what the zone skips, and what is refused.
        assert value == one if value is not None else isinstance(one, Refused) or nonexistent == "shift"
    counted["instants"] += len(texts)


def next_change(at: datetime, zone: ZoneInfo) -> datetime | None:
    for day in range(370):
        a, b = (at + timedelta(days=day + n) for n in (0, 1))
        if a.replace(tzinfo=zone).utcoffset() != b.replace(tzinfo=zone).utcoffset():
            low = a.replace(tzinfo=UTC)
            return (low + timedelta(hours=12)).replace(tzinfo=None, hour=2, minute=0, second=0, microsecond=0)
    return None


def test_column_equals_text() -> None:
    column_equals_text()
    print(f"\ninstants compared: {counted['instants']}")
    assert counted["instants"] > 600
