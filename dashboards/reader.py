"""What the API asks of the store: history of an indicator and of an episode, and episodes older than the alert book keeps."""

from __future__ import annotations

from typing import Protocol

import polars as pl


class Reader(Protocol):
    """Reads stored history. Called from server threads, at most two at a time; an error makes the request a 503.

    Every method returns newest revisions only and at most `limit` rows; times are Int64 UTC ms.
    """

    def history(self, indicator: str, place_kind: str, place: str, since: int, until: int, limit: int) -> pl.DataFrame:
        """READINGS_SCHEMA, windows that end in (since, until], the last `limit` of them, ascending by window_end."""
        ...

    def episode(self, episode_id: str) -> pl.DataFrame:
        """EPISODES_SCHEMA, one row or none."""
        ...

    def transitions(self, episode_id: str, limit: int) -> pl.DataFrame:
        """TRANSITIONS_SCHEMA, ascending by seq."""
        ...
