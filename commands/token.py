"""`citybrain token`: makes, lists and removes the access tokens of a data folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from commands.inputs import city_of, made_folder
from connectors.tokens import Tokens


def tokens_of(data: Path | None, city: str) -> Tokens:
    """The tokens of the folder in which `citybrain up` keeps the store of that city."""
    folder = (data or Path(platformdirs.user_data_dir("citybrain"))).absolute() / city_of(city).id
    return Tokens(folder)


def add_text(name: str, scopes: Sequence[str], data: Path | None, city: str) -> str:
    """Makes a token; the secret, which is shown this once. Says on stderr where the token counts."""
    tokens = tokens_of(data, city)
    folder = tokens.path.parent
    new = "" if folder.exists() else " (a new folder)"
    secret = Tokens(made_folder(folder, "--data")).add(name, scopes)
    print(
        f"citybrain: the token is for {folder}{new}; `citybrain up` needs the same --data and --city", file=sys.stderr
    )
    return f"{secret}\n"


def list_text(data: Path | None, city: str) -> str:
    """Names and scopes, a token a line; never a secret."""
    return "".join(f"{t.name}\t{' '.join(t.scopes)}\n" for t in tokens_of(data, city).all())


def remove_text(name: str, data: Path | None, city: str) -> str:
    tokens_of(data, city).remove(name)
    return f"removed {name}\n"
