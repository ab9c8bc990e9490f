"""A real MQTT 5 broker, HiveMQ Community Edition, on loopback: it comes as jars, so that every machine has one."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Final

from pipelines.engines.jars import jars
from pipelines.engines.java import java_home
from tools.stack.broker import free_port
from tools.stack.process import Process

CONFIG: Final = """\
<?xml version="1.0"?>
<hivemq>
  <listeners>
    <tcp-listener><port>{port}</port><bind-address>127.0.0.1</bind-address></tcp-listener>{tls}
  </listeners>
  <mqtt><queued-messages><max-queue-size>1000000</max-queue-size></queued-messages></mqtt>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
"""
TLS: Final = """
    <tls-tcp-listener>
      <port>{port}</port><bind-address>127.0.0.1</bind-address>
      <tls><keystore><path>{store}</path><password>{password}</password>
        <private-key-password>{password}</private-key-password></keystore></tls>
    </tls-tcp-listener>"""


class HiveMQ:
    """Started with `start`; killed, ended and started again on the same port and folder."""

    def __init__(
        self, folder: Path, port: int | None = None, *, open_: bool = True, tls: tuple[Path, str] | None = None
    ) -> None:
        """`open_`: whether anybody is let in; else nobody is. `tls`: a Java key store and its password; then there is a
        second listener, at `secured`."""
        self.port = port or free_port()
        self.address, self.secured = f"127.0.0.1:{self.port}", f"127.0.0.1:{(secured := free_port())}"
        self.process = Process("the MQTT broker", folder / "hivemq.log")
        self._open, self._home, self._gateway = open_, folder / "home", free_port()
        (self._home / "conf").mkdir(parents=True, exist_ok=True)
        second = TLS.format(port=secured, store=tls[0], password=tls[1]) if tls else ""
        (self._home / "conf" / "config.xml").write_text(CONFIG.format(port=self.port, tls=second))

    def start(self) -> None:
        """Returns when it takes connections."""
        from py4j.java_gateway import find_jar_path

        path = ":".join([*map(str, jars("hivemq")), find_jar_path()])
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dhivemq.home={self._home}"]
        java = str(java_home() / "bin" / "java")
        self.process.start([java, *options, "-cp", path, "py4j.GatewayServer", str(self._gateway)], self._began)
        self._run()

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.end(number)

    def _began(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self._gateway)) == 0

    def _run(self) -> None:
        """Without an extension, which would be Java, the broker lets nobody in; one setting in the process changes that."""
        from py4j.java_gateway import GatewayParameters, JavaGateway

        gateway = JavaGateway(gateway_parameters=GatewayParameters(port=self._gateway, read_timeout=60))
        try:
            hivemq = gateway.jvm.com.hivemq
            hivemq.configuration.service.InternalConfigurations.AUTH_DENY_UNAUTHENTICATED_CONNECTIONS.set(
                not self._open
            )
            hivemq.HiveMQServer().start()
        except BaseException:
            self.end()
            raise
        finally:
            gateway.shutdown()
