"""The address of MQTT topics as users write it, and what it stands for.

`mqtt[s]://[USER@]HOST[:PORT]/FILTER[?filter=FILTER&client=..&expiry=..&ca=..&certificate=..&key=..&config=FILE]`. FILE is
TOML with the same keys, and with `user`, `password` and `key_password`; secrets come from it or from the environment, never
from an address: those are seen in process lists.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from pipelines.address_options import FILES, AddressError, check_files, gathered, is_server, without_secrets
from pipelines.pack_checks import PackError, duration_ms

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
OPEN: Final = ("client", "expiry", *FILES)
"""What an address may say once; `filter`, several times, and `config` besides."""
SECRET: Final = {"password": "CITYBRAIN_MQTT_PASSWORD", "key_password": "CITYBRAIN_MQTT_KEY_PASSWORD"}
"""The secrets, and the environment variables that hold them where no file does."""
CLIENT: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
EXPIRY: Final = "7d"
EXAMPLE: Final = "mqtt://host:1883/city/+/link"
LONGEST: Final = 65_535
"""Bytes of a topic."""


class MqttFailed(RuntimeError):
    """The broker refused something that waiting does not mend; the text says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """How to reach topics. `server` is HOST:PORT, `shown` is for messages."""

    server: str
    filters: tuple[str, ...]
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    client: str = ""
    """The client id; empty: that of the ingest."""
    expiry_s: int = 7 * 86_400
    """How long the broker keeps the session of a client that is away."""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    key_password: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.server}"

    @property
    def host(self) -> str:
        return self.server.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.server.rpartition(":")[2])

    def context(self) -> ssl.SSLContext:
        """What TLS is made with; AddressError where a file cannot be used."""
        try:
            made = ssl.create_default_context(cafile=self.ca or None)
        except ssl.SSLError:
            raise AddressError(f"ca {self.ca!r} has no certificate; name a PEM file") from None
        if self.certificate:
            try:
                # Without a function it would ask at the terminal.
                made.load_cert_chain(self.certificate, self.key, password=lambda: self.key_password)
            except (ssl.SSLError, ValueError):
                raise AddressError(
                    f"certificate {self.certificate!r} and key {self.key!r} are no pair of PEM files, or the key needs another "
                    f"password ({SECRET['key_password']})"
                ) from None
        return made


def mqtt_options(address: str, environment: Mapping[str, str] = os.environ) -> MqttOptions:
    """Reads an address, and the file that it names. Raises AddressError."""
    # No URL library: '#' is a wildcard of topics and begins no fragment here.
    scheme, _, rest = address.partition("://")
    place, _, query = rest.partition("?")
    netloc, slash, path = place.partition("/")
    who, _, server = netloc.rpartition("@")
    if scheme not in PORTS:
        raise AddressError(f"{without_secrets(address)!r} is no address of MQTT topics; write {EXAMPLE}")
    if not server.rpartition("]")[2].count(":"):
        server += f":{PORTS[scheme]}"
    given = parse_qsl(query, keep_blank_values=True)
    more = [value for name, value in given if name == "filter"]
    values = gathered(dict(x for x in given if x[0] != "filter"), who, server, OPEN, SECRET, environment)
    if not is_server(server):
        raise AddressError(f"{without_secrets(address)!r} is no address of MQTT topics; write {EXAMPLE}")
    filters = tuple(dict.fromkeys([*([unquote(path)] if slash and path else ()), *more]))
    if not filters:
        raise AddressError(f"{without_secrets(address)!r} names no topic; write {EXAMPLE}")
    for each in filters:
        refuse_filter(each)
    return _checked(server, filters, scheme == "mqtts", values)


def refuse_filter(text: str) -> None:
    """AddressError for what is no topic filter: wildcards stand for whole levels, '#' for all that follow."""
    what = f"topic filter {text[:200]!r} cannot be used:"
    if not text or "\0" in text or len(text.encode()) > LONGEST:
        raise AddressError(f"{what} it is empty, longer than {LONGEST} bytes, or has a NUL in it")
    *before, last = text.split("/")
    if any("+" in level and level != "+" for level in (*before, last)):
        raise AddressError(
            f"{what} '+' stands for a whole level, as in 'city/+/link', and is no part of a topic's name"
        )
    if any("#" in level for level in before) or ("#" in last and last != "#"):
        raise AddressError(
            f"{what} '#' stands for all levels that follow, as in 'city/#', only at the end, and is no part of a topic's name"
        )
    if text.startswith("$share/") and (
        len(before) < 2 or not before[1] or before[1] in "+#" or not text.split("/", 2)[2]
    ):
        raise AddressError(f"{what} a shared subscription is written $share/GROUP/FILTER")


def _checked(server: str, filters: tuple[str, ...], tls: bool, values: dict[str, str]) -> MqttOptions:
    check_files(values, tls, "an address that begins with mqtts://")
    user, password = values.get("user", ""), values.get("password", "")
    if user and not password and "certificate" not in values:
        raise AddressError(
            f"user {user!r} of {server} has no password; put it into {SECRET['password']} or into a file, ?config=FILE"
        )
    client = values.get("client", "")
    if "client" in values and not CLIENT.fullmatch(client):
        raise AddressError(f"client {client[:80]!r} is no id; write 1 to 128 letters, digits, '.', '_' or '-'")
    try:
        expiry_s = duration_ms(values.get("expiry", EXPIRY), "expiry") // 1000
    except PackError as error:
        raise AddressError(str(error)) from None
    if not 0 < expiry_s < 2**32 - 1:
        raise AddressError(
            f"expiry {values['expiry']!r} is no time that a session is kept; write for example {EXPIRY!r}"
        )
    files = {name: values.get(name, "") for name in FILES}
    return MqttOptions(
        server, filters, tls, user, password if user else "", client, expiry_s,
        key_password=values.get("key_password", ""), **files,
    )  # fmt: skip
