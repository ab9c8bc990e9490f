"""Jars by their Maven coordinates (`locks/NAME.toml`), fetched once by jgo, checked against `locks/NAME.sha256` at every use.

python -m pipelines.engines.jars --lock      writes the checksums anew, after a version was changed
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import platformdirs

FOLDER: Final = Path(__file__).parent / "locks"
NAMES: Final = tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))


class JarError(RuntimeError):
    """Jars could not be fetched, or are not those that were locked."""


def jars(name: str) -> list[Path]:
    """The jars of a set, fetched if they are not there; JarError when one is missing or another than the locked one."""
    lines = (line.split("  ", 1) for line in (FOLDER / f"{name}.sha256").read_text().splitlines())
    locked = {file: checksum for checksum, file in lines}
    found = _there(name)
    if {p.name for p in found} != set(locked):
        found = fetched(name)
    wrong = sorted({p.name for p in found} ^ set(locked)) or [p.name for p in found if _sha256(p) != locked[p.name]]
    if wrong:
        raise JarError(
            f"the jars of {name} in {_cache(name)} are not those of {FOLDER.name}/{name}.sha256: {', '.join(wrong[:5])}; "
            "remove that folder and try again"
        )
    return found


def fetched(name: str) -> list[Path]:
    """Has jgo resolve and link them."""
    room = _cache(name)
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    shutil.copy(FOLDER / f"{name}.toml", room / "jgo.toml")
    command = [sys.executable, "-m", "jgo", "--resolver", "python", "--system-java", "sync"]
    done = subprocess.run(
        command, cwd=room, env=os.environ | {"JGO_CACHE_DIR": str(room / "linked")}, capture_output=True, text=True
    )
    if done.returncode or not _there(name):
        raise JarError(f"the jars of {name} could not be fetched: {(done.stderr or done.stdout).strip()[-500:]}")
    return _there(name)


def _cache(name: str) -> Path:
    return Path(platformdirs.user_cache_dir("citybrain")) / "jars" / name


def _there(name: str) -> list[Path]:
    return sorted((_cache(name) / "linked").rglob("*.jar"), key=lambda p: p.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    for name in NAMES:
        found = fetched(name)
        if "--lock" in sys.argv:
            lines = (f"{_sha256(p)}  {p.name}\n" for p in found)
            (FOLDER / f"{name}.sha256").write_text("".join(lines))
        print(f"{name}: {len(jars(name))} jars, {sum(p.stat().st_size for p in found) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
