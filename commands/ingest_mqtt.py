"""MQTT topics as the source of an ingest: their messages go to a spool first, as pushes do (rule 34)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from commands.ingest_inputs import Opened
from commands.inputs import city_folder
from connectors.formats import Format
from connectors.mqtt import MqttSource, Subscriber
from connectors.mqtt_options import mqtt_options
from pipelines.kafka_client import say
from pipelines.spool import Spool
from pipelines.streams import Stream


class Subscribed:
    """A subscription and its spool: below the city's folder in `data`, a folder an ingest."""

    def __init__(
        self, address: str, city: str, stream: Stream, format: Format, ingest: str, data: Path | None, clock: Callable[[], int]
    ) -> None:  # fmt: skip
        options = mqtt_options(address)
        folder = city_folder(data, city) / "ingest" / stream.name / ingest / "mqtt"
        self.spool = Spool(folder, f"mqtt:{ingest}", stream.name)
        if self.spool.recovered is not None:
            say(f"warning: {self.spool.recovered}")
        if options.user and not options.tls and not _here(options.host):
            say(f"warning: the password goes to {options.shown} unencrypted; write mqtts:// where the broker has TLS")
        self._subscriber = Subscriber(
            options, f"citybrain-{city}-{stream.name}-{ingest}", self.spool, format, clock, say
        )
        self._begun = False

    def opened(self, start: int) -> Opened:
        """What the spool has; from now on messages come to it."""
        if not self._begun:
            self._begun = True
            self._subscriber.start()
        return Opened(((MqttSource(self._subscriber), 0),), {"run": "mqtt"})

    def close(self) -> None:
        """The broker keeps what comes from now on."""
        self._subscriber.close()
        self.spool.close()


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
