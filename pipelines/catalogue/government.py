"""Government services: two headline services, cases without a visit, overdue cases, and the 12345 hotline."""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.decisions import LimitBy, first_seen, open_between, same_local_day, share_at, within
from pipelines.indicator import Case, Cases, Indicator, Stock, Thresholds
from pipelines.streams import CASE, DAY_MS, HOUR_MS, MINUTE_MS, TKT
from pipelines.windows import Day, Slide, tumble

SHARE: Final = 100 * pl.col("num") / pl.col("den")
HOTLINE: Final = "12345 hotline, Beijing draft DB11 (2021)"
NINE: Final = 1_772_413_200_000
"""2026-03-02 09:00 in Shanghai, for the worked cases."""

APPROVAL_ONE_SECOND: Final = Indicator(
    id="approval.one_second",
    method_id="approve-submit<=1 s, auto",
    zh="秒批率",
    en="Second-approval rate",
    unit="%",
    domain="government",
    window=Slide(DAY_MS, 5 * MINUTE_MS),
    kind=Cases(
        CASE,
        within(
            CASE,
            "submit",
            "approve",
            1_000,
            negatives=("reject",),
            negative="removes",
            where=pl.col("auto") == 1,
            coarse="coarse",
        ),
        SHARE,
    ),
    thresholds=Thresholds((80.0, 95.0), "P", "our proposal; the limit of 1 s is the headline service's"),
    case=Case(
        rows=(
            {"case_id": "at the limit", "submit": 0, "approve": 1_000, "auto": 1},
            {"case_id": "1 ms over", "submit": 0, "approve": 1_001, "auto": 1},
            {"case_id": "open", "submit": 0, "auto": 1},
            {"case_id": "rejected in time: out", "submit": 0, "reject": 400, "auto": 1},
            {"case_id": "rejected too late to matter", "submit": 0, "reject": 1_000, "auto": 1},
            {"case_id": "by hand: out", "submit": 0, "approve": 400, "auto": 0},
        ),
        gives=25.0,
        source="limit 1 s from the submission, inclusive; a reject before the decision removes the case: 1 of 4",
    ),
    good="up",
    target=95.0,
)

LICENCE_SAME_DAY: Final = Indicator(
    id="licence.same_day",
    method_id="local date of deliver = of submit",
    zh="当日办结率",
    en="Same-day licence rate",
    unit="%",
    domain="government",
    window=Day(),
    kind=Cases(CASE, same_local_day(CASE, "submit", "deliver", where=pl.col("item") == "food_licence"), SHARE),
    thresholds=Thresholds((80.0, 95.0), "P", "our proposal; the same day is the headline service's"),
    case=Case(
        rows=(
            {"case_id": "same day", "submit": NINE, "deliver": NINE + 15 * HOUR_MS - 1, "item": "food_licence"},
            {"case_id": "next midnight", "submit": NINE, "deliver": NINE + 15 * HOUR_MS, "item": "food_licence"},
            {"case_id": "open", "submit": NINE + HOUR_MS, "item": "food_licence"},
            {"case_id": "early", "submit": NINE - 9 * HOUR_MS, "deliver": NINE, "item": "food_licence"},
            {"case_id": "other item", "submit": NINE, "deliver": NINE, "item": "other"},
        ),
        gives=50.0,
        source="local date of delivery = local date of submission, Shanghai; 00:00 is the next day: 2 of 4",
    ),
    good="up",
    target=95.0,
)

ZERO_VISIT: Final = Indicator(
    id="case.zero_visit",
    method_id="no counter up to deliver",
    zh="不见面办理率",
    en="Zero-visit rate",
    unit="%",
    domain="government",
    window=Day(),
    kind=Cases(
        CASE,
        share_at(
            CASE,
            "deliver",
            (first_seen("channel", "counter") > pl.col("deliver")).fill_null(True),
            # No data is not zero: a case that never says its channel is no evidence of a visit saved.
            where=first_seen("channel") <= pl.col("deliver"),
        ),
        SHARE,
    ),
    thresholds=Thresholds((80.0, 95.0), "P", "our proposal; 50 frequent items without a visit: Shanghai"),
    case=Case(
        rows=(
            {"case_id": "online", "submit": 0, "deliver": 90, "channel_seen": [{"t": 0, "value": "online"}]},
            {
                "case_id": "counter on the way",
                "submit": 0,
                "deliver": 90,
                "channel_seen": [{"t": 0, "value": "online"}, {"t": 90, "value": "counter"}],
            },
            {
                "case_id": "counter afterwards",
                "submit": 0,
                "deliver": 90,
                "channel_seen": [{"t": 0, "value": "online"}, {"t": 91, "value": "counter"}],
            },
            {"case_id": "not delivered: out", "submit": 0, "channel_seen": [{"t": 0, "value": "counter"}]},
            {"case_id": "channel unknown: out", "submit": 0, "deliver": 90, "channel_seen": []},
            {"case_id": "counter", "submit": 0, "deliver": 90, "channel_seen": [{"t": 0, "value": "counter"}]},
        ),
        gives=50.0,
        source="delivered cases that no event up to the delivery shows at a counter: 2 of 4",
    ),
    good="up",
)

