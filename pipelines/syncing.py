"""Putting things on the disk for good."""

from __future__ import annotations

import os
from pathlib import Path


def synced(path: Path) -> None:
    """Returns when a file, or the names in a folder (new, renamed, deleted), are durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
