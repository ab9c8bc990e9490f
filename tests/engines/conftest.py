"""One broker for all tests of engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.stack.broker import Broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    one = Broker(tmp_path_factory.mktemp("broker"))
    one.start()
    yield one.address
    one.end()
