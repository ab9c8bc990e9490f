"""Real ClickHouse servers for the contract suite: none, or the one that `make test-server URL=...` names.

Its database has to be empty or one that an earlier run of the suite used; every table in it is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sinks.connection import Address, Connection
from sinks.ddl import quoted

VARIABLE = "CITYBRAIN_SERVER"
SERVERS: tuple[str, ...] = (os.environ[VARIABLE],) if os.environ.get(VARIABLE) else ()
OURS = "citybrain_contract_suite"
"""A table of this name marks a database as one that may be emptied."""


def told() -> str:
    """For people who read the end of a test run."""
    if SERVERS:
        return f"{Address.of(SERVERS[0]).shown}, and the stand-in"
    return "no real one was at hand; a stand-in over chDB took its place (make test-server URL=...)"


@contextmanager
def emptied(dsn: str) -> Iterator[str]:
    """The address of the server's database, without tables before and after."""
    address = Address.of(dsn)
    if address.database in ("default", "system", "information_schema"):
        pytest.fail(
            f"{VARIABLE}: the suite drops every table of its database; name one of its own, not {address.shown}"
        )
    connection = Connection(replace(address, database="default"))
    connection.command(f"CREATE DATABASE IF NOT EXISTS {quoted(address.database)}")
    connection.close()
    connection = Connection(address)
    try:
        _drop(connection)
        connection.command(f"CREATE TABLE IF NOT EXISTS {OURS} (x UInt8) ENGINE = MergeTree ORDER BY x")
        yield dsn
        _drop(connection)
    finally:
        connection.close()


def _drop(connection: Connection) -> None:
    known = connection.query(
        "SELECT name FROM system.tables WHERE database = {d:String}", {"d": connection.address.database}
    )
    names = known["name"].to_list()
    if names and OURS not in names:
        pytest.fail(f"{connection.address.shown} holds tables of somebody ({names[0]}, ...); name an empty database")
    for name in names:
        if name != OURS:
            connection.command(f"DROP TABLE {quoted(name)}")
