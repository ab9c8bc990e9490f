"""Refuses a second start on the same data before anything heavy is imported."""

from __future__ import annotations

import tomllib
from pathlib import Path

import platformdirs

from sinks.lock import refuse_owned

SHIPPED = Path(__file__).resolve().parent.parent / "cities"


def refuse_second(city: str | None, data: Path | None, store: str | None) -> None:
    """StoreOwned when another process has the city's store open. What is wrong with the pack or the server is told
    later."""
    if store is not None and store.startswith(("http://", "https://")):
        from sinks.connection import Address
        from sinks.lease import refuse_leased

        refuse_leased(Address.of(store))
        return
    name = city or "demo"
    pack = Path(name) if Path(name).exists() else SHIPPED / name
    try:
        identity = str(tomllib.loads((pack / "city.toml").read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError):
        return
    refuse_owned((data or Path(platformdirs.user_data_dir("citybrain"))).absolute() / identity)
