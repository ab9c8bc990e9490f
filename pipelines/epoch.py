"""The epoch of a store's folder: which of two writings of a row is the newer one, whoever wrote first (rule 33)."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.syncing import synced


class DamagedEpoch(ValueError):
    """The file that holds a store's epoch is not readable as one."""


def next_epoch(folder: Path) -> int:
    """Raises the epoch of a store's folder and makes it durable before it is used.

    DamagedEpoch when the file holds no number: a guess might repeat an epoch, and old revisions would win.
    """
    path = folder / "epoch"
    try:
        epoch = int(path.read_text()) + 1
    except FileNotFoundError:
        epoch = 1
    except ValueError:
        raise DamagedEpoch(
            f"{path} holds {path.read_bytes()[:80]!r}, not a number; write one into it that is larger than every epoch "
            "used so far (each start of citybrain uses the next one, from 1)"
        ) from None
    draft = folder / "epoch.new"
    with draft.open("w") as file:
        file.write(str(epoch))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    synced(folder)
    return epoch
