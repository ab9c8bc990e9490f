"""Users of the ClickHouse stand-in: passwords, rights by kind of statement, and read-only profiles.

An emulation of the few rules that the documented users rest on, as ClickHouse documents them: no right 497, a write or
a changed setting under readonly 164, a wrong password 516. Rights are read from CREATE USER and GRANT statements, so
the SQL of the documentation is what is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

FOR_ALL = frozenset(
    ("settings", "tables", "columns", "databases", "functions", "one", "numbers", "merge_tree_settings", "data_type_families")
)  # fmt: skip
"""Tables of `system` that every user may read; the others need a grant."""
KINDS = (
    (r"(SELECT|WITH|SHOW|DESCRIBE|DESC|EXISTS|EXPLAIN)\b", ("SELECT",)),
    (r"INSERT\b", ("INSERT",)),
    (r"CREATE\s+DATABASE\b", ("CREATE DATABASE",)),
    (r"CREATE\s+TABLE\b", ("CREATE TABLE",)),
    (r"ALTER\s+TABLE\b.*\bDROP\s+PARTITION\b", ("ALTER DELETE",)),
    (r"ALTER\s+TABLE\b", ("ALTER TABLE",)),
    (r"RENAME\b", ("SELECT", "DROP TABLE", "CREATE TABLE", "INSERT")),
    (r"DROP\s+TABLE\b", ("DROP TABLE",)),
)
COVERS = {
    "ALL": None,
    "CREATE": ("CREATE DATABASE", "CREATE TABLE"),
    "ALTER": ("ALTER TABLE", "ALTER DELETE"),
    "DROP": ("DROP TABLE",),
}


class Denied(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"Code: {code}. DB::Exception: {text}")


@dataclass
class User:
    password: str
    readonly: int = 0
    grants: list[tuple[str, str, str]] = field(default_factory=list)
    """(right, database or *, table or *)"""

    def has(self, right: str, database: str, table: str | None) -> bool:
        for name, where, what in self.grants:
            covered = COVERS.get(name, (name,))
            if (covered is None or right in covered) and where in ("*", database) and what in ("*", table or "*"):
                return True
        return False


def kind(statement: str) -> str:
    """SELECT, INSERT, or the first right that anything else needs."""
    return rights(statement)[0]


def rights(statement: str) -> tuple[str, ...]:
    text = re.sub(r"\A(\s|--[^\n]*\n)*", "", statement)
    for pattern, needed in KINDS:
        if re.match(pattern, text, re.I | re.S):
            return needed
    return (" ".join(text.split()[:2]).upper() or "NOTHING",)


def allow(users: dict[str, User], name: str, password: str) -> User | None:
    """The user who asks; None where the server has no users at all. Denied(516) otherwise."""
    if not users:
        return None
    user = users.get(name)
    if user is None or user.password != password:
        raise Denied(516, f"{name}: Authentication failed: password is incorrect, or there is no user with such name")
    return user


def refuse(user: User | None, name: str, statement: str, database: str, settings: Iterable[str]) -> None:
    """Denied when the user may not run that statement with these settings."""
    if user is None:
        return
    for right, where, table in _touched(statement, database):
        if where == "system" and table in FOR_ALL:
            continue
        if not user.has(right, where, table):
            grant = f"{right} ON {where}.{table or '*'}"
            raise Denied(497, f"{name}: Not enough privileges. To execute this query, it's necessary to have {grant}")
    if user.readonly and kind(statement) != "SELECT":
        raise Denied(164, f"{name}: Cannot execute query in readonly mode")
    changed = [*settings, *re.findall(r"\bSETTINGS\s+(\w+)\s*=", statement if kind(statement) == "SELECT" else "")]
    if user.readonly == 1 and changed:
        raise Denied(164, f"Cannot modify '{changed[0]}' setting in readonly mode")


def _touched(statement: str, database: str) -> list[tuple[str, str, str | None]]:
    """(right, database, table) of a statement; literals aside, every name after FROM, INTO, TABLE or TO."""
    text = re.sub(r"'(?:\\.|''|[^'])*'", "''", statement)
    needed = rights(statement)
    if needed[0] == "CREATE DATABASE":
        found = re.search(r"DATABASE\s+(?:IF\s+NOT\s+EXISTS\s+)?`?(\w+)`?", text, re.I)
        return [("CREATE DATABASE", found[1] if found else "*", None)]
    out: list[tuple[str, str, str | None]] = []
    name = r"(?:`?(\w+)`?\.)?`?(\w+)`?"
    if needed[0] in ("SELECT", "INSERT") and len(needed) == 1:
        into = re.match(rf"\s*INSERT\s+INTO\s+(?:TABLE\s+)?{name}", text, re.I)
        if into:
            out.append(("INSERT", into[1] or database, into[2]))
        for where, table in re.findall(rf"\bFROM\s+{name}(?!\w*\()", text, re.I):
            out.append(("SELECT", where or database, table))
        return out
    for where, table in re.findall(rf"\b(?:TABLE|TO)\s+(?:IF\s+NOT\s+EXISTS\s+)?{name}", text, re.I):
        out += [(right, where or database, table) for right in needed]
    return out or [(needed[0], "*", None)]


def users_of(statements: Iterable[str]) -> dict[str, User]:
    """The users that CREATE SETTINGS PROFILE, CREATE USER and GRANT statements make."""
    users: dict[str, User] = {}
    profiles: dict[str, int] = {}
    for text in statements:
        if found := re.match(r"CREATE\s+SETTINGS\s+PROFILE\s+(?:IF NOT EXISTS\s+)?(\w+)\s+SETTINGS\s+(.*)", text, re.S):
            level = re.search(r"\breadonly\s*=\s*(\d)", found[2])
            profiles[found[1]] = int(level[1]) if level else 0
        elif found := re.match(r"CREATE\s+USER\s+(?:IF NOT EXISTS\s+)?(\w+).*?\bBY\s+'([^']*)'(.*)", text, re.S):
            profile = re.search(r"SETTINGS\s+PROFILE\s+'?(\w+)", found[3])
            users[found[1]] = User(found[2], profiles[profile[1]] if profile else 0)
        elif found := re.match(r"GRANT\s+(.*?)\s+ON\s+(.*?)\s+TO\s+(\w+)\s*\Z", text, re.S):
            for right in found[1].split(","):
                where, _, table = found[2].strip().partition(".")
                users[found[3]].grants.append((" ".join(right.split()).upper(), where.strip("`"), table.strip("`")))
    return users
