"""Loops over bytes and integers that run as machine code and without the interpreter lock.

Only what has to look at every byte or every event one after the other is compiled; everything else is columns. The
code is compiled once per machine and kept beside the module, or in the user's cache folder where that is read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as machine code. It gets arrays, integers and booleans, allocates nothing, and may call functions
    like itself, which become part of it."""
    out: Function = njit(function, nogil=True, cache=True, forceinline=True, _nrt=False)  # type: ignore[call-overload]
    return out
