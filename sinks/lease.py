"""The lease: one process at a time writes to a store, and one that was taken for dead loses when it wakes (rule 38).

What is promised, for one server (or one replica that all processes name), by its clock alone:

- Of processes that acquire at the same moment at most one succeeds. Each reads the claims, writes its own, waits
  `settle_s` and reads again; one that took longer than `settle_s` from the first reading to the written claim withdraws.
  Had two succeeded, neither had seen the other at first; then each had written before the other's last reading, so
  both saw both, and the order of claims (`Claim.beats`) names one of them. Clocks do not enter into it.
- An epoch is used by one owner, and larger than any before. What an owner writes after it was overtaken carries a
  lower `revision` or `step` and so never counts, where a row of the new owner has the same key.
- `check` is no barrier: a process stopped right after it may write once more. That is why epochs are needed.
- A claim names its process (`sinks.owner`). One that is known to have ended on this machine is not waited for; what it
  had sent and the server still writes is of a lower epoch, as above.

A lease that ran out while nobody took it (the server was away) is taken back under the same epoch, by the same steps.
Not promised: anything across replicas that lag behind each other.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.claims import Claim, claims, last_epoch, named_claim, put
from sinks.clickhouse import ClickHouseSink
from sinks.connection import Address, Connection
from sinks.errors import LeaseLost, StoreError, StoreOwned
from sinks.failures import explained
from sinks.lock import holder
from sinks.owner import is_gone
from sinks.retry import Retry

TTL_S: Final = 30.0
SETTLE_S: Final = 0.5
"""All processes that share a store use the same: the promise rests on it."""
TRIES: Final = 5


class Ownership(Protocol):
    """The right to write to a store, the same for a server (`Lease`) and an embedded one (`FolderLease`)."""

    def acquire(self, at_least: int = 0) -> int:
        """The epoch of this owner: larger than any that the store has seen, and not below `at_least`.

        Raises StoreOwned when another owner is alive, within 2 s of an answering server.
        """
        ...

    def check(self) -> None:
        """Returns when this owner may still write; call it before every checkpoint. Raises LeaseLost for good."""
        ...

    def renew(self) -> None:
        """Makes it last; a server's is renewed in the background as well."""
        ...

    def release(self) -> None:
        """Lets the next owner in at once. Harmless when it was never acquired or is lost."""
        ...


