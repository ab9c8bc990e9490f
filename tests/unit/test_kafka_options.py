"""Addresses of Kafka topics and the client configuration they stand for: security, files, secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.address_options import AddressError
from pipelines.engines.flink_kafka import PACKAGE, java_client
from pipelines.engines.flink_main import client_options
from pipelines.kafka_options import SECRET, kafka_options

PASSWORD = "hunter2-secret"
WITH = {SECRET["password"]: PASSWORD}


def test_plain() -> None:
    options = kafka_options("kafka://a:9092,b:9093/events.demo.link", {})
    assert options.client() == {
        "bootstrap.servers": "a:9092,b:9093", "security.protocol": "plaintext", "log_level": 0,
    }  # fmt: skip
    assert (options.topic, options.shown) == ("events.demo.link", "kafka://a:9092,b:9093/events.demo.link")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
def test_sasl(mechanism: str) -> None:
    client = kafka_options(f"kafka://me@a:9092/t?mechanism={mechanism.lower()}", WITH).client()
    assert client == {
        "bootstrap.servers": "a:9092", "security.protocol": "sasl_ssl", "log_level": 0, "sasl.mechanism": mechanism,
        "sasl.username": "me", "sasl.password": PASSWORD,
    }  # fmt: skip
    unencrypted = kafka_options(f"kafka://me@a:9092/t?mechanism={mechanism}&security=sasl_plaintext", WITH)
    assert unencrypted.client()["security.protocol"] == "sasl_plaintext"


def test_a_user_is_encrypted_and_scram_by_default() -> None:
    client = kafka_options("kafka://me@a:9092/t", WITH).client()
    assert (client["security.protocol"], client["sasl.mechanism"]) == ("sasl_ssl", "SCRAM-SHA-512")


def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "certificate", "key")}
    for path in files.values():
        path.write_text("pem")
    query = "&".join(f"{name}={path}" for name, path in files.items())
    client = kafka_options(f"kafka://a:9092/t?{query}", {SECRET["key_password"]: PASSWORD}).client()
    assert client == {
        "bootstrap.servers": "a:9092", "security.protocol": "ssl", "log_level": 0,
        "ssl.ca.location": str(files["ca"]), "ssl.certificate.location": str(files["certificate"]),
        "ssl.key.location": str(files["key"]), "ssl.key.password": PASSWORD,
    }  # fmt: skip


def test_a_file_holds_the_secrets(tmp_path: Path) -> None:
    file = tmp_path / "kafka.toml"
    file.write_text(f'user = "me"\npassword = "{PASSWORD}"\nsecurity = "sasl_plaintext"\n')
    options = kafka_options(f"kafka://a:9092/t?config={file}", {SECRET["password"]: "another"})
    assert options.client()["sasl.password"] == PASSWORD, "the file is nearer than the environment"
    assert options.client()["sasl.username"] == "me"
    with pytest.raises(AddressError, match="another one"):
        kafka_options(f"kafka://you@a:9092/t?config={file}", {})


WRONG = {
    "http://a:9092/t": "no address of a topic",
    "kafka://a/t": "no address of a topic",
    "kafka://a:9092,b/t": "no address of a topic",
    "kafka://a:99999/t": "no address of a topic",
    "kafka://a:9092": "names no topic",
    "kafka://a:9092/t/u": "names no topic",
    "kafka://a:9092/..": "names no topic",
    f"kafka://me:{PASSWORD}@a:9092/t": "CITYBRAIN_KAFKA_PASSWORD",
    f"kafka://me@a:9092/t?password={PASSWORD}": "CITYBRAIN_KAFKA_PASSWORD",
    "kafka://a:9092/t?securty=ssl": "Did you mean 'security'",
    "kafka://a:9092/t?security=tls": "one of plaintext, ssl",
    "kafka://me@a:9092/t?mechanism=GSSAPI": "one of SCRAM-SHA-256",
    "kafka://a:9092/t?security=sasl_ssl": "needs a user",
    "kafka://me@a:9092/t?security=ssl": "need security sasl_ssl",
    "kafka://a:9092/t?mechanism=PLAIN": "need security sasl_ssl",
    "kafka://a:9092/t?ca=/nowhere/ca.pem": "is no file",
    f"kafka://a:9092/t?ca={__file__}&security=plaintext": "needs security ssl",
    f"kafka://a:9092/t?certificate={__file__}&security=ssl": "both certificate=FILE and key=FILE",
    "kafka://a:9092/t?config=/nowhere.toml": "cannot be read",
}


@pytest.mark.parametrize("address", WRONG)
def test_what_is_wrong_is_said_without_secrets(address: str) -> None:
    with pytest.raises(AddressError, match=WRONG[address]) as error:
        kafka_options(address, WITH)
    assert PASSWORD not in str(error.value)


def test_a_user_without_password() -> None:
    with pytest.raises(AddressError, match="has no password"):
        kafka_options("kafka://me@a:9092/t", {})


@pytest.mark.parametrize("text", ['password = "x', "password = 5", 'passwort = "x"'])
def test_a_wrong_file_is_told_without_its_content(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kafka.toml"
    file.write_text(f"{text}\n# {PASSWORD}")
    with pytest.raises(AddressError) as error:
        kafka_options(f"kafka://a:9092/t?config={file}", {})
    assert PASSWORD not in str(error.value) and str(file) in str(error.value)


def test_secrets_are_not_shown() -> None:
    options = kafka_options("kafka://me@a:9092/t", WITH)
    assert PASSWORD not in repr(options) and PASSWORD not in options.shown


def test_flinks_client_takes_the_same(tmp_path: Path) -> None:
    """Under the names of the Java client, from the same file."""
    assert java_client(kafka_options("kafka://a:9092/t", {})) == {
        "bootstrap.servers": "a:9092", "security.protocol": "PLAINTEXT",
    }  # fmt: skip
    ca, file = tmp_path / "ca.pem", tmp_path / "kafka.toml"
    ca.write_text("the authority")
    file.write_text(f"user = 'm\"e'\npassword = 'x\\{PASSWORD}'\nca = '{ca}'\n")
    wanted = {
        "bootstrap.servers": "a:9092,b:9093", "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": f'{PACKAGE}.scram.ScramLoginModule required username="m\\"e" password="x\\\\{PASSWORD}";',
        "ssl.truststore.type": "PEM", "ssl.truststore.certificates": "the authority",
    }  # fmt: skip
    assert java_client(kafka_options(f"kafka://a:9092,b:9093/t?config={file}", {})) == wanted
    assert client_options("a:9092,b:9093", file) == wanted, "as `submit` reads it"
    plain = java_client(kafka_options("kafka://me@a:9092/t?mechanism=PLAIN&security=sasl_plaintext", WITH))
    assert plain["sasl.jaas.config"].startswith(f"{PACKAGE}.plain.PlainLoginModule required")


def test_flinks_client_with_a_client_certificate(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "certificate", "key")}
    for name, path in files.items():
        path.write_text(f"text of {name}\n")
    query = "&".join(f"{name}={path}" for name, path in files.items())
    options = kafka_options(f"kafka://a:9092/t?{query}", {SECRET["key_password"]: PASSWORD})
    client = java_client(options)
    assert client == {
        "bootstrap.servers": "a:9092", "security.protocol": "SSL", "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": "text of ca\n", "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": "text of certificate\n", "ssl.keystore.key": "text of key\n",
        "ssl.key.password": PASSWORD,
    }  # fmt: skip
    said = options.hidden(f"cannot use {client}")
    assert PASSWORD not in said and "text of key" not in said and "text of ca" in said
