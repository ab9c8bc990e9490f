"""What ingest promises to its callers, one test a promise."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from pipelines.event_id import event_ids
from pipelines.ingest import COUNTERS, Ingest, Input
from pipelines.model import NEVER, DeadLetter, Decoded, PlaceRegistry
from pipelines.places import MISSING, OTHER, Places
from pipelines.reasons import REASONS
from pipelines.streams import LINK, Text

T0 = 1_772_409_600_000


def block(source: str, times: list[int], first: int = 1, **more: object) -> Decoded:
    n = len(times)
    events = pl.DataFrame(
        {
            "record": pl.Series(range(first, first + n), dtype=pl.Int64),
            "index": pl.Series([0] * n, dtype=pl.Int32),
            "t": pl.Series([T0 + t for t in times], dtype=pl.Int64),
            "place": pl.Series([f"L{k % 3}" for k in range(n)], dtype=pl.String),
            "tt_ms": pl.Series([1000] * n, dtype=pl.Int64),
            "n": pl.Series([1] * n, dtype=pl.Int64),
        }
    ).with_columns(**more)
    return Decoded(source, "link", events.with_columns(event_ids(events, LINK)), (), first + n, n)


def ingest(*inputs: Input, live: bool = True, **more: int) -> Ingest:
    return Ingest(LINK, inputs or [Input("a", "p0")], live=live, registry=PlaceRegistry(), start=T0, **more)


def test_future_events_become_dead_letters_with_a_redacted_payload() -> None:
    stream = replace(LINK, columns=(*LINK.columns, Text("note", pii="redact")))
    city = Ingest(stream, [Input("a", "p0")], live=True, registry=PlaceRegistry(), start=T0)
    decoded = block("a", [0, 300_001, 300_000], note=pl.lit("call 13912345678 " + "x" * 4000))
    decoded = replace(decoded, events=decoded.events.with_columns(index=pl.Series([0, 2, 0], dtype=pl.Int32)))
    (run,) = city.push(decoded, T0)
    assert run.events is not None and run.events["t"].to_list() == [T0, T0 + 300_000]
    (letter,) = city.dead_letters()
    assert (letter.source, letter.position, letter.stream, letter.kind) == ("a", "2:2", "link", "quarantined")
    assert letter.reason == "future" and letter.reason in REASONS and letter.seen_at == T0
    assert str(T0 + 300_001) in letter.detail and f"arrival {T0}" in letter.detail
    assert "13912345678" not in letter.payload and "[mobile]" in letter.payload and len(letter.payload) <= 2048
    assert letter.payload.startswith('{"n":1,"note":"call [mobile] ')
    assert city.dead_letters() == []
    assert city.counters["quarantined"] == 1 and city.largest == T0 + 300_000


def test_arrival_is_what_the_source_recorded() -> None:
    city = ingest()
    city.push(block("a", [400_000], arrival=pl.lit(T0 + 390_000)), T0)
    city.push(block("a", [800_000], arrival=pl.lit(T0)), T0 + 900_000)
    assert city.counters == dict.fromkeys(COUNTERS, 0) | {
        "received": 2,
        "accepted": 1,
        "on_time": 1,
        "quarantined": 1,
    }


def test_refused_records_of_decoders_are_counted_by_their_kind() -> None:
    city = ingest()
    letters = (
        DeadLetter("a", "2", "link", "bad_json", "", ""),
        DeadLetter("a", "3:1", "link", "future", "", "", kind="quarantined", seen_at=5),
    )
    city.push(replace(block("a", [0]), refused=letters), T0)
    assert [city.counters[x] for x in ("received", "accepted", "rejected", "quarantined")] == [3, 1, 1, 1]
    assert [x.seen_at for x in city.dead_letters()] == [T0, 5]


def test_a_file_that_is_ahead_waits_for_the_others() -> None:
    city = ingest(Input("a", "p0"), Input("b", "p0"), live=False)
    assert city.wanted() == "a"
    (run,) = city.push(block("a", [0, 1000, 2000, 3000, 9000, 9500]), 0)
    assert run.events is not None and run.events.height == 4  # M before the first four is minus infinity: certain
    assert city.wanted() == "b" and city.watermark == NEVER
    (run,) = city.push(block("b", [0, 1, 2, 4000, 5000, 6000]), 0)
    assert run.events is not None and run.off == 4 and [t - T0 for t in run.events["t"]][-3:] == [9000, 5000, 6000]
    assert city.wanted() == "b"
    (run,) = city.end("b", 0)
    assert run.events is not None and run.events["t"].to_list() == [T0 + 9500]
    assert city.end("a", 0) == [] and city.wanted() is None
    assert city.counters["accepted"] == 12 == city.counters["received"] - city.counters["duplicate"]


def test_until_lets_time_go_on_in_every_partition() -> None:
    city = ingest(Input("a", "p0"), Input("b", "p1"), live=False)
    city.push(block("a", [0, 1, 2, 3]), 0)
    with pytest.raises(ValueError, match="'b' has not ended"):
        city.close_at(T0)
    city.end("b", 0)
    city.end("a", 0)
    ticks = city.close_at(T0 + 7_200_000)
    assert [(x.part, x.off, x.events, x.last_wm) for x in ticks] == [
        ("p0", 4, None, T0 + 7_200_000),
        ("p1", 0, None, T0 + 7_200_000),
    ]
    assert city.tick(T0) == []  # finite inputs have no ticks of their own


def test_columns_of_the_log() -> None:
    decoded = block("a", [0, 1])
    (run,) = ingest().push(replace(decoded, events=decoded.events.reverse()), T0)
    assert run.events is not None
    assert dict(run.events.schema) == {
        "off": pl.Int64,
        "t": pl.Int64,
        "wm": pl.Int64,
        "late": pl.Boolean,
        "id": pl.UInt64,
        "place": pl.UInt32,
        "tt_ms": pl.Int64,
        "n": pl.Int64,
    }
    assert ingest().push(block("a", []), T0) == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ingest().push(block("aa", [0]), T0), LookupError, "'aa'; there are a. Did you mean 'a'?"),
        (lambda: ingest().push(replace(block("a", [0]), stream="air"), T0), ValueError, "'air' .* 'link'"),
        (lambda: ingest(disorder_m=3), TypeError, "'disorder_m'.* Did you mean 'disorder_ms'"),
        (lambda: ingest(horizon_ms=-1), ValueError, "horizon_ms .* -1"),
        (lambda: ingest(Input("a", "p"), Input("a", "q")), ValueError, "'a' .* twice"),
        (lambda: Ingest(LINK, [], live=True, registry=PlaceRegistry()), ValueError, "no input"),
        (lambda: ingest().push(block("a", [0], place=pl.lit(None, pl.String)), T0), ValueError, "null_value"),
    ],
)
def test_errors_say_what_is_allowed(call: object, error: type[Exception], words: str) -> None:
    assert callable(call)
    with pytest.raises(error, match=words):
        call()


def test_an_ended_file_delivers_nothing_more() -> None:
    city = ingest(live=False)
    city.end("a", 0)
    with pytest.raises(ValueError, match="'a' has ended"):
        city.push(block("a", [0]), 0)


@pytest.mark.parametrize("kind", [pl.String, pl.Categorical])
def test_places_keep_their_codes_however_many_come(kind: type[pl.DataType]) -> None:
    registry = PlaceRegistry()
    places = Places(registry, ["c0", "c1"], max_places=500)
    names, given = [f"s{k * 7919 % 2000}" for k in range(2000)], []
    for start in range(0, 2000, 37):
        column = pl.Series("place", [*names[start : start + 37], "c1"]).cast(kind)
        (codes,) = places.encode([column], [pl.zeros(len(column), eager=True).to_numpy().astype("int64")])
        assert codes[-1] == 1 and (codes != MISSING).all()
        given += codes[:-1].tolist()
    assert registry.ids == ["c0", "c1", *names[:500], OTHER]
    assert [registry.ids[code] for code in given] == names[:500] + [OTHER] * 1500


def test_a_reloaded_registry_counts_what_it_knows() -> None:
    registry = PlaceRegistry()
    rank = pl.Series([0, 0], dtype=pl.Int64).to_numpy()
    Places(registry, ["c0"], 2).encode([pl.Series(["s1", "s2"])], [rank])
    (codes,) = Places(registry, ["c0"], 2).encode([pl.Series(["s3", "s2"])], [rank])
    assert codes.tolist() == [3, 2] and registry.ids == ["c0", "s1", "s2", OTHER]


def test_codes_of_another_categories_are_not_mixed_up() -> None:
    places, rank = Places(PlaceRegistry(), [], 10), pl.Series([0, 0], dtype=pl.Int64).to_numpy()
    for names in (["x", "y"], ["y", "z"], ["x", "z"]):
        column = pl.Series(names).cast(pl.Categorical(pl.Categories(f"of {names}")))
        (codes,) = places.encode([column], [rank])
        assert [places.registry.ids[code] for code in codes] == names
        (codes,) = places.encode([pl.Series(names).cast(pl.Enum(names[::-1]))], [rank])
        assert [places.registry.ids[code] for code in codes] == names
