"""Addresses of MQTT topics: filters, security, files, secrets."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from connectors.mqtt_options import SECRET, MqttOptions, mqtt_options
from pipelines.address_options import AddressError

PASSWORD = "hunter2-secret"
WITH = {SECRET["password"]: PASSWORD}


def test_plain() -> None:
    options = mqtt_options("mqtt://broker/city/+/link", {})
    assert options == MqttOptions("broker:1883", ("city/+/link",))
    assert (options.host, options.port, options.shown, options.expiry_s) == (
        "broker", 1883, "mqtt://broker:1883", 604_800,
    )  # fmt: skip
    v6 = mqtt_options("mqtt://[::1]:99/a", {})
    assert (v6.host, v6.port) == ("::1", 99) and mqtt_options("mqtts://[::1]/a", {}).port == 8883


@pytest.mark.parametrize(
    ("written", "filters"),
    [
        ("a/b", ("a/b",)),
        ("#", ("#",)),
        ("city/#", ("city/#",)),
        ("city/%23", ("city/#",)),
        ("+/+/link", ("+/+/link",)),
        ("%2B/x", ("+/x",)),
        ("/a//b", ("/a//b",)),
        ("$share/group/a/#", ("$share/group/a/#",)),
        ("%E9%81%93%E8%B7%AF/+", ("道路/+",)),
        ("a/%3Fb", ("a/?b",)),
        ("a?filter=b/%23&filter=c/%2B", ("a", "b/#", "c/+")),
        ("?filter=b/%23&filter=b/%23", ("b/#",)),
        ("city/#?client=me", ("city/#",)),
    ],
)
def test_filters(written: str, filters: tuple[str, ...]) -> None:
    assert mqtt_options(f"mqtt://h/{written}", {}).filters == filters


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("a+b", "'+' stands for a whole level"),
        ("a/b+/c", "'+' stands for a whole level"),
        ("a/#/b", "'#' stands for all levels that follow"),
        ("a/b#", "'#' stands for all levels that follow"),
        ("##", "'#' stands for all levels that follow"),
        ("a%00b", "has a NUL in it"),
        ("x" * 65_536, "longer than 65535 bytes"),
        ("$share/a", "a shared subscription is written"),
        ("$share//a", "a shared subscription is written"),
        ("$share/+/a", "a shared subscription is written"),
        ("a?filter=b%23", "'#' stands for all levels that follow"),
        ("", "names no topic"),
    ],
)
def test_filters_that_are_none(written: str, why: str) -> None:
    with pytest.raises(AddressError) as error:
        mqtt_options(f"mqtt://h/{written}", {})
    assert why in str(error.value) and len(str(error.value)) < 500


def test_user_and_password(tmp_path: Path) -> None:
    of_environment = mqtt_options("mqtts://me@h/a", WITH)
    assert (of_environment.user, of_environment.password, of_environment.tls) == ("me", PASSWORD, True)
    file = tmp_path / "mqtt.toml"
    file.write_text('user = "me"\npassword = "other"\nclient = "c1"\nexpiry = "1h"\n')
    of_file = mqtt_options(f"mqtt://h/a?config={file}", WITH)
    assert (of_file.user, of_file.password, of_file.client, of_file.expiry_s) == ("me", "other", "c1", 3600)
    assert mqtt_options("mqtt://h/a", WITH).password == "", "a password without a user is sent to nobody"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (f"mqtt://me:{PASSWORD}@h/a", "is seen by everybody who lists processes; put it into CITYBRAIN_MQTT_PASSWORD"),
        (f"mqtt://h/a?password={PASSWORD}", "is seen by everybody who lists processes"),
        ("mqtt://me@h/a", "user 'me' of h:1883 has no password"),
        ("mqtt://h/a?clinet=x", "Did you mean 'client'"),
        ("mqtt://h/a?client=a b", "client 'a b' is no id"),
        ("mqtt://h/a?expiry=7", "expiry: '7' is no duration"),
        ("mqtt://h/a?expiry=0s", "no time that a session is kept"),
        ("mqtt://h/a?ca=/nowhere", "ca needs an address that begins with mqtts://"),
        ("mqtts://h/a?ca=/nowhere", "ca '/nowhere' is no file"),
        ("mqtt://h:port/a", "is no address of MQTT topics"),
        ("mqtt:///a", "is no address of MQTT topics"),
        ("http://h/a", "is no address of MQTT topics"),
        ("mqtt://h", "names no topic"),
        ("mqtt://h/a?config=/nowhere", "config '/nowhere' cannot be read"),
    ],
)
def test_what_cannot_be_used(address: str, why: str) -> None:
    with pytest.raises(AddressError) as error:
        mqtt_options(address, {})
    assert why in str(error.value) and PASSWORD not in str(error.value)


def test_no_secret_is_shown() -> None:
    options = mqtt_options("mqtts://me@h/a", {**WITH, SECRET["key_password"]: PASSWORD})
    assert PASSWORD not in repr(options) + options.shown and "me" not in options.shown


def test_files_of_tls(tmp_path: Path) -> None:
    assert mqtt_options("mqtts://h/a", {}).context().verify_mode == ssl.CERT_REQUIRED
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    with pytest.raises(AddressError, match="has no certificate"):
        mqtt_options(f"mqtts://h/a?ca={nothing}", {}).context()
    with pytest.raises(AddressError, match="are no pair of PEM files"):
        mqtt_options(f"mqtts://h/a?certificate={nothing}&key={nothing}", {}).context()
