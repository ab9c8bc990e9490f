"""What an error of a store means, how long and how often a write is sent again, and how bad rows are found."""

from __future__ import annotations

import threading
import time

import polars as pl
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, DataError, OperationalError, ProgrammingError
from pyarrow import ArrowInvalid

from sinks.errors import StoreError, StoreGivenUp, StoreRefused, StoreUnreachable
from sinks.failures import CONFIGURATION, POISON, TRANSIENT, Kind, disk_full, explained, kind_of
from sinks.retry import Retry, Trouble, divided


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


KINDS: tuple[tuple[BaseException, Kind], ...] = (
    (OperationalError("Error executing HTTP request"), "transient"),
    (StoreUnreachable("no server"), "transient"),
    (ConnectionResetError(104, "reset"), "transient"),
    (TimeoutError("timed out"), "transient"),
    (OSError(28, "No space left on device"), "transient"),
    (OSError(24, "Too many open files"), "transient"),
    (OSError(5, "Input/output error"), "unknown"),
    (DatabaseError("Too many parts (3000)", code=252), "transient"),
    (DatabaseError("Too many partitions for single INSERT block (more than 100)", code=252), "unknown"),
    (DatabaseError("HTTP driver received HTTP status 502"), "transient"),
    (DatabaseError("HTTP driver received HTTP status 404"), "configuration"),
    (OperationalError("said after a retry: no such column", code=16), "configuration"),
    (DatabaseError("LOGICAL_ERROR", code=49), "unknown"),
    (DataError("cannot convert"), "poison"),
    (ArrowInvalid("not Arrow"), "poison"),
    (ProgrammingError("no such setting"), "configuration"),
    (StoreRefused("no"), "configuration"),
    (ValueError("x"), "unknown"),
    (caused(StoreError("cannot be read"), OSError(24, "Too many open files")), "transient"),
    (caused(StoreError("cannot be read"), OSError(13, "Permission denied")), "unknown"),
)


def test_every_error_is_of_one_kind() -> None:
    for error, kind in KINDS:
        assert kind_of(error) == kind, error
    for codes, kind in ((TRANSIENT, "transient"), (POISON, "poison"), (CONFIGURATION, "configuration")):
        for code in codes:
            assert kind_of(DatabaseError("x", code=code)) == kind, code
    assert len(set(TRANSIENT) | set(POISON) | set(CONFIGURATION)) == len(TRANSIENT) + len(POISON) + len(CONFIGURATION)


def test_what_a_person_has_to_do_is_said() -> None:
    for code, todo in CONFIGURATION.items():
        error = explained(DatabaseError(f"Code {code}", code=code), "https://h:8443/city", "writing 5 rows")
        assert isinstance(error, StoreRefused) and error.code == code
        assert todo in str(error) and "writing 5 rows at https://h:8443/city failed" in str(error)
    assert "free some space" in str(explained(DatabaseError("x", code=243), "h", "writing"))
    assert disk_full(OSError(28, "")) and disk_full(DatabaseError("", code=243)) and not disk_full(OSError(24, ""))


class Failing:
    """Fails as told, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.at = list(errors), list[float]()

    def __call__(self) -> None:
        self.at.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)


def test_pauses_double_up_to_the_longest() -> None:
    act = Failing(*[OperationalError("away")] * 7)
    told: list[Trouble | None] = []
    retry = Retry(None, first_pause_s=0.01, longest_pause_s=0.08, told=told.append)
    retry.until_done(act)
    pauses = [b - a for a, b in zip(act.at, act.at[1:], strict=False)]
    for pause, due in zip(pauses, (0.01, 0.02, 0.04, 0.08, 0.08, 0.08, 0.08), strict=True):
        assert pause >= 0.75 * due
    assert pauses[0] < 0.04
    assert retry.trouble is None and retry.again_total == 7
    assert [t.tries if t else None for t in told] == [1, 2, 3, 4, 5, 6, 7, None]
    assert len({t.since_ms for t in told if t}) == 1
    assert told[0] is not None and told[0].why == "away" and abs(told[0].since_ms / 1000 - time.time()) < 60


def test_a_full_disk_is_an_alarm() -> None:
    told: list[Trouble | None] = []
    Retry(5, first_pause_s=0.001, told=told.append).until_done(Failing(DatabaseError("not enough space", code=243)))
    assert told[0] is not None and told[0].disk_full and told[0].why == "the disk is full: not enough space"


def test_patience_ends() -> None:
    started = time.monotonic()
    with pytest.raises(OperationalError):
        Retry(0.2, first_pause_s=0.02).until_done(Failing(*[OperationalError("away")] * 1000))
    assert time.monotonic() - started < 1
    for error in (DatabaseError("bad", code=117), DatabaseError("no", code=497), DatabaseError("odd", code=49)):
        act = Failing(error, error)
        with pytest.raises(DatabaseError):
            Retry(None).until_done(act)
        assert len(act.at) == 1


def test_the_end_of_the_run_ends_the_waiting() -> None:
    stop = threading.Event()
    retry = Retry(None, first_pause_s=30, stop=stop)
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with pytest.raises(StoreGivenUp, match=r"could not be written to \(away\)"):
        retry.until_done(Failing(OperationalError("away")))
    assert time.monotonic() - started < 2
    assert retry.trouble is not None


@pytest.mark.parametrize("bad", [(), (0,), (99,), (3, 4, 50), tuple(range(0, 100, 10))])
def test_bad_rows_are_found_and_only_they(bad: tuple[int, ...]) -> None:
    written: list[int] = []
    sent = 0

    def send(part: pl.DataFrame) -> None:
        nonlocal sent
        sent += 1
        if set(part["x"]) & set(bad):
            raise DatabaseError("cannot parse", code=27)
        written.extend(part["x"])

    refused = divided(send, pl.DataFrame({"x": range(100)}))
    assert sorted(f["x"].item() for f, _ in refused) == sorted(bad)
    assert {why for _, why in refused} <= {"cannot parse"}
    assert sorted(written) == [x for x in range(100) if x not in bad]
    assert sent <= 1 + 2 * 7 * max(len(bad), 0)


def test_a_store_that_refuses_everything_is_no_matter_of_rows() -> None:
    def send(part: pl.DataFrame) -> None:
        raise DatabaseError("cannot parse", code=27)

    with pytest.raises(StoreError, match="more than 5 rows of one frame"):
        divided(send, pl.DataFrame({"x": range(1000)}), most=5)

    def away(part: pl.DataFrame) -> None:
        raise OperationalError("away")

    with pytest.raises(OperationalError):
        divided(away, pl.DataFrame({"x": range(10)}))
