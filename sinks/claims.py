"""The table `lease`: who may write to a store, one row for every claim (rule 38). Its clock is the server's, always.

ClickHouse has no compare-and-swap, and of two rows of one key a merge keeps one before the other's writer has looked.
So every claim is a row of its own, known by (epoch, claim), and who holds the store is read from all of them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from sinks.connection import Connection
from sinks.owner import this_process

NEVER_HELD: Final = "toDateTime64(0, 3, 'UTC')"
VERSIONS: Final = ("revision", "step")
"""Columns whose upper 32 bits are the epoch that wrote the row (rule 33)."""


def lease_table(*, fsync: bool = True) -> str:
    """The CREATE statement. `until` is when the claim ends (1970: it was withdrawn before it held), `turn` counts its
    renewals."""
    durable = f"fsync_after_insert = {int(fsync)}, fsync_part_directory = {int(fsync)}"
    return (
        "CREATE TABLE IF NOT EXISTS lease (epoch UInt64, claim String, owner String, until DateTime64(3, 'UTC'), "
        f"turn UInt64)\nENGINE = ReplacingMergeTree(turn) ORDER BY (epoch, claim)\nSETTINGS {durable}"
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim as the server sees it now: `left_s` seconds are left of it (negative: it ran out). `claim` is its name
    (`named_claim`)."""

    epoch: int
    claim: str
    owner: str
    left_s: float
    turn: int

    @property
    def process(self) -> str:
        """The process that made it, as `sinks.owner` names it; empty when it did not say."""
        return self.claim.partition(" ")[2]

    def beats(self, epoch: int, claim: str) -> bool:
        """Of claims made at the same moment the higher epoch holds, within it the smaller name."""
        return self.epoch > epoch or (self.epoch == epoch and self.claim < claim)


def named_claim() -> str:
    """A name that no other claim has: chance first, so that it decides between equals, then this process."""
    return f"{secrets.token_hex(8)} {this_process()}"


def claims(connection: Connection, since: int = 0) -> list[Claim]:
    """The claims from that epoch on that were not withdrawn, the highest epoch first."""
    sql = (
        "SELECT epoch, claim, owner, (toUnixTimestamp64Milli(until) - toUnixTimestamp64Milli(now64(3, 'UTC'))) / 1000"
        " AS left_s, turn FROM lease FINAL WHERE epoch >= {since:UInt64}"
        f" AND until > {NEVER_HELD} ORDER BY epoch DESC, claim LIMIT 100"
    )
    rows = connection.query(sql, {"since": since}, seconds=5)
    return [Claim(*row) for row in rows.iter_rows()]


def put(connection: Connection, claim: Claim, ttl_s: float | None) -> None:
    """Writes the claim, to end `ttl_s` from now by the server's clock; None withdraws it."""
    until = NEVER_HELD if ttl_s is None else f"now64(3, 'UTC') + toIntervalMillisecond({int(ttl_s * 1000)})"
    sql = "INSERT INTO lease SELECT {epoch:UInt64}, {claim:String}, {owner:String}, " + until + ", {turn:UInt64}"
    bound = {"epoch": claim.epoch, "claim": claim.claim, "owner": claim.owner, "turn": claim.turn}
    connection.command(sql, bound)


def last_epoch(connection: Connection) -> int:
    """The largest epoch that ever claimed the store or wrote a row of it, set-aside tables included; 0 in a new one."""
    known = connection.query(
        "SELECT table, name FROM system.columns WHERE database = {database:String} AND type = 'UInt64'"
        " AND name IN {names:Array(String)}",
        {"database": connection.address.database, "names": list(VERSIONS)},
    )
    each = [f"SELECT bitShiftRight(max(`{name}`), 32) AS e FROM `{table}`" for table, name in known.iter_rows()]
    each.append("SELECT max(epoch) AS e FROM lease")
    return int(connection.query(f"SELECT max(e) AS e FROM ({' UNION ALL '.join(each)})").item())
