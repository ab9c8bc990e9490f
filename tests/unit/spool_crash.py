"""A process of its own that appends to a spool and says what was acknowledged; for the tests that kill it.

`python -m tests.unit.spool_crash FOLDER THREADS APPENDS [TRIM]`: each line is the number under which a batch was
acknowledged and the name that all its events carry. Then the spool is trimmed up to each TRIM records.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from pipelines.spool import Spool
from tests.unit.test_spool import batch


def main() -> None:
    folder, threads, appends = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    trim = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    spool = Spool(folder, "push:a:link", "link", segment_bytes=4096, max_bytes=1 << 20)

    def append(thread: int) -> None:
        for turn in range(appends):
            name = f"b{thread}-{turn}"
            first, _ = spool.append(batch(name, 3), 1000 + turn)
            os.write(1, f"{first} {name}\n".encode())

    running = [threading.Thread(target=append, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for position in range(trim, spool.end, trim) if trim else ():
        spool.trim(position)


if __name__ == "__main__":
    main()
