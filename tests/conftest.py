"""Property tests: new examples at every run of a developer, the same ones at every run of CI. A run says whether a real
ClickHouse server took part."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.fakes.servers import told

settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"ClickHouse server: {told()}")
