"""A process of its own that subscribes into a spool until it is killed.

python -m tests.engines.subscribing ADDRESS FOLDER [--dies=N] [--at-once]

`--dies`: kills itself when it is about to store for the Nth time. `--at-once`: the broken way, which acknowledges what came
before it is stored.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from connectors.mqtt import Subscriber
from tests.engines.mqtt import spool, subscriber


def main() -> None:
    address, folder, *more = sys.argv[1:]
    dies = [int(a.removeprefix("--dies=")) for a in more if a.startswith("--dies=")]
    store, times = Subscriber._store, 0

    def counted(self: Subscriber) -> None:
        nonlocal times
        times += 1
        if times in dies:
            os.kill(os.getpid(), signal.SIGKILL)
        store(self)

    Subscriber._store = counted  # type: ignore[method-assign]
    one = subscriber(address, spool(Path(folder)))
    if "--at-once" in more:
        one._client.manual_ack_set(False)
    one.start()
    while True:
        one.check()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
