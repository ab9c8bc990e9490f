"""What every store promises, on all of them: in memory, embedded chDB, and a server's HTTP interface (a stand-in)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.expr import Col
from pipelines.model import DEAD_LETTERS_SCHEMA, EPISODES_SCHEMA, READINGS_SCHEMA, TRANSITIONS_SCHEMA
from pipelines.rollup import Histogram, Measure, Rollup
from pipelines.streams import DAY_MS, HOUR_MS, INC, LINK
from sinks.clickhouse import ClickHouseSink
from sinks.errors import FrameRefused
from sinks.memory import MemorySink
from tests.fakes.clickhouse_http import serve
from tests.fakes.servers import SERVERS, emptied

SPEED = Rollup("speed", LINK, 60_000, (Measure("tt", "sum", Col("tt_ms")), Measure("low", "min", Col("n"))))
BANDS = Rollup("bands", LINK, 60_000, (Measure("n_all", "count"),), Histogram(Col("tt_ms"), (10, 20)))
ROLLUPS, STREAMS = (SPEED, BANDS), (LINK, INC)
T = 1_772_323_200_000
Store = ClickHouseSink | MemorySink
Opener = Callable[..., Store]
HERE = ("memory", "chdb", "http")


@pytest.fixture(params=["memory", "chdb", "http", *SERVERS], ids=lambda p: p if p in HERE else "server")
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the store; every call opens the same one again, which for memory makes a new one."""
    opened: list[Store] = []

    def keep(store: Store) -> Store:
        opened.append(store)
        store.migrate()
        return store

    try:
        if request.param == "memory":
            yield lambda **options: keep(MemorySink(ROLLUPS, STREAMS, **options))
        elif request.param == "chdb":
            yield lambda **options: keep(ClickHouseSink(f"chdb://{tmp_path}/store", ROLLUPS, STREAMS, **options))
        else:
            served = serve(tmp_path / "server") if request.param == "http" else emptied(request.param)
            with served as url:
                dsn = f"{url}/city" if request.param == "http" else url
                yield lambda **options: keep(ClickHouseSink(dsn, ROLLUPS, STREAMS, **options))
                for store in opened:
                    store.close()
    finally:
        for store in opened:
            store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


def reading(**values: Any) -> dict[str, Any]:
    row = {
        "indicator": "speed", "method_id": "m1", "place_kind": "link", "place": "L1",
        "window_start": T, "window_end": T + 60_000, "value": 41.25, "unit": "km/h", "state": "ok",
        "completeness": 0.75, "samples": 3, "num": 165, "den": 4, "detail": "", "as_of": T + 59_999, "revision": 1,
    }  # fmt: skip
    return row | values


def readings(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=READINGS_SCHEMA)


def rows_frame(n: int, pane: int = T, **values: Any) -> pl.DataFrame:
    row = {"pane_start": pane, "tt": 7, "low": None, "n": 2, "as_of": pane + 5, "late": False, "part": "", "off": -1}
    row |= {"step": 1} | values
    schema = {k: pl.Int64 for k in row} | {"late": pl.Boolean, "part": pl.String}
    frame = pl.DataFrame([row] * n, schema=schema)
    return frame.insert_column(0, pl.Series("place", [f"L{i}" for i in range(n)], dtype=pl.String))


