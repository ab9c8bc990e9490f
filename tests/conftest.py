"""Property tests: new examples at every run of a developer, the same ones at every run of CI. A run says whether a real
ClickHouse server took part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.servers import told

settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

LONG = ("conformance", "faults", "oracle")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tests first, for what one worker has left at the end nobody takes from it while it runs. Each worker
    begins with its share of the items in their order (worksteal), so each share begins with whole files of long tests."""
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    files: dict[Path, list[pytest.Item]] = {}
    short = []
    for item in items:
        if item.path.parent.name in LONG:
            files.setdefault(item.path, []).append(item)
        else:
            short.append(item)
    long, left = list(files.values()), len(items)
    items.clear()
    for nth in range(workers):
        share = left // (workers - nth)
        first = [item for file in long[nth::workers] for item in file]
        room = max(0, share - len(first))
        items += first + short[:room]
        del short[:room]
        left -= share
    items += short


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"ClickHouse server: {told()}")
