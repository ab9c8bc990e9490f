"""The options of a broker's address: which are known, the file that holds more of them, and secrets that no address may hold."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

FILES: Final = ("ca", "certificate", "key")
"""Options that name PEM files."""


class AddressError(ValueError):
    """An address or its options cannot be used; the text says which, what is allowed, and holds no secret."""


def refuse_unknown(
    given: Iterable[str], allowed: tuple[str, ...], where: str, told: tuple[str, ...], secret: Mapping[str, str]
) -> None:
    """`told`: the options that a message lists; `secret`: those that are secrets, and the variables that hold them."""
    for name in given:
        if name in secret and name not in allowed:
            raise AddressError(
                f"{name} in the address of {where} is seen by everybody who lists processes; put it into {secret[name]} or "
                "into a file, ?config=FILE"
            )
        if name not in allowed:
            near = difflib.get_close_matches(name, told, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise AddressError(f"{where}: unknown option {name!r}; there are {', '.join(told)}.{hint}")


def gathered(
    given: dict[str, str], who: str, where: str, allowed: tuple[str, ...], secret: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, str]:  # fmt: skip
    """All options: those `given` in an address, of the file that it names as `config`, and secrets of the environment.

    `who` stands before the @ of the address; it names the user. The address is nearer than the file, the file nearer than the
    environment.
    """
    if ":" in who:
        raise AddressError(
            f"a password in the address of {where} is seen by everybody who lists processes; put it into "
            f"{secret['password']} or into a file, ?config=FILE"
        )
    file = given.pop("config", None)
    refuse_unknown(given, allowed, where, (*allowed, "config"), secret)
    kept = config_file(Path(file), (*allowed, "user", *secret), secret) if file is not None else {}
    user = unquote(who)
    if user and kept.get("user", user) != user:
        raise AddressError(f"the address of {where} names user {user!r}, {file} another one; name one")
    secrets = {name: environment[variable] for name, variable in secret.items() if variable in environment}
    return {**secrets, **kept, **given, **({"user": user} if user else {})}


def config_file(path: Path, allowed: tuple[str, ...], secret: Mapping[str, str]) -> dict[str, str]:
    """The options that a TOML file holds: texts."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AddressError(f"config {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # What is wrong in it may be a secret.
        raise AddressError(f'config {str(path)!r} is no TOML; write lines such as user = "name"') from None
    refuse_unknown(values, allowed, str(path), allowed, secret)
    for name, value in values.items():
        if not isinstance(value, str):
            raise AddressError(f'{path}: {name} is no text; write {name} = "..."')
    return values


def check_files(values: Mapping[str, str], tls: bool, otherwise: str) -> None:
    """That the files are there, and used; `otherwise`: what to write where the connection is not encrypted."""
    for name in FILES:
        path = values.get(name)
        if path is not None and not tls:
            raise AddressError(f"{name} needs {otherwise}")
        if path is not None and not Path(path).is_file():
            raise AddressError(f"{name} {path!r} is no file; name a PEM file")
    if ("certificate" in values) != ("key" in values):
        raise AddressError("a client certificate needs both certificate=FILE and key=FILE")


def without_secrets(address: str) -> str:
    """An address without user, password and options."""
    return re.sub("//[^/]*@", "//", address).partition("?")[0]


def is_server(text: str) -> bool:
    """Whether it is HOST:PORT."""
    host, colon, port = text.rpartition(":")
    return bool(host and colon and port.isdecimal() and 0 < int(port) < 65536)
