"""TLS to a server: the authority of the address is believed, another one is not."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from sinks.clickhouse import ClickHouseSink
from sinks.errors import StoreUnreachable
from tests.contract.test_lease import readings
from tests.fakes.clickhouse_http import serving

OPENSSL = shutil.which("openssl")


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed; it makes the certificate of this test")
def test_the_authority_of_the_address_is_believed_and_no_other(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    asked = f"{OPENSSL} req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {cert} -subj /CN=127.0.0.1"
    subprocess.run([*asked.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving(tmp_path / "server") as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        dsn = f"https://127.0.0.1:{server.server_port}/city"
        with pytest.raises(StoreUnreachable, match="no ClickHouse server answers"):
            ClickHouseSink(dsn).migrate()
        with ClickHouseSink(f"{dsn}?ca_cert={cert}") as sink:
            sink.migrate()
            sink.write("readings", readings("L1", 1))
            assert sink.counts()["readings"] == 1