def test_what_is_written_is_read(store: Store) -> None:
    episode = ["e1", "jam", 2, "speed", "link", "L1", "III", "firing", T, None, 1.5, 2.0, "{}", 1]
    given = {
        "readings": readings(
            reading(),
            reading(place="L2", value=None, completeness=None, num=None, den=None, as_of=None, state="no_data"),
            reading(place="old", window_start=-70_000_000_000, window_end=-69_999_940_000, as_of=-69_999_940_001),
        ),
        "episodes": pl.DataFrame([episode], schema=EPISODES_SCHEMA, orient="row"),
        "transitions": pl.DataFrame(
            [["e1", 1, T, "none", "firing", "III", ""], ["e1", 2, T + 1, "firing", "ended", "III", ""]],
            schema=TRANSITIONS_SCHEMA,
            orient="row",
        ),
        "dead_letters": pl.DataFrame(
            [["a.ndjson", "7:1", "link", "bad type", "n: 'x'", '{"n":"x"}', T]], DEAD_LETTERS_SCHEMA, orient="row"
        ),
        "rows_speed": rows_frame(3),
        "rows_bands": pl.DataFrame(
            [["L1", T, -1, 2, 2, T, False, "", -1, 1], ["L1", T, 1, 1, 1, T, True, "p0", 9, 1]],
            schema={
                "place": pl.String, "pane_start": pl.Int64, "bucket": pl.Int32, "n_all": pl.Int64, "n": pl.Int64,
                "as_of": pl.Int64, "late": pl.Boolean, "part": pl.String, "off": pl.Int64, "step": pl.Int64,
            },
            orient="row",
        ),
        "lifecycles_inc": pl.DataFrame(
            [
                ["c1", "report", T, "D1", "jam", None, 7, "p", 0, 1],
                ["c1", "arrive", T + 9, "D1", None, "app", -8, "p", 1, 1],
            ],
            schema={
                "case_id": pl.String, "milestone": pl.String, "t": pl.Int64, "place": pl.String, "kind": pl.String,
                "channel": pl.String, "event_id": pl.Int64, "part": pl.String, "off": pl.Int64, "step": pl.Int64,
            },
            orient="row",
        ),
    }  # fmt: skip
    assert set(given) == set(store.tables)
    for table, frame in given.items():
        store.write(table, frame)
        store.write(table, frame)
    read = {
        "readings": store.newest_readings(),
        "episodes": store.episodes(),
        "transitions": store.transitions(),
        "dead_letters": store.page("dead_letters", None, 10),
        "rows_speed": store.panes(SPEED, T, T + 1),
        "rows_bands": store.panes("bands", T, T + 1),
        "lifecycles_inc": store.lifecycles(INC, case_id="c1"),
    }
    for table, frame in given.items():
        assert read[table].schema == frame.schema, table
        assert read[table].rows() == frame.rows(), table
    assert store.counts() == {table: frame.height for table, frame in given.items()}


def test_the_largest_revision_is_the_newest(store: Store) -> None:
    """Rule 33: in whatever order they are written, in one frame or in several."""
    store.write("readings", readings(reading(value=1.0, revision=5), reading(value=2.0, revision=4)))
    assert store.newest_readings()["value"].to_list() == [1.0]
    store.write("readings", readings(reading(value=3.0, revision=1 << 33)))
    store.write("readings", readings(reading(value=4.0, revision=6)))
    assert store.newest_readings()["value"].to_list() == [3.0]
    assert store.counts()["readings"] == 1
    assert store.latest_cells()["value"].to_list() == [3.0]


def test_every_revision_can_be_kept(opener: Opener) -> None:
    store = opener(keep_revisions=True)
    for revision in (1, 2, 3, 3):
        store.write("readings", readings(reading(revision=revision)))
    assert store.page("readings", None, 10, newest=False)["revision"].to_list() == [1, 2, 3]
    assert store.page("readings", None, 10)["revision"].to_list() == [3]


Change = Callable[[pl.DataFrame], pl.DataFrame]
WRONG: tuple[tuple[Change, str], ...] = (
    (lambda f: f.with_columns(samples=pl.lit(None, pl.Int64)), "samples.*2 nulls"),
    (lambda f: f.with_columns(place=pl.lit(None, pl.String)), "place.*2 nulls"),
    (lambda f: f.with_columns(value=pl.lit(float("nan"))), "value.*nan"),
    (lambda f: f.with_columns(value=pl.lit(float("inf"))), "value.*inf"),
    (lambda f: f.with_columns(value=pl.lit(1.5, pl.Float32)), "value.*Float32"),
    (lambda f: f.with_columns(num=pl.lit(1.0)), "num.*Float64"),
    (lambda f: f.with_columns(place=pl.lit(7, pl.Int64)), "place.*Int64"),
    (lambda f: f.drop("state"), "no column 'state'"),
    (lambda f: f.rename({"place": "plaice"}), "no column 'plaice'.*Did you mean 'place'"),
    (lambda f: f.with_columns(as_of=pl.lit(-(10**18), pl.Int64)), "as_of.*1900 to 2299"),
    (lambda f: f.with_columns(pl.col("as_of").cast(pl.Datetime("ms"))), "as_of.*times are Int64"),
    (lambda f: f.with_columns(pl.col("as_of").cast(pl.Datetime("ms", "UTC"))), "as_of.*times are Int64"),
    (lambda f: f.with_columns(revision=pl.lit(-1, pl.Int64)), "revision.*negative"),
)


