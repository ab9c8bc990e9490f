"""The browser of the tests: Chromium of this machine, or Debian's, which this installs where it may.

python -m tools.browser    makes sure that it is there
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PACKAGES: Final = ("chromium", "fonts-noto-cjk")


def chromium() -> str:
    """Its path; SystemExit, with what to do, where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"the browser tests need Chromium: apt-get install {' '.join(PACKAGES)}")
    return found


def ensured() -> None:
    if any(shutil.which(name) for name in NAMES) and _has_chinese():
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        if not any(shutil.which(name) for name in NAMES):
            chromium()
        return
    print(f"installing {' and '.join(PACKAGES)} from Debian's packages, for the browser tests (once)", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for what in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *what], env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"apt-get {what[0]} failed: {done.stderr.strip()[-500:]}; install {' '.join(PACKAGES)} yourself"
            )


def _has_chinese() -> bool:
    if shutil.which("fc-list") is None:
        return False
    said = subprocess.run(["fc-list", ":lang=zh-cn", "family"], capture_output=True, text=True)
    return bool(said.stdout.strip())


if __name__ == "__main__":
    ensured()
