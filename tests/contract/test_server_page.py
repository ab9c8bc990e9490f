"""docs/clickhouse-server.md: its SQL is SQL, its rights are enough and no more, its list of codes is the code's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sinks import setup
from sinks.claims import claims
from sinks.clickhouse import ClickHouseSink
from sinks.errors import StoreError, StoreRefused
from sinks.failures import CONFIGURATION, POISON, TRANSIENT
from sinks.lease import Lease
from sinks.retry import Retry
from tests.contract.test_lease import readings
from tests.contract.test_sinks import ROLLUPS, STREAMS, rows_frame
from tests.fakes.clickhouse_http import Server, serving
from tests.fakes.servers import SERVERS, told
from tests.fakes.users import users_of

PAGE = (Path(__file__).parents[2] / "docs" / "clickhouse-server.md").read_text(encoding="utf-8")
STATEMENTS = [
    text.strip()
    for block in re.findall(r"^```sql\n(.*?)^```", PAGE, re.M | re.S)
    for text in block.split(";")
    if text.strip()
]
ACCESS = re.compile(r"(CREATE (USER|SETTINGS PROFILE|QUOTA)|GRANT)\b")
RETENTION = [s for s in STATEMENTS if "ALTER DELETE" in s or "system.parts" in s]
RIGHTS = [s for s in STATEMENTS if s not in RETENTION]
PASSWORDS = {"city_migrations": "change-me-1", "city_writer": "change-me-2", "city_reader": "change-me-3"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that has the users of the page."""
    with serving(tmp_path / "server") as server:
        server.users = users_of(RIGHTS)
        yield server


def opened(server: Server, who: str) -> ClickHouseSink:
    dsn = f"http://{who}:{PASSWORDS[who]}@127.0.0.1:{server.server_port}/city"
    return ClickHouseSink(dsn, ROLLUPS, STREAMS, fsync=False, retry=Retry(2))


def test_every_statement_is_sql(tmp_path: Path) -> None:
    """Embedded chDB has no users: statements about them are parsed there, the others run."""
    parsed = ran = 0
    with ClickHouseSink(f"chdb://{tmp_path}/s?database=city") as sink:
        sink.migrate()
        for text in STATEMENTS:
            if ACCESS.match(text):
                assert len(sink.query(f"EXPLAIN AST {text}")) > 0, text
                parsed += 1
            else:
                sink.query(text) if text.startswith("SELECT") else sink._writer.command(text)
                ran += 1
        with pytest.raises(StoreError, match="Syntax error"):
            sink.query("EXPLAIN AST GRANT SELECT city.* TO city_writer")
    print(f"statements of the page parsed: {parsed}, run: {ran}")
    assert parsed >= 12 and ran >= 2 and parsed + ran == len(STATEMENTS)


def test_the_documented_rights_are_enough(server: Server) -> None:
    with opened(server, "city_migrations") as sink:
        assert len(sink.migrate()) == 5
        assert sink.migrate() == ()
    with opened(server, "city_writer") as sink:
        assert sink.migrate() == ()
        sink.write("readings", readings("L1", 1))
        sink.write("rows_speed", rows_frame(3))
        lease = Lease(sink, "writer", settle_s=0.3)
        assert lease.acquire() == 1
        lease.check()
        lease.release()
        assert claims(lease._connection)[0].left_s <= 0
        everything(sink)
        with pytest.raises(StoreRefused, match=r"SELECT ON system\.parts"):
            sink.drop_before("rows_speed", 4_000_000_000_000)
        server.users = users_of(RIGHTS + RETENTION)
        assert sink.drop_before("rows_speed", 4_000_000_000_000) == 1
    with opened(server, "city_reader") as sink:
        everything(sink)


def everything(sink: ClickHouseSink) -> None:
    """What dashboards, exports and restarts ask."""
    assert sink.newest_readings(last=5).height == 1
    assert sink.latest_cells().height == 1
    assert sink.episodes(from_ms=0).height == sink.transitions(episode_id="x").height == 0
    assert sink.panes("speed", 0, 4_000_000_000_000).height in (0, 3)
    assert sink.lifecycles("inc").height == 0
    assert sink.page("readings", None, 10).height == sink.page("readings", None, 10, newest=False).height == 1
    assert sink.counts()["readings"] == 1


def test_the_documented_rights_are_not_more(server: Server) -> None:
    with opened(server, "city_writer") as sink, pytest.raises(StoreRefused, match=r"set the tables up|lacks a right"):
        sink.migrate()
    with opened(server, "city_migrations") as sink:
        sink.migrate()
    with opened(server, "city_reader") as sink:
        with pytest.raises(StoreRefused, match=r"writing 1 rows of readings .*lacks a right: grant it"):
            sink.write("readings", readings("L1", 1))
        with pytest.raises(StoreRefused, match="lacks a right"):
            sink.query("SELECT count() FROM other.readings")
    with opened(server, "city_writer") as sink:
        for text in (
            "DROP TABLE readings",
            "ALTER TABLE readings DELETE WHERE 1",
            "CREATE TABLE x (a Int8) ENGINE = Log",
        ):
            with pytest.raises(Exception, match="Not enough privileges"):
                sink._writer.command(text)
        assert sink.counts()["readings"] == 0


def test_a_table_that_is_missing_is_told_and_set_up(server: Server) -> None:
    """After an update with another rollup: the writer cannot, the message says who can, and then it goes on."""
    with opened(server, "city_migrations") as sink:
        sink.migrate()
        sink._writer.command("DROP TABLE `rows_bands`")
    with (
        opened(server, "city_writer") as sink,
        pytest.raises(StoreRefused, match=r"lacks a right.*clickhouse-server\.md"),
    ):
        sink.migrate()
    with opened(server, "city_migrations") as sink:
        assert sink.migrate() == ("rows_bands: created",)
    with opened(server, "city_writer") as sink:
        assert sink.migrate() == ()


def test_setup_makes_the_whole_store(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    dsn = f"http://city_migrations:change-me-1@127.0.0.1:{server.server_port}/city"
    assert setup.main([dsn]) == 0
    assert "rows_link" in capsys.readouterr().out
    assert setup.main([dsn]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert setup.main([dsn.replace("change-me-1", "wrong")]) == 1
    said = capsys.readouterr().err
    assert "user or password is wrong" in said and "wrong@" not in said
    assert setup.main([]) == 2


def test_a_reader_under_readonly_1_is_refused(server: Server) -> None:
    """Why the page says readonly = 2: each query brings its time limit."""
    with opened(server, "city_migrations") as sink:
        sink.migrate()
    server.users = users_of([s.replace("readonly = 2", "readonly = 1") for s in RIGHTS])
    with opened(server, "city_reader") as sink, pytest.raises(StoreRefused, match="readonly = 2"):
        sink.newest_readings()


def test_the_codes_of_the_page_are_those_of_the_program() -> None:
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in PAGE.splitlines() if line.startswith("|")}
    for kind, codes in (("passes", TRANSIENT), ("the rows", POISON), ("yours to mend", CONFIGURATION)):
        named = {int(n) for n in re.findall(r"(?<!HTTP )\b\d+\b", rows[kind])} - {429}
        assert named == set(codes), kind
    todo = {int(n) for name in rows if re.fullmatch(r"[\d, ]+", name) for n in name.split(",")}
    assert todo == set(CONFIGURATION)


def test_whether_a_real_server_took_part_is_said() -> None:
    assert ("no real one was at hand" in told()) == (not SERVERS)