def test_a_wrong_frame_is_refused_whole(store: Store) -> None:
    good = readings(reading(), reading(place="L2"))
    for change, says in WRONG:
        with pytest.raises(FrameRefused, match=f"readings.*{says}"):
            store.write("readings", change(good))
    assert store.counts()["readings"] == 0
    store.write("readings", good)
    assert store.counts()["readings"] == 2


def test_an_unknown_table_is_named(store: Store) -> None:
    with pytest.raises(LookupError, match=r"'reading'.*readings"):
        store.write("reading", readings(reading()))
    with pytest.raises(LookupError, match="'rows_sped'"):
        store.panes("sped", 0, 1)


def test_texts_may_be_categories(store: Store) -> None:
    frame = readings(reading(), reading(place="L2"))
    store.write("readings", frame.cast({pl.String: pl.Categorical}))
    enum = pl.Enum(["L1", "L2", "L3"])
    store.write("readings", frame.with_columns(pl.col("place").cast(enum), revision=pl.lit(2, pl.Int64)))
    assert store.newest_readings().drop("revision").rows() == frame.drop("revision").rows()


def test_filters_equal_a_plain_search(store: Store) -> None:
    dice = random.Random(7)
    rows = [
        reading(
            indicator=dice.choice("abc"), place_kind=dice.choice(("link", "city")), place=f"P{dice.randrange(5)}",
            window_start=T + dice.randrange(40) * HOUR_MS, value=dice.random(), revision=dice.randrange(1, 9),
        )
        for _ in range(300)
    ]  # fmt: skip
    for row in rows:
        row["window_end"] = row["window_start"] + HOUR_MS
    key = READINGS_SCHEMA.keys() - {"value", "revision"}
    newest: dict[Any, dict[str, Any]] = {}
    for row in rows:
        known = newest.setdefault(tuple(row[k] for k in sorted(key)), row)
        if row["revision"] >= known["revision"]:
            newest[tuple(row[k] for k in sorted(key))] = row
    store.write("readings", readings(*rows))
    compared = 0
    for _ in range(25):
        indicators = dice.choice((None, "a", ["a", "c"], []))
        places = dice.choice((None, "P1", ["P0", "P4"]))
        kind = dice.choice((None, "city"))
        low, high = (dice.choice((None, T + dice.randrange(40) * HOUR_MS)) for _ in range(2))
        found = store.newest_readings(indicator=indicators, place=places, place_kind=kind, from_ms=low, until_ms=high)
        expected = [
            r
            for r in newest.values()
            if (indicators is None or r["indicator"] in list(indicators))
            and (places is None or r["place"] in ([places] if isinstance(places, str) else places))
            and (kind is None or r["place_kind"] == kind)
            and (low is None or r["window_end"] >= low)
            and (high is None or r["window_end"] < high)
        ]
        assert found.rows() == readings(*expected).sort(found.columns[:6]).rows()
        compared += found.height
    print(f"readings found by filters and compared: {compared}")
    assert compared > 100
    last = store.newest_readings(last=2)
    by = ["indicator", "method_id", "place_kind", "place"]
    assert (
        last.rows()
        == readings(*newest.values())
        .sort("window_end")
        .group_by(by)
        .tail(2)
        .select(*READINGS_SCHEMA)
        .sort(last.columns[:6])
        .rows()
    )
    cells = store.latest_cells()
    assert (
        cells["window_end"].to_list()
        == last.group_by(by).agg(pl.col("window_end").max()).sort(by)["window_end"].to_list()
    )


HOSTILE = (
    "it's", 'a"b', "a\\b", "a\\'b", "'; DROP TABLE readings; --", "a\nb\tc", "{x:String}", "北京 🚦",
    "%(x)s", "[1,2]", "", "\\N",
)  # fmt: skip


