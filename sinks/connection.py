"""One connection to a ClickHouse server or an embedded chDB store, through clickhouse-connect alone.

What it guards against was measured: a chDB handle gives the rows of a failed query to the next one (so a connection
that saw an error is opened again), the driver stages inserts in the temporary folder (so that is put on the store's
volume), a second opener is refused without a reason (so the lock is tried first and its holder named), and a server
session refuses parallel use (so there is none).
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import clickhouse_connect
import polars as pl
import urllib3
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.errors import StoreError, StoreOwned, StoreUnreachable
from sinks.failures import explained, kind_of
from sinks.lock import locked, owner_of

QUERY_S: Final = 60
"""No query runs longer: a signal is seen only when the native call returns."""
ANSWER_S: Final = QUERY_S + 10
"""How long an answer is waited for: a query that ended itself has answered by then."""
CONNECT_S: Final = 5
STAGING: Final = "staging"
OF_A_STORE: Final = frozenset(("status", "metadata", "store", STAGING, "tokens.json", "spool"))
VOLATILE: Final = frozenset(("status", "data", "tmp", STAGING))
"""What chDB and the driver make anew whenever a store is opened."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is: `chdb:///abs/dir[?database=x]`, or `http(s)://user:password@host:port/database`."""

    dsn: str
    path: Path | None
    database: str

    @classmethod
    def of(cls, dsn: str) -> Address:
        url = urlsplit(dsn)
        if url.scheme == "chdb":
            if url.netloc or not url.path.startswith("/") or url.path == "/":
                raise StoreError(f"{dsn!r} is no store; an embedded one is an absolute folder: chdb:///abs/dir")
            database = parse_qs(url.query).get("database", ["default"])[0]
            return cls(dsn, Path(unquote(url.path)), _database(database))
        if url.scheme in ("http", "https") and url.hostname:
            return cls(dsn, None, _database(unquote(url.path.strip("/")) or "default"))
        raise StoreError(
            f"{url.scheme or dsn!r} is no kind of store; use chdb:///abs/dir or http(s)://user:password@host:port/database"
        )

    @property
    def shown(self) -> str:
        """For messages: without user and password."""
        if self.path is not None:
            return str(self.path)
        url = urlsplit(self.dsn)
        return f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}/{self.database}"


def _database(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise StoreError(f"{name!r} is no database name; use letters, digits and _")
    return name


class Connection:
    """Opens on first use, and an embedded store again after any error. Not for two threads at once."""

    def __init__(self, address: Address, answer_s: float = ANSWER_S) -> None:
        self.address, self.answer_s = address, answer_s
        self._client: Any = None

    def query(
        self, sql: str, parameters: Mapping[str, object] | None = None, *, seconds: int = QUERY_S
    ) -> pl.DataFrame:
        """The result as a frame, times as Int64 ms. `parameters` are bound by the server, `{name:Type}` in the text."""
        with self._open() as client:
            settings = {"max_execution_time": seconds}
            frame: pl.DataFrame = client.query_df_arrow(
                sql, parameters=dict(parameters or {}), settings=settings, dataframe_library="polars"
            )
        times = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime)]
        return frame.with_columns(pl.col(times).dt.cast_time_unit("ms").to_physical()) if times else frame

    def command(self, sql: str, parameters: Mapping[str, object] | None = None) -> None:
        with self._open() as client:
            client.command(sql, parameters=dict(parameters) if parameters else None)

    def insert(self, table: str, frame: pl.DataFrame) -> None:
        """One Arrow insert. Keys that are in it twice are left to reading (FINAL): folding them costs a third more."""
        with self._open() as client, self._staged():
            client.insert_df_arrow(table, frame, settings={"optimize_on_insert": 0})

    def open(self) -> None:
        """Opens now, so that what is wrong with the address or the store is raised here."""
        with self._open():
            pass

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        if self._client is None:
            self._client = _client(self.address, self.answer_s)
        try:
            yield self._client
        except BaseException:
            # Measured: rows of the failed query come first in the answer to the next one on a chDB handle.
            if self.address.path is not None:
                self.close()
            raise

    @contextmanager
    def _staged(self) -> Iterator[None]:
        """The driver writes every chDB insert to a temporary file first."""
        if self.address.path is None:
            yield
            return
        before = tempfile.tempdir
        tempfile.tempdir = str(self.address.path / STAGING)
        try:
            yield
        finally:
            tempfile.tempdir = before


def _client(address: Address, answer_s: float) -> Any:
    if address.path is not None:
        return _embedded(address.path, address)
    # They write a traceback for every connection that fails; hours without a server are one line of ours.
    for name in ("clickhouse_connect", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client: Any = clickhouse_connect.get_client(
            dsn=address.dsn,
            # Else the driver takes TLS from the port alone, and sends the password of https://host:9443 in clear.
            interface=urlsplit(address.dsn).scheme,
            database=address.database,
            autogenerate_session_id=False,
            dedicated_pool=True,
            connect_timeout=CONNECT_S,
            send_receive_timeout=max(1, math.ceil(answer_s)),
            compress="lz4",
            tz_mode="aware",
            show_clickhouse_errors="scrub",
        )
    except (ClickHouseError, OSError) as error:
        server = address.shown.rpartition("/")[0]
        if kind_of(error) == "configuration":
            raise explained(error, address.shown, "opening the store") from error
        raise StoreUnreachable(
            f"no ClickHouse server answers at {server}: {str(error).strip()}; check that it runs, "
            f"the port (HTTP: 8123 or 8443), user and password, and that the database exists"
        ) from error
    if answer_s < ANSWER_S:
        client.timeout = urllib3.Timeout(connect=CONNECT_S, read=answer_s)
    return client


def _embedded(path: Path, address: Address) -> Any:
    _prepare(path)
    try:
        return clickhouse_connect.get_client(
            interface="chdb", path=str(path), database=address.database, tz_mode="aware", show_clickhouse_errors=True
        )
    except ClickHouseError as error:
        text = str(error)
        if other := re.search(r"already initialized with path '([^']*)'", text):
            raise StoreError(
                f"this process has the store {other[1]} open and cannot open {path} as well; close the first one"
            ) from error
        if "EmbeddedServer" in text or "Cannot lock" in text:
            raise StoreOwned(str(path), owner_of(path)) from error
        raise StoreError(f"the store {path} cannot be opened: {text.strip()}") from error


def _prepare(path: Path) -> None:
    """The folder, made if it is missing; refuses one that holds something else, and one that another process owns."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        inside = {entry.name for entry in path.iterdir()}
        if inside and not inside & OF_A_STORE:
            raise StoreError(f"the folder {path} is not empty and holds no store; give an empty or a new one")
        staging = path / STAGING
        if locked(path):
            pid = owner_of(path)
            if pid != os.getpid():
                raise StoreOwned(str(path), pid)
        elif staging.is_dir():
            for left in staging.iterdir():
                left.unlink()
        staging.mkdir(exist_ok=True)
    except OSError as error:
        todo = {
            errno.EMFILE: "raise the limit of open files of this process (ulimit -n)",
            errno.ENFILE: "too many files are open on this machine",
            errno.ENOSPC: "free some space",
        }.get(error.errno or 0, "check the path and who owns it")
        raise StoreError(f"the store {path} cannot be made or read: {error}; {todo}") from error
