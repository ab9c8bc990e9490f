"""What an error of the store means: worth sending again, rows that it cannot take, or something for a person to mend.

The lists are those of ClickHouse's own Kafka and Flink connectors, corrected by what was measured: code 252 says both
"too many parts" (passes) and "too many partitions for single INSERT block" (never does), and a full temporary folder
is no ClickHouse error at all.
"""

from __future__ import annotations

import errno
import re
from typing import Final, Literal

from clickhouse_connect.driver.exceptions import (
    DatabaseError,
    DataError,
    OperationalError,
    ProgrammingError,
)
from pyarrow import ArrowInvalid

from sinks.errors import StoreError, StoreRefused, StoreUnreachable

Kind = Literal["transient", "poison", "configuration", "unknown"]
"""`transient`: the same frame again; `poison`: some row of it; `configuration`: stop, a person has to act;
`unknown`: stop as well, nothing is known that would help."""

TRANSIENT: Final = {
    3: "unexpected end of file",
    107: "a file is gone",
    159: "timeout",
    202: "too many queries at once",
    203: "no free connection",
    209: "the network timed out",
    210: "the network failed",
    236: "aborted; the server stops",
    241: "the memory limit was reached",
    242: "the table is read-only; the replica has lost its keeper",
    243: "the disk is full",
    252: "too many parts; merges lag behind",
    285: "too few live replicas",
    319: "the outcome is unknown",
    394: "the query was cancelled",
    425: "a system call failed",
    999: "the keeper failed",
}
POISON: Final = {
    6: "a text cannot be parsed",
    27: "the input cannot be parsed",
    33: "not all data could be read",
    38: "a date cannot be parsed",
    41: "a time cannot be parsed",
    53: "the types do not match",
    70: "a type cannot be converted",
    72: "a number cannot be parsed",
    117: "incorrect data",
    131: "a text is too long",
}
SET_UP: Final = "set the tables up with a user that may (docs/clickhouse-server.md), then start again"
CONFIGURATION: Final = {
    16: f"a column is missing in the store: {SET_UP}",
    47: f"a name is not known in the store: {SET_UP}",
    60: f"a table is missing in the store: {SET_UP}",
    62: "the server does not understand the statement: check its version (docs/clickhouse-server.md)",
    81: f"the database does not exist: {SET_UP}",
    115: "the server does not know a setting: check its version (docs/clickhouse-server.md)",
    164: "the user is read-only: give the address of a user that may write; one that reads needs readonly = 2",
    192: "the server does not know the user: check the user of the address",
    193: "the password is wrong: check the password of the address",
    194: "the server wants a password: write it into the address, https://user:password@host:port/database",
    195: "the user may not come from this machine: check the HOST of the user",
    497: "the user lacks a right: grant it as docs/clickhouse-server.md says",
    516: "user or password is wrong: check the address, https://user:password@host:port/database",
}
FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
PASSES: Final = FULL | {errno.EMFILE, errno.ENFILE}
AGAIN: Final = "the frame was not acknowledged and may be written again"
PARTITIONS: Final = "partitions for single INSERT"


def kind_of(error: BaseException) -> Kind:
    """Which of the four an error is."""
    if isinstance(error, StoreUnreachable):
        return "transient"
    if isinstance(error, StoreRefused):
        return "configuration"
    if isinstance(error, DatabaseError | OperationalError) and error.code is not None:
        return _by_code(error.code, str(error))
    match error:
        case OperationalError() | ConnectionError() | TimeoutError():
            return "transient"
        case DataError() | ArrowInvalid():
            return "poison"
        case ProgrammingError():
            return "configuration"
        case DatabaseError():
            return _by_status(str(error))
        case OSError():
            return "transient" if error.errno in PASSES else "unknown"
        case StoreError() if isinstance(error.__cause__, OSError):
            return kind_of(error.__cause__)
    return "unknown"


def _by_code(code: int, text: str) -> Kind:
    if code == 252 and PARTITIONS in text:
        return "unknown"
    if code in TRANSIENT:
        return "transient"
    if code in POISON:
        return "poison"
    return "configuration" if code in CONFIGURATION else "unknown"


def _by_status(text: str) -> Kind:
    """An answer without a code of ClickHouse comes from a proxy before it."""
    found = re.search(r"HTTP status (\d{3})", text)
    status = int(found[1]) if found else 0
    if status >= 500 or status in (408, 429):
        return "transient"
    return "configuration" if status >= 400 else "unknown"


def disk_full(error: BaseException) -> bool:
    """The store's disk, or the one on which inserts are staged, has no room; it is retried, and somebody has to act. An
    error of ours says what the one that it explains says."""
    if isinstance(error, StoreError):
        return error.__cause__ is not None and disk_full(error.__cause__)
    return getattr(error, "code", None) == 243 or (isinstance(error, OSError) and error.errno in FULL)


def reason(error: BaseException) -> str:
    """The error in one line, without what the driver adds; of a request without an answer, what broke it."""
    if (broken := _connection_error(error)) is not None:
        return f"the server gives no answer: {broken.strerror or broken}"[:500]
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    text = re.sub(r"^Received ClickHouse exception, code: \d+, server response: ", "", text)
    return text[:500]


def _connection_error(error: BaseException) -> OSError | None:
    """What the system said of a connection, below the driver's `OperationalError` without a code."""
    if not isinstance(error, OperationalError) or error.code is not None:
        return None
    inner = error.__cause__ or error.__context__
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    return inner


def explained(error: BaseException, where: str, doing: str) -> StoreError:
    """The error as one that says what failed and what to do about it; `where` is the address as it may be shown."""
    if isinstance(error, StoreError):
        return error
    text = f"{doing} at {where} failed: {reason(error)}"
    again = f"; {AGAIN}" if doing.startswith("writing") else ""
    code = getattr(error, "code", None)
    match kind_of(error):
        case "configuration":
            todo = CONFIGURATION.get(code or 0, "check the address and what stands before the server")
            return StoreRefused(f"{text}; {todo}", code)
        case "transient" if disk_full(error):
            return StoreError(f"the disk is full: {text}{again}; free some space")
        case _:
            return StoreError(text + again)
