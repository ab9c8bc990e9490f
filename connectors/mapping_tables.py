"""Tables of a mapping file: typed access to TOML values, with errors that name file, table and value."""

from __future__ import annotations

from collections.abc import Mapping as Table
from decimal import Decimal
from pathlib import Path
from typing import Any

from connectors.mapping import MappingError, refuse_unknown


def text(value: object, where: str) -> str:
    """A TOML scalar as the text that would stand in a file."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | Decimal():
            return str(value)
    raise MappingError(f"{where} is {value!r}; a text, a number, true or false is wanted")


class Tables:
    """Reads values of one mapping file; `where` is the table's name in errors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def table(self, value: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MappingError(f'{self.path}: {where} is {value!r}; a table is wanted, such as {{ column = "name" }}')
        refuse_unknown(f"{self.path}: {where}", "key", value, keys)
        return value

    def one_of(self, where: str, value: object, allowed: tuple[str, ...]) -> str:
        refuse_unknown(f"{self.path}: {where}", "value", [text(value, where)], allowed)
        return str(value)

    def strings(self, value: object, where: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise MappingError(f"{self.path}: {where} is {value!r}; a list of texts is wanted")
        return tuple(text(v, f"{self.path}: {where}") for v in value)

    def columns(self, table: Table[str, Any], where: str) -> tuple[str, ...]:
        if "column" in table and "columns" in table:
            raise MappingError(f'{self.path}: {where} has both "column" and "columns"')
        if "column" in table:
            return (text(table["column"], f"{self.path}: {where}: column"),)
        return self.strings(table["columns"], f"{where}: columns") if "columns" in table else ()
