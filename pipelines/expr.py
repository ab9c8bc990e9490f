"""The closed vocabulary that filters and measures use: eight node kinds over one event's integers and texts.

Every engine translates it (`match`, `assert_never`); a node that an engine has not learnt is a type error there.
Integers only: `+ - *`, and `//` of a non-negative by a positive (rule 14).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Col:
    name: str


@dataclass(frozen=True, slots=True)
class Const:
    value: int | str


@dataclass(frozen=True, slots=True)
class Arith:
    op: Literal["+", "-", "*", "//"]
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Compare:
    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class IsNull:
    of: Node


@dataclass(frozen=True, slots=True)
class And:
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Or:
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Not:
    of: Node


Node = Col | Const | Arith | Compare | IsNull | And | Or | Not


def columns(node: Node) -> frozenset[str]:
    """The columns that an expression reads."""
    match node:
        case Col(name):
            return frozenset((name,))
        case Const():
            return frozenset()
        case Arith(_, left, right) | Compare(_, left, right) | And(left, right) | Or(left, right):
            return columns(left) | columns(right)
        case IsNull(of) | Not(of):
            return columns(of)
