"""How to reach a cluster, as the Java client inside Flink's Kafka connector takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipelines.kafka_options import KafkaOptions

PACKAGE: Final = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security"
"""Where the connector's jar has Kafka's own classes."""


def java_client(options: KafkaOptions) -> dict[str, str]:
    """Certificates go by their text, as PEM; the key is PKCS #8, all that Java reads. OSError for a file that is gone."""
    out = {"bootstrap.servers": options.servers, "security.protocol": options.security.upper()}
    if options.security.startswith("sasl"):
        module = "plain.PlainLoginModule" if options.mechanism == "PLAIN" else "scram.ScramLoginModule"
        login = f"username={_quoted(options.user)} password={_quoted(options.password)}"
        out |= {"sasl.mechanism": options.mechanism, "sasl.jaas.config": f"{PACKAGE}.{module} required {login};"}
    if options.ca:
        out |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": Path(options.ca).read_text()}
    if options.key:
        chain, key = Path(options.certificate).read_text(), Path(options.key).read_text()
        out |= {"ssl.keystore.type": "PEM", "ssl.keystore.certificate.chain": chain, "ssl.keystore.key": key}
    if options.key_password:
        out["ssl.key.password"] = options.key_password
    return out


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
