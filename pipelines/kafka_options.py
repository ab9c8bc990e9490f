"""The address of a Kafka topic as users write it, and the client configuration that it stands for.

`kafka://[USER@]HOST:PORT[,HOST:PORT]/TOPIC[?security=..&mechanism=..&ca=..&certificate=..&key=..&config=FILE]`. FILE is TOML
with the same keys, and with `user`, `password` and `key_password`; secrets come from it or from the environment, never
from an address: those are seen in process lists.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pipelines.address_options import FILES, AddressError, check_files, gathered, is_server, without_secrets

SECURITY: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")
OPEN: Final = ("security", "mechanism", *FILES)
"""What an address may say; `config` besides."""
SECRET: Final = {"password": "CITYBRAIN_KAFKA_PASSWORD", "key_password": "CITYBRAIN_KAFKA_KEY_PASSWORD"}
"""The secrets, and the environment variables that hold them where no file does."""
TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
EXAMPLE: Final = "kafka://host:9092/topic"

Settings = dict[str, str | int | bool]


class KafkaFailed(RuntimeError):
    """The cluster refused something that waiting does not mend; the text says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How to reach a topic. `shown` is for messages."""

    servers: str
    topic: str
    security: str = "plaintext"
    mechanism: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    key_password: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        return f"kafka://{self.servers}/{self.topic}"

    def client(self) -> Settings:
        """What every client of librdkafka is made with."""
        out: Settings = {"bootstrap.servers": self.servers, "security.protocol": self.security, "log_level": 0}
        if self.security.startswith("sasl"):
            out |= {"sasl.mechanism": self.mechanism, "sasl.username": self.user, "sasl.password": self.password}
        tls = {
            "ssl.ca.location": self.ca, "ssl.certificate.location": self.certificate, "ssl.key.location": self.key,
            "ssl.key.password": self.key_password,
        }  # fmt: skip
        return out | {name: value for name, value in tls.items() if value}

    def hidden(self, text: str) -> str:
        """What others say, which may repeat what they were given, without the secrets."""
        key = list[str]()
        if self.key:
            with contextlib.suppress(OSError):
                key = Path(self.key).read_text(encoding="utf-8").splitlines()
        for secret in filter(None, (self.password, self.key_password, *key)):
            text = text.replace(secret, "***")
        return text


def kafka_options(address: str, environment: Mapping[str, str] = os.environ) -> KafkaOptions:
    """Reads an address, and the file that it names. Raises AddressError."""
    url = urlsplit(address)
    who, _, servers = url.netloc.rpartition("@")
    topic = unquote(url.path.strip("/"))
    if url.scheme != "kafka" or url.fragment or not all(is_server(x) for x in servers.split(",")):
        raise AddressError(f"{without_secrets(address)!r} is no address of a topic; write {EXAMPLE}")
    if not TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise AddressError(
            f"{without_secrets(address)!r} names no topic; write {EXAMPLE}, of letters, digits, '.', '_' and '-'"
        )
    values = gathered(dict(parse_qsl(url.query, keep_blank_values=True)), who, servers, OPEN, SECRET, environment)
    return _checked(servers, topic, values)


def cluster_options(address: str, topic: str, environment: Mapping[str, str] = os.environ) -> KafkaOptions:
    """Reads the address of a cluster, HOST:PORT or kafka://[USER@]HOST:PORT[?OPTIONS], as that of one of its topics."""
    url = urlsplit(address if "://" in address else f"kafka://{address}")
    if url.path.strip("/"):
        raise AddressError(
            f"{without_secrets(address)!r} names a topic; leave {url.path!r} out, topics are known by the city"
        )
    return kafka_options(url._replace(path=f"/{topic}").geturl(), environment)


def _checked(servers: str, topic: str, values: dict[str, str]) -> KafkaOptions:
    user = values.get("user", "")
    security = values.setdefault("security", "sasl_ssl" if user else "ssl" if "ca" in values else "plaintext").lower()
    if security not in SECURITY:
        raise AddressError(f"security {security!r} is unknown; write one of {', '.join(SECURITY)}")
    sasl, tls = security.startswith("sasl"), security.endswith("ssl")
    mechanism = values.get("mechanism", "SCRAM-SHA-512" if sasl else "").upper()
    if sasl and mechanism not in MECHANISMS:
        raise AddressError(f"mechanism {mechanism!r} is unknown; write one of {', '.join(MECHANISMS)}")
    if sasl and not user:
        raise AddressError(f"security {security!r} needs a user; write kafka://USER@{servers}/{topic}")
    if sasl and not values.get("password"):
        raise AddressError(
            f"user {user!r} of {servers} has no password; put it into {SECRET['password']} or into a file, ?config=FILE"
        )
    if not sasl and (user or mechanism):
        raise AddressError(f"user and mechanism need security sasl_ssl or sasl_plaintext, not {security!r}")
    check_files(values, tls, f"security ssl or sasl_ssl, not {security!r}")
    secret = values.get("password", "") if sasl else ""
    of_key = values.get("key_password", "") if "key" in values else ""
    files = {name: values.get(name, "") for name in FILES}
    return KafkaOptions(servers, topic, security, mechanism, user, secret, key_password=of_key, **files)