def owner_now() -> str:
    """This process, for people: host, process number, start."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} (since {started})"


def lease_of(sink: ClickHouseSink, owner: str | None = None, ttl_s: float = TTL_S) -> Ownership:
    """The lease of a migrated store, of the kind that it needs."""
    if sink.address.path is not None:
        return FolderLease(sink, owner or owner_now())
    return Lease(sink, owner or owner_now(), ttl_s)


def refuse_leased(address: Address) -> None:
    """StoreOwned when a process that lives has the store of that server; for a second start, before anything else is
    done. A server that does not answer, or has no such store yet, refuses nobody here."""
    connection = Connection(address, 2)
    try:
        _refuse_owned(claims(connection), address.shown)
    except StoreOwned:
        raise
    except (ClickHouseError, StoreError, OSError):
        return
    finally:
        connection.close()


def _refuse_owned(known: Iterable[Claim], where: str) -> None:
    for other in known:
        if other.left_s > 0 and not is_gone(other.process):
            raise StoreOwned(where, None, other.owner, other.left_s)


class Lease:
    """The lease of a server's database. Safe to use from several threads.

    `ttl_s` is how long it lasts without renewal: so long a restart on another machine waits after a crash, and so long a
    process may hang unnoticed. It is renewed three times as often. `check` and `renew` wait for a server that is away as
    the sink's writes do. Raises StoreError where the store cannot be asked.
    """

    def __init__(
        self, store: ClickHouseSink | Connection, owner: str, ttl_s: float = TTL_S, *, settle_s: float = SETTLE_S
    ) -> None:
        if ttl_s < 3 * settle_s:
            raise ValueError(f"ttl_s is {ttl_s}; a lease lasts at least {3 * settle_s} s, three times what it settles")
        self.owner, self.ttl_s, self.settle_s = owner, ttl_s, settle_s
        self._connection = Connection(store.address, max(1.0, ttl_s / 3))
        sent = store.retry if isinstance(store, ClickHouseSink) else Retry()
        self._retry = Retry(
            sent.patience_s, first_pause_s=sent.first_pause_s, longest_pause_s=sent.longest_pause_s, stop=sent.stop
        )
        self._mine: Claim | None = None
        self._lost: str | None = None
        self._turn = threading.RLock()
        self._ended = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self, at_least: int = 0) -> int:
        """See `Ownership.acquire`; then renews in the background until `release`."""
        with self._turn, self._explained("acquiring the lease"):
            used = max(last_epoch(self._connection), at_least - 1)
            for _ in range(TRIES):
                if self._claimed(used):
                    break
                time.sleep(secrets.randbelow(1000) / 1000 * self.settle_s)
            else:
                raise StoreError(
                    f"no lease of {self._where} after {TRIES} tries: others try as well, or the server takes longer than "
                    f"{self.settle_s} s for a row; try again"
                )
            assert self._mine is not None
            self._ended.clear()
            self._renewer = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._renewer.start()
            return self._mine.epoch

    def check(self) -> None:
        """See `Ownership.check`. One query; more only when the lease ran out."""
        with self._explained("checking the lease"):
            self._retry.until_done(self._check)

    def renew(self) -> None:
        """Makes it last `ttl_s` from now. Raises LeaseLost when another owner took over."""
        with self._explained("renewing the lease"):
            self._retry.until_done(self._renew)

    def release(self) -> None:
        """See `Ownership.release`. A server that is away is not waited for: there the lease runs out by itself."""
        self._ended.set()
        with self._turn:
            mine, self._mine = self._mine, None
            if mine is not None and self._lost is None:
                with suppress(ClickHouseError, StoreError, OSError):
                    put(self._connection, replace(mine, turn=mine.turn + 1), 0.0)
            self._lost = self._lost or "it was released"
            self._connection.close()
        if self._renewer is not None and self._renewer is not threading.current_thread():
            self._renewer.join()

    @property
    def _where(self) -> str:
        return self._connection.address.shown

    def _explained(self, doing: str) -> _Explained:
        return _Explained(self._where, doing)

    def _claimed(self, used: int) -> bool:
        """One try; False when it was beaten or too slow, and withdrew."""
        started = time.monotonic()
        known = claims(self._connection)
        _refuse_owned(known, self._where)
        epoch = max([used, *(k.epoch for k in known)]) + 1
        mine = Claim(epoch, named_claim(), self.owner, self.ttl_s, 0)
        put(self._connection, mine, self.ttl_s)
        if self._settled(mine, started):
            self._mine, self._lost = mine, None
            return True
        put(self._connection, replace(mine, turn=1), None)
        return False

    def _settled(self, mine: Claim, started: float) -> bool:
        """Whether the claim that was just written holds, after everybody had the time to see it."""
        if time.monotonic() - started > self.settle_s:
            return False
        time.sleep(self.settle_s)
        known = claims(self._connection, mine.epoch)
        here = any(k.claim == mine.claim for k in known)
        return here and not any(k.beats(mine.epoch, mine.claim) for k in known)

    def _known(self) -> tuple[Claim, float]:
        """This owner's claim and the seconds left of it; LeaseLost when another one overtook it."""
        if self._lost is None and self._mine is None:
            self._lost = "it was never acquired"
        if self._lost is None:
            assert self._mine is not None
            known = claims(self._connection, self._mine.epoch)
            higher = [k for k in known if k.epoch > self._mine.epoch]
            same = [k for k in known if k.claim == self._mine.claim]
            if same and not higher:
                return self._mine, same[0].left_s
            by = higher[0].owner if higher else "somebody who removed it"
            self._lost = f"the store was taken over by {by}"
        raise LeaseLost(
            f"this process ({self.owner}) may not write to {self._where} any more: {self._lost}. It ends without another "
            "checkpoint; what it wrote since does not count"
        )

    def _check(self) -> None:
        with self._turn:
            _, left_s = self._known()
            if left_s <= 0:
                self._renew()

    def _renew(self) -> None:
        with self._turn:
            started = time.monotonic()
            mine, left_s = self._known()
            again = replace(mine, turn=mine.turn + 1)
            put(self._connection, again, self.ttl_s)
            self._mine = again
            # In good time nobody can have seen it run out; else it is claimed as it was at first.
            if left_s < self.settle_s or time.monotonic() - started > self.settle_s:
                time.sleep(self.settle_s)
                self._known()

    def _keep(self) -> None:
        while not self._ended.wait(self.ttl_s / 3):
            try:
                self._renew()
            except LeaseLost:
                return
            except (ClickHouseError, StoreError, OSError):
                # The server is away; `check` says so to who has to know. The next try may find it back.
                continue


class FolderLease:
    """The lease of an embedded store: the lock on its folder, which the sink holds from `migrate` to `close` and which
    the system takes from no living process. Epochs stand in the same table as a server's."""

    def __init__(self, sink: ClickHouseSink, owner: str) -> None:
        if sink.address.path is None:
            raise ValueError(f"{sink.address.shown} is no embedded store; use Lease")
        self.owner = owner
        self._connection, self._path = Connection(sink.address), sink.address.path
        self._held = False

    def acquire(self, at_least: int = 0) -> int:
        """See `Ownership.acquire`. Raises StoreOwned as opening the store does."""
        with _Explained(str(self._path), "acquiring the lease"):
            epoch = max(last_epoch(self._connection) + 1, at_least)
            put(self._connection, Claim(epoch, named_claim(), self.owner, 0.0, 0), 0.0)
        self._held = True
        return epoch

    def check(self) -> None:
        """LeaseLost when the lock is not this process's: the folder was removed, or put in another's place."""
        owner = holder(self._path)
        if not self._held or owner != os.getpid():
            who = f"process {owner} holds it" if owner else "nobody holds it"
            raise LeaseLost(f"this process does not hold the store {self._path} any more: {who}. It has to end")

    def renew(self) -> None:
        """Nothing to do: a lock does not run out."""

    def release(self) -> None:
        """Closes its connection; the lock goes with the sink."""
        self._held = False
        self._connection.close()


class _Explained:
    """Turns the driver's errors into the store's, but for those that are worth another try."""

    def __init__(self, where: str, doing: str) -> None:
        self.where, self.doing = where, doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClickHouseError | OSError):
            raise explained(error, self.where, self.doing) from error
