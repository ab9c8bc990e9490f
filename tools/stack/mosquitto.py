"""A real MQTT broker, mosquitto, on loopback, where the machine has one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Final

from tools.stack.broker import free_port
from tools.stack.process import Process

# Without a limit of its own a broker drops what a subscriber that is away has not fetched: by default after 1,000 messages.
SETTINGS: Final = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
max_queued_messages 0
autosave_interval 1
log_dest stderr
"""


def binary() -> str | None:
    """The program, if it is installed (it is an administrator's program and often off the PATH)."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """Started with `start`; killed, ended and started again on the same port and folder."""

    def __init__(self, folder: Path, program: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = Process("mosquitto", folder / "mosquitto.log")
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        (folder / "mosquitto.conf").write_text(SETTINGS.format(port=self.port, folder=folder))

    def start(self) -> None:
        """Returns when it takes connections."""
        self.process.start(self._command, self._connects)

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.end(number)

    def _connects(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0
