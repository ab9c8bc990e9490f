"""Flink's own programs, as the package apache-flink ships them: their command lines without its shell scripts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipelines.engines.java import java_home

LOGGING: Final = """\
rootLogger.level = {level}
rootLogger.appenderRef.out.ref = out
appender.out.name = out
appender.out.type = Console
appender.out.target = SYSTEM_ERR
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{{ISO8601}} %-5p %c{{1}} %m%n
"""


class NoFlink(RuntimeError):
    """Flink is not installed; the text says what to do."""


def flink_home() -> Path:
    """The folder that Flink calls FLINK_HOME."""
    found = importlib.util.find_spec("pyflink")
    if found is None or found.origin is None:
        raise NoFlink(
            "Flink is not installed in this environment; pip install 'citybrain[flink]' -c constraints-engines.txt "
            "(Python 3.11 or 3.12)"
        )
    return Path(found.origin).parent


def plugin(name: str) -> list[Path]:
    """The jars of one of its plugins, which a cluster finds by itself and a job in another program's Java does not."""
    found = sorted((flink_home() / "plugins" / name).glob("*.jar"))
    if not found:
        raise NoFlink(f"{flink_home() / 'plugins'} has no plugin {name!r}; install apache-flink 2.3 anew")
    return found


def configure(folder: Path, settings: Mapping[str, object], level: str = "INFO") -> None:
    """Makes `folder` a FLINK_CONF_DIR: `settings`, and a log on stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{name}: {json.dumps(str(value))}\n" for name, value in settings.items())
    (folder / "config.yaml").write_text("".join(lines))
    (folder / "log4j2.properties").write_text(LOGGING.format(level=level))


def command(folder: Path, main: str, *arguments: str, heap_mb: int, options: tuple[str, ...] = ()) -> list[str]:
    """A Java process that runs the class `main` of Flink with the configuration in `folder`."""
    home = flink_home()
    return [
        str(java_home() / "bin" / "java"), f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", *options, *_opened(home),
        f"-Dlog4j.configurationFile={(folder / 'log4j2.properties').as_uri()}", "-cp", str(home / "lib" / "*"), main, *arguments,
    ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """What such a process finds Flink's parts by."""
    home = flink_home()
    places = {f"FLINK_{part.upper()}_DIR": str(home / part) for part in ("lib", "opt", "plugins", "bin")}
    return os.environ | places | {"FLINK_HOME": str(home), "FLINK_CONF_DIR": str(folder), "JAVA_HOME": str(java_home())}


def _opened(home: Path) -> list[str]:
    """The flags that a Java of today needs, from Flink's own configuration."""
    found = re.search(r"^\s+all: (--add.*)$", (home / "conf" / "config.yaml").read_text(), re.M)
    if found is None:
        raise NoFlink(f"{home / 'conf' / 'config.yaml'} has no env.java.opts.all; install apache-flink 2.3 anew")
    return found[1].split()
