"""A seeded selection of the kills of `make crash`."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from tests.faults.crash import at_failpoints, at_random, every_failpoint, scene

SELECTED = 8
AT_RANDOM = 12


def test_a_selection_of_kills(tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    town = scene(tmp_path)
    calm = town.calm()
    at_failpoints(town, calm, random.Random(4).sample([*every_failpoint()], SELECTED), total)
    at_random(town, calm, AT_RANDOM, 4, total)
    print(f"\nkills: {dict(total)}")
    assert total["kills at failpoints"] >= SELECTED - 2 and total["kills at random"] >= AT_RANDOM - 2
