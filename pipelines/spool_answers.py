"""What senders were told under their idempotency keys: bounded, the oldest go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pipelines.spool_segment import Answer
from pipelines.streams import DAY_MS

MAX_ANSWERS: Final = 100_000


class Answers:
    """The answers of one spool; calls come under its lock."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[int, int, Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        found = self._answers.get(key)
        return None if found is None else found[2]

    def add(self, answer: Answer, record: int, arrival: int) -> None:
        """`record` is the first of the batch, `arrival` in UTC ms; both grow from call to call."""
        self._answers[answer.key] = (record, arrival, answer)
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    def forget(self, start: int) -> None:
        """Drops those before record `start` that came a day or more before the newest."""
        newest = next(reversed(self._answers.values()), (0, 0))[1]
        while self._answers:
            record, arrival, _ = next(iter(self._answers.values()))
            if record >= start or arrival > newest - DAY_MS:
                return
            self._answers.popitem(last=False)
