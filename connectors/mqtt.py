"""MQTT topics as a source: messages go to a spool first, and are acknowledged when they are durable there (rule 34).

A message is one record, in canonical NDJSON or in what a mapping reads; an empty one is a blank line. The broker keeps a
session for the client while it is away (MQTT 5, QoS 1): what was not acknowledged it sends again, so that a record may come
twice and none is lost. Those that come twice are duplicates of rule 5.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5, error_string
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from connectors.formats import Block, Format
from connectors.formats.lines import as_line
from connectors.mqtt_options import SECRET, MqttFailed, MqttOptions
from pipelines.model import Decoded
from pipelines.spool import Spool, SpoolFull
from pipelines.spool_source import SpoolSource

RECEIVE_MAXIMUM: Final = 256
"""Messages that the broker sends before one of them is acknowledged; with their size it bounds what is held in memory."""
STORE_BYTES: Final = 4 << 20
STORE_S: Final = 0.05
"""What came is stored when nothing more follows at once, when it is so much, or so long after the first."""
FOLLOWS_S: Final = 0.002
IDLE_S: Final = 0.25
KEEPALIVE_S: Final = 20
PATIENCE_S: Final = 1.0
"""A loss that is over so soon is not worth a word."""
LONGEST_PAUSE_S: Final = 5.0
STEADY_S: Final = 5.0
"""A connection that ends sooner is a short one; so many in a row are worth a word."""
SHORT: Final = 4
RETRY_S: Final = 1.0
TAKEN_OVER: Final = 0x8E
REFUSED: Final = {
    0x84: "it does not speak MQTT 5",
    0x85: "it does not allow that client id; give another one, ?client=ID",
    0x86: f"look at user and password ({SECRET['password']})",
    0x87: f"look at user, password ({SECRET['password']}), certificate and that user's rights",
    0x8A: "the client is banned there",
    0x8C: "it wants another way to prove who one is",
    0x9B: "it grants QoS 0 only, with which messages would be lost",
    0x9D: "it has moved to another address",
    0x9E: "it has no shared subscriptions",
    0xA2: "it takes no wildcards; name the topics, &filter=TOPIC each",
    0x8F: "it does not allow that topic filter",
}
"""Answers of a broker that no waiting mends, by their code, and what may help."""


class Subscriber:
    """One subscription: takes its messages from the broker into a spool, on a thread of its own from `start` to `close`.

    What is not durable is not acknowledged: while the spool is full or the disk is, the broker stops after
    `RECEIVE_MAXIMUM` messages and keeps the others. A broker that is away is waited for, and a broker that has lost the
    session is told of; both once.
    """

    def __init__(
        self,
        options: MqttOptions,
        client_id: str,
        spool: Spool,
        format: Format,
        clock: Callable[[], int],
        said: Callable[[str], None],
    ) -> None:
        """`clock` gives the run's now (UTC ms), which becomes the arrival; `said` takes a line for the operator."""
        self.options, self.spool, self.client_id = options, spool, options.client or client_id
        self.stored = self.redelivered = self.dropped = 0
        """Messages that became durable here, those that the broker sent again, and those of QoS 0 for which there was no room."""
        self._format, self._clock, self._say = format, clock, said
        self._session = _SessionNote(spool.folder.with_suffix(".session"), options, self.client_id)
        self._client = self._made()
        self._held: list[tuple[bytes, int]] = []
        """Messages that are not durable yet: as a line, and the id to acknowledge, 0 for none."""
        self._first = self._retry = 0.0
        self._subscribed = self._ever = self._told = False
        self._lost: tuple[float, str] | None = None
        self._blocked: str | None = None
        self._pause, self._since, self._short = 0.1, 0.0, 0
        self._ended = ""
        self._failure: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Acknowledges nothing more; the broker keeps the session."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raises MqttFailed where the broker does not let this client in, and whatever else ended the thread."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    @property
    def lost(self) -> bool:
        """Whether nothing comes, for a reason that is none of the devices'."""
        return not self._subscribed or (self._blocked is not None and bool(self._held))

    # On its thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                if self._client.socket() is None:
                    self._connect()
                else:
                    self._turn()
        except BaseException as error:
            self._subscribed, self._failure = False, error
        finally:
            self._client.disconnect()

    def _made(self) -> Client:
        options = self.options
        client = Client(CallbackAPIVersion.VERSION2, self.client_id, protocol=MQTTv5, manual_ack=True)
        if options.user:
            client.username_pw_set(options.user, options.password or None)
        if options.tls:
            client.tls_set_context(options.context())
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_subscribe, client.on_message = self._granted, self._came
        return client

    def _connect(self) -> None:
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = self.options.expiry_s
        wanted.ReceiveMaximum = RECEIVE_MAXIMUM
        try:
            self._client.connect(
                self.options.host, self.options.port, KEEPALIVE_S, clean_start=False, properties=wanted
            )
        except ssl.SSLError as error:
            if not self._ever:
                why = getattr(error, "verify_message", "") or error.reason or "no TLS there"
                raise MqttFailed(
                    f"{self.options.shown} refuses the connection: TLS fails ({why}); look at ca, certificate, key and the port"
                ) from None
            self._gone(f"TLS fails: {error.reason}")
        except OSError as error:
            self._gone(error.strerror or str(error))

    def _turn(self) -> None:
        """Takes in what is there, and stores it when it is due."""
        before = len(self._held)
        waits = bool(self._held) and self._blocked is None
        error = self._client.loop(FOLLOWS_S if waits else IDLE_S)
        if error or self._client.socket() is None:
            self._gone(self._ended or error_string(error))
        elif self._held and self._due(before):
            self._store()

    def _due(self, before: int) -> bool:
        now = time.monotonic()
        if self._blocked is not None:
            return now >= self._retry
        return (
            len(self._held) == before
            or len(self._held) >= RECEIVE_MAXIMUM
            or now - self._first >= STORE_S
            or sum(len(line) for line, _ in self._held) >= STORE_BYTES
        )

    def _store(self) -> None:
        """Makes what is held durable, then acknowledges it; where it cannot, it is tried again later."""
        # Behind a blank line: a byte order mark is cut off the first record of a file, and a message is none.
        payload = b"\n" + b"".join(line + b"\n" for line, _ in self._held)
        decoded = self._format.decode(Block(1, payload), self.spool.input)
        try:
            if decoded.records:
                self.spool.append(decoded, self._clock())
        except (SpoolFull, OSError) as error:
            self._retry = time.monotonic() + RETRY_S
            if self._blocked is None:
                self._blocked = str(error)
                self._say(
                    f"{self.options.shown}: nothing is acknowledged for the moment ({error}); the broker keeps it"
                )
            return
        if self._blocked is not None:
            self._blocked = None
            dropped = f"; {self.dropped:,} of QoS 0 were dropped so far" if self.dropped else ""
            self._say(f"{self.options.shown}: messages are stored and acknowledged again{dropped}")
        held, self._held = self._held, []
        self.stored += len(held)
        for _, number in held:
            if number:
                self._client.ack(number, 1)

    # Called by the client, on the same thread ------------------------------------------------------------------------

    def _connected(
        self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, told: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refused(reason, "")
            self._gone(str(reason))
            return
        if getattr(told, "MaximumQoS", 2) == 0:
            raise self._failed(0x9B, "", REFUSED[0x9B])
        if flags.session_present:
            # All of it comes again.
            self._held = []
        else:
            # None of it comes again, and nobody waits for its acknowledgement.
            self._held = [(line, 0) for line, _ in self._held]
            if self._session.there:
                self._say(
                    f"{self.options.shown} has no session of client {self.client_id!r} any more: what it had not delivered of it "
                    "is lost, and what was published meanwhile; a new one begins"
                )
        expiry = getattr(told, "SessionExpiryInterval", self.options.expiry_s)
        if expiry < self.options.expiry_s and not self._ever:
            self._say(
                f"{self.options.shown} keeps the session for {expiry} s only, {self.options.expiry_s} s were asked for"
            )
        if dropped := self._session.others():
            client.unsubscribe(dropped)
        # What is retained is sent with a new subscription only, not with each connection.
        how = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        client.subscribe([(each, how) for each in self.options.filters])

    def _granted(
        self, client: Client, _: Any, mid: int, reasons: Sequence[ReasonCode], told: Properties | None
    ) -> None:
        for each, reason in zip(self.options.filters, reasons, strict=True):
            if reason.is_failure:
                raise self._failed(reason.value, f" to read {each!r}", REFUSED.get(reason.value, str(reason)))
            if reason.value == 0:
                raise self._failed(0x9B, f" to read {each!r}", REFUSED[0x9B])
        self._session.keep()
        self._subscribed = self._ever = True
        self._lost, self._ended, self._since = None, "", time.monotonic()
        if self._told:
            self._told = False
            self._say(f"{self.options.shown} answers again")

    def _came(self, client: Client, _: Any, message: MQTTMessage) -> None:
        if self._blocked is not None and not message.qos:
            self.dropped += 1  # nothing stops those from coming
            return
        if not self._held:
            self._first = time.monotonic()
        self.redelivered += message.dup
        self._held.append((as_line(message.payload), message.mid if message.qos else 0))

    def _disconnected(
        self, client: Client, _: Any, flags: DisconnectFlags, reason: ReasonCode, told: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            if reason.value == TAKEN_OVER:
                raise MqttFailed(
                    f"another client connected to {self.options.shown} as {self.client_id!r}; this one ends. Give each ingest an "
                    "--id of its own, or ?client=ID"
                )
            self._refused(reason, "")
            self._ended = f"it ended the connection: {reason}"

    def _refused(self, reason: ReasonCode, what: str) -> None:
        if reason.value in REFUSED:
            raise self._failed(reason.value, what, f"{reason}; {REFUSED[reason.value]}")

    def _failed(self, code: int, what: str, why: str) -> MqttFailed:
        who = f" as user {self.options.user!r}" if self.options.user else ""
        return MqttFailed(f"{self.options.shown} refuses the connection{who}{what}: {why}")

    def _gone(self, why: str) -> None:
        """The broker is away: says so when that lasts, and waits a little longer each time."""
        now = time.monotonic()
        if self._subscribed:
            self._subscribed = False
            steady = now - self._since > STEADY_S
            self._short, self._pause = (0, 0.1) if steady else (self._short + 1, self._pause)
            if self._short == SHORT:
                self._say(
                    f"{self.options.shown} ends the connection again and again ({why}); does another client connect there as "
                    f"{self.client_id!r}? Give each ingest an --id of its own, or ?client=ID"
                )
        self._lost = self._lost or (now, why)
        if not self._told and now - self._lost[0] > PATIENCE_S:
            self._told = True
            self._say(f"{self.options.shown} does not answer ({self._lost[1]}); waiting")
        self._ending.wait(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)


class MqttSource(SpoolSource):
    """The spool of a subscription as a source; see `pipelines.model.Source`. Raises MqttFailed where nothing more will come."""

    def __init__(self, subscriber: Subscriber) -> None:
        super().__init__(subscriber.spool)
        self.connection = subscriber

    def read(self) -> Decoded | None:
        self.connection.check()
        return super().read()

    def seek(self, position: int) -> None:
        spool = self.connection.spool
        if position > spool.end:
            raise MqttFailed(
                f"{spool.folder} ends before record {spool.end}, and was read up to {position} before: it is another spool. Put "
                "back the one that was there (--data), or give another --id"
            )
        super().seek(position)


class _SessionNote:
    """A file that says which session the broker keeps, and of which filters: it outlives the process, as the session does."""

    def __init__(self, path: Path, options: MqttOptions, client_id: str) -> None:
        self._path = path
        self._now = {"broker": options.server, "client": client_id, "filters": list(options.filters)}
        try:
            kept = orjson.loads(path.read_bytes())
        except (OSError, ValueError):
            kept = {}
        same = isinstance(kept, dict) and all(kept.get(name) == self._now[name] for name in ("broker", "client"))
        self._kept: dict[str, Any] = kept if same else {}

    @property
    def there(self) -> bool:
        return bool(self._kept)

    def others(self) -> list[str]:
        """Filters of the session that are not wanted any more."""
        return [each for each in self._kept.get("filters", ()) if each not in self._now["filters"]]

    def keep(self) -> None:
        if self._kept != self._now:
            made = self._path.with_suffix(".new")
            made.write_bytes(orjson.dumps(self._now))
            made.replace(self._path)
            self._kept = self._now