def test_any_text_is_only_text(store: Store) -> None:
    frame = readings(*(reading(place=text) for text in HOSTILE))
    store.write("readings", frame)
    store.write("rows_speed", pl.concat([rows_frame(1).with_columns(place=pl.lit(text)) for text in HOSTILE]))
    for text in HOSTILE:
        assert store.newest_readings(place=text)["place"].to_list() == [text]
        assert store.newest_readings(place=[text, "none"])["place"].to_list() == [text]
        assert store.page("rows_speed", (T, text, "", -2), 1)["place"].to_list() == [text]
        assert text not in store.page("rows_speed", (T, text, "", -1), 99)["place"].to_list()
    assert store.counts()["readings"] == len(HOSTILE)


def test_200_partitions_in_one_frame(store: Store) -> None:
    """A block of more than 100 partitions is refused by ClickHouse; the sink splits."""
    frame = readings(*(reading(window_start=T - i * 31 * DAY_MS, window_end=T) for i in range(200)))
    store.write("readings", frame)
    assert store.counts()["readings"] == 200
    assert store.newest_readings()["window_start"].to_list() == sorted(frame["window_start"])


def test_panes_are_half_open_and_carry_late_rows(store: Store) -> None:
    store.write("rows_speed", rows_frame(2))
    store.write("rows_speed", rows_frame(2, T + 60_000))
    store.write("rows_speed", rows_frame(1, T, late=True, part="p1", off=17))
    first = store.panes(SPEED, T, T + 60_000)
    assert first.select("place", "part", "off").rows() == [("L0", "", -1), ("L0", "p1", 17), ("L1", "", -1)]
    assert store.panes(SPEED, T + 1, T + 60_001).height == 2
    assert store.panes(SPEED, T + 60_001, T + DAY_MS).height == 0


def test_episodes_by_time_and_state(store: Store) -> None:
    def episode(name: str, state: str, start: int, end: int | None) -> list[Any]:
        return [name, "jam", 1, "speed", "link", "L1", "III", state, start, end, None, None, "", ord(name)]

    store.write(
        "episodes",
        pl.DataFrame(
            [
                episode("a", "ended", T, T + 10),
                episode("b", "firing", T + 5, None),
                episode("c", "ended", T + 50, T + 60),
            ],
            schema=EPISODES_SCHEMA,
            orient="row",
        ),
    )
    found = lambda **by: store.episodes(**by)["episode_id"].to_list()  # noqa: E731
    assert found() == ["a", "b", "c"]
    assert found(state="firing") == ["b"]
    assert found(from_ms=T + 11) == ["b", "c"]
    assert found(until_ms=T + 50) == ["a", "b"]
    assert found(episode_id=["c", "a"]) == ["a", "c"]
    assert found(last=2) == ["b", "c"] and found(state="ended", last=1) == ["c"]


def test_pages_make_the_whole(store: Store) -> None:
    dice = random.Random(3)
    frame = readings(
        *(
            reading(
                indicator=dice.choice("ab"), place=f"P{i % 7}", window_start=T + i * HOUR_MS, window_end=T + i * HOUR_MS
            )
            for i in range(100)
        )
    )
    store.write("readings", frame)
    pages, after = [], None
    while not (page := store.page("readings", after, 13)).is_empty():
        pages.append(page)
        after = page.row(-1)[:6]
    assert len(pages) == 8
    assert pl.concat(pages).rows() == store.newest_readings().rows()


def test_old_partitions_go_whole(store: Store) -> None:
    """Rule 26: a month goes when it lies wholly before the time."""
    for i in range(4):
        store.write("rows_speed", rows_frame(1, T + i * 31 * DAY_MS))
    assert store.drop_before("rows_speed", T + 40 * DAY_MS) == 1
    assert store.panes(SPEED, 0, T + 200 * DAY_MS)["pane_start"].to_list() == [T + i * 31 * DAY_MS for i in (1, 2, 3)]
    with pytest.raises(ValueError, match="episodes"):
        store.drop_before("episodes", T)


def test_threads_write_and_read_together(store: Store) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for i in range(4):
                store.write("readings", readings(*(reading(place=f"{number}.{i}.{j}") for j in range(20))))
                assert store.newest_readings(place=f"{number}.{i}.7").height == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert store.counts()["readings"] == 400


def test_an_empty_frame_is_nothing(store: Store) -> None:
    store.write("readings", readings())
    assert store.counts()["readings"] == 0
    assert store.newest_readings().schema == READINGS_SCHEMA