OVERDUE: Final = Indicator(
    id="case.overdue",
    method_id="open past due / open",
    zh="超期率",
    en="Overdue rate",
    unit="%",
    domain="government",
    window=tumble(15 * MINUTE_MS),
    kind=Stock(CASE, open_between(CASE, "submit", ("approve", "reject", "deliver"), marked=pl.col("due_t")), SHARE),
    thresholds=Thresholds((1.0, 3.0), "P", "our proposal"),
    case=Case(
        rows=(
            {"case_id": "overdue", "submit": NINE - DAY_MS, "due_t": NINE - 2 * HOUR_MS},
            {"case_id": "due later", "submit": NINE - DAY_MS, "due_t": NINE},
            {"case_id": "no due date", "submit": NINE - DAY_MS},
            {
                "case_id": "decided late",
                "submit": NINE - DAY_MS,
                "due_t": NINE - 3 * HOUR_MS,
                "approve": NINE - 2 * HOUR_MS,
            },
            {"case_id": "decided later", "submit": NINE - DAY_MS, "due_t": NINE, "reject": NINE + HOUR_MS},
            {"case_id": "not yet submitted", "submit": NINE, "due_t": NINE - HOUR_MS},
        ),
        gives=25.0,
        source="open at 08:00 (submitted, not yet approved, rejected or delivered): 4, of which 1 past its due time",
    ),
    good="down",
)

ANSWER_15S: Final = Indicator(
    id="hotline.answer_15s",
    method_id="answer-ring<=15 s",
    zh="15秒接通率",
    en="Hotline calls answered within 15 s",
    unit="%",
    domain="government",
    window=Slide(HOUR_MS, 5 * MINUTE_MS),
    kind=Cases(TKT, within(TKT, "ring", "answer", 15_000), SHARE),
    thresholds=Thresholds((90.0, 95.0), "P", f"95 and the limit of 15 s: {HOTLINE} [V]; 90: our proposal"),
    case=Case(
        rows=(
            {"case_id": "at the limit", "ring": 0, "answer": 15_000},
            {"case_id": "1 ms over", "ring": 0, "answer": 15_001},
            {"case_id": "abandoned", "ring": 0},
            {"case_id": "at once", "ring": 0, "answer": 0},
            {"case_id": "unanchored: out", "answer": 15_000},
        ),
        gives=50.0,
        source="limit 15 s from the ring, its last millisecond included; abandoned calls fail: 2 of 4",
    ),
    good="up",
)

FEEDBACK_IN_TIME: Final = Indicator(
    id="hotline.feedback_in_time",
    method_id="close-assign<=limit(class)",
    zh="按时反馈率",
    en="Hotline feedback within the limit",
    unit="%",
    domain="government",
    window=tumble(HOUR_MS),
    kind=Cases(
        TKT,
        within(
            TKT,
            "assign",
            "close",
            LimitBy(
                "class",
                {"emergency": 2 * HOUR_MS, "utility": DAY_MS, "normal": 7 * DAY_MS, "complex": 15 * DAY_MS},
            ),
        ),
        SHARE,
    ),
    thresholds=Thresholds((90.0, 95.0), "P", f"our proposal; limits 2 h, 24 h, 7 d, 15 d: {HOTLINE} [V]"),
    case=Case(
        rows=(
            {"case_id": "emergency", "ring": 0, "assign": 60_000, "close": 60_000 + 2 * HOUR_MS, "class": "emergency"},
            {"case_id": "1 ms over", "ring": 0, "assign": 0, "close": 2 * HOUR_MS + 1, "class": "emergency"},
            {"case_id": "utility", "ring": 0, "assign": 0, "close": DAY_MS, "class": "utility"},
            {"case_id": "normal, open", "ring": 0, "assign": 0, "class": "normal"},
            {"case_id": "complex", "ring": 0, "assign": 0, "close": 15 * DAY_MS, "class": "complex"},
            {"case_id": "no class: out", "ring": 0, "assign": 0, "close": 1},
            {"case_id": "not assigned: out", "ring": 0, "close": 1, "class": "normal"},
        ),
        gives=60.0,
        source="limit by class from the assignment, its last millisecond included: 3 of 5",
    ),
    good="up",
)

INDICATORS: Final = (APPROVAL_ONE_SECOND, LICENCE_SAME_DAY, ZERO_VISIT, OVERDUE, ANSWER_15S, FEEDBACK_IN_TIME)
